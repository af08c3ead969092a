// An agent in Node.js that works on tasks over NATS: it claims, renews its leases, reports, ends.
//
//     npm install @nats-io/transport-node
//     NATS_URL=nats://... AGENT_ID=... SESSION_TOKEN=... node examples/agent_nats.mjs fetch
//
// The token is that of `manage.py sessions open --agent $AGENT_ID --type api --permissions '{"tasks": ["fetch"]}'`.
import { setTimeout as sleep } from "node:timers/promises";
import { connect, headers } from "@nats-io/transport-node";

const WAIT_SECONDS = 20;
const HEARTBEAT_SECONDS = Number(process.env.HEARTBEAT_SECONDS ?? 10); // at most a third of the lease's time

/** The control plane said no; `code`, `hint` and `retry` are its own words. */
class Refused extends Error {
  constructor({ message, ...told }) {
    super(message);
    Object.assign(this, told);
  }
}

class Agent {
  constructor(client, agentId, token) {
    this.client = client;
    this.agentId = agentId;
    this.headers = headers();
    this.headers.set("Session-Token", token);
    this.inHand = new Map(); // task_id: { mine: its fence, stop: what ends its work when the lease is lost }
  }

  async ask(call, asked = {}, timeoutSeconds = 5) {
    const subject = `smith.v1.agent.${this.agentId}.tasks.${call}`;
    const options = { timeout: timeoutSeconds * 1000, headers: this.headers };
    const answer = (await this.client.request(subject, JSON.stringify(asked), options)).json();
    if (!answer.ok) throw new Refused(answer.error);
    return answer;
  }

  /** Does tasks for ever, or until `number` of them have ended. What an earlier process had in hand comes first. */
  async run(taskType, number = Infinity) {
    const ended = new AbortController();
    const beating = this.beat(ended.signal);
    try {
      let todo = (await this.ask("held")).tasks;
      while (number > 0) {
        if (todo.length === 0) {
          const asked = { task_type: taskType, limit: 1, wait_seconds: WAIT_SECONDS };
          todo = (await this.ask("claim", asked, WAIT_SECONDS + 5)).tasks;
        }
        for (const task of todo) {
          await this.do(task);
          number -= 1;
        }
        todo = [];
      }
    } finally {
      ended.abort();
      await beating;
    }
  }

  /** Works on a task and says what came of it. */
  async do(task) {
    const mine = { task_id: task.task_id, attempt: task.attempt };
    const stop = new AbortController();
    this.inHand.set(task.task_id, { mine, stop });
    try {
      const result = await this.work(task, mine, stop.signal);
      const ended = await this.ask("complete", { ...mine, result });
      console.log(task.task_id, ended.is_stored ? "stored" : `too late: ${ended.status}`);
    } catch (error) {
      if (error instanceof Refused) throw error;
      const ended = await this.ask("fail", { ...mine, message: `${error.name}: ${error.message}` });
      console.log(task.task_id, `failed, now ${ended.status}`);
    } finally {
      this.inHand.delete(task.task_id);
    }
  }

  /** The work itself. `signal` is aborted when the task is no longer ours: cancelled, or its lease taken over. */
  async work(task, mine, signal) {
    await this.ask("progress", { ...mine, percent: 50, note: "half" });
    if (task.payload.seconds) await sleep(task.payload.seconds * 1000, undefined, { signal });
    if (task.payload.error) throw new RangeError(task.payload.error);
    return { echo: task.payload };
  }

  /** Renews the leases; a lease that nobody renews ends after `lease_seconds`, and the task is tried again. */
  async beat(ended) {
    while (!ended.aborted) {
      await sleep(HEARTBEAT_SECONDS * 1000, undefined, { signal: ended }).catch(() => {});
      if (this.inHand.size === 0) continue;
      try {
        const tasks = [...this.inHand.values()].map(({ mine }) => mine);
        for (const { task_id } of (await this.ask("heartbeat", { tasks })).lost) this.inHand.get(task_id)?.stop.abort();
      } catch (error) {
        console.error(`not renewed, tried again: ${error.message}`); // an outage: the lease outlives two of these
      }
    }
  }
}

const [taskType, number] = process.argv.slice(2);
const { NATS_URL, AGENT_ID, SESSION_TOKEN } = process.env;
const { username, password, host } = new URL(NATS_URL);
const client = await connect({
  servers: host,
  user: decodeURIComponent(username),
  pass: decodeURIComponent(password),
  inboxPrefix: `_INBOX_${AGENT_ID}`, // each agent has inboxes of its own: the server lets it listen nowhere else
});
await new Agent(client, AGENT_ID, SESSION_TOKEN).run(taskType, number ? Number(number) : Infinity);
await client.drain();
