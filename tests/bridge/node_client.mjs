// What an agent in Node.js does: reads what Python wrote, writes, counts with compare-and-set, deletes, meets the fence.
// node node_client.mjs <folder of node_modules> <NATS_URL> <agent_id>; prints one line of JSON.
import { createRequire } from "node:module";

const [folder, url, agent] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const { connect, headers } = require("@nats-io/transport-node");
const { Kvm } = require("@nats-io/kv");
const { jetstream } = require("@nats-io/jetstream");

const { username, password, host } = new URL(url);
const nc = await connect({ servers: host, user: username, pass: password });
const kv = await new Kvm(nc).open("AGENT_STATE");
const key = (name) => `${agent}.${name}`;
const said = {};

const entry = await kv.get(key("from=20python"));
said.read = entry.json();
said.revision = entry.revision;
await kv.put(key("from.node"), JSON.stringify({ text: "grüß", list: [1, null] }));

let count = await kv.get(key("count"));
await kv.update(key("count"), JSON.stringify(count.json() + 1), count.revision);
try {
  await kv.update(key("count"), "99", count.revision);
  said.stale = "stored";
} catch (error) {
  said.stale = error.code ?? error.message;
}
await kv.delete(key("gone"));

// fenced: only while the key that holds the epoch is what it was
const subject = (name) => `$KV.AGENT_STATE.${key(name)}`;
const write = async (revision) => {
  const h = headers();
  h.set("Agent-Epoch", "1");
  h.set("Nats-Expected-Last-Subject-Sequence", String(revision));
  h.set("Nats-Expected-Last-Subject-Sequence-Subject", subject("=epoch"));
  return await jetstream(nc).publish(subject("fenced"), JSON.stringify("node"), { headers: h });
};
await write(0);
await kv.put(key("ready"), "true");
while (!(await kv.get(key("=epoch")))) await new Promise((resolve) => setTimeout(resolve, 20));
try {
  await write(0);
  said.fenced = "stored";
} catch (error) {
  said.fenced = error.code ?? error.message;
}
console.log(JSON.stringify(said));
await nc.drain();
