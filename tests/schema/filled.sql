-- 200,000 rows in every table that has an index of ours, as a fleet leaves them: nearly all tasks done, nearly all
-- messages processed, few sessions expired. Triggers and foreign keys are off; CHECKs and generated columns are not.
SET session_replication_role = replica;
SET work_mem = '64MB';

-- the n-th of ids that are spread evenly over yesterday and today until now
CREATE FUNCTION pg_temp.moment(n int) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT now() - (200000 - n) * (now() - date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
                                 + interval '1 day') / 200001
$$;
-- an id of that moment: `prefix` has its time. One expression, so that it is inlined
CREATE FUNCTION pg_temp.id(prefix text, kind text, n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
  SELECT (prefix || substr(md5(kind || n), 1, 3) || '-8' || substr(md5(kind || n), 4, 3) || '-'
          || substr(md5(kind || n), 7, 12))::uuid
$$;
CREATE TEMP TABLE moments AS SELECT n, at, left(partitions.uuid7_floor(at)::text, 14) || '7' AS p
FROM (SELECT n, pg_temp.moment(n) AS at FROM generate_series(1, 200000) n) x;
CREATE TEMP TABLE numbers AS SELECT n, at, p, pg_temp.id(p, 'agent', n) AS agent_id, pg_temp.id(p, 'task', n) AS task_id,
  pg_temp.id(p, 'message', n) AS message_id, pg_temp.id(p, 'fact', n) AS fact_id FROM moments;
ALTER TABLE numbers ADD earlier_agent uuid, ADD earlier_task uuid, ADD earlier_fact uuid;
UPDATE numbers n SET earlier_agent = e.agent_id, earlier_task = e.task_id, earlier_fact = e.fact_id
FROM numbers e WHERE e.n = greatest(n.n - 7, 1) AND n.n > 1;
ANALYZE numbers;

INSERT INTO agents.registry (agent_id, agent_type, agent_name, status, capabilities, parent_agent_id, liveness,
                             created_at, last_heartbeat)
SELECT agent_id,
       CASE WHEN n % 1000 = 0 THEN 'celery-worker' WHEN n % 50 = 1 THEN 'planner' ELSE 'reader-' || n % 40 END, 'agent ' || n,
       (CASE WHEN n % 10 = 0 AND n % 1000 <> 0 THEN 'terminated' WHEN n % 50 = 3 THEN 'error' ELSE 'active' END)::agent_status_type,
       jsonb_build_object('tool', 'tool-' || n % 2000), CASE WHEN n % 10 = 6 THEN earlier_agent END,
       CASE WHEN n % 500 = 7 THEN 'lost' ELSE 'alive' END, at, greatest(at, now() - n % 90 * interval '1 second')
FROM numbers;
INSERT INTO agents.heartbeats (agent_id, last_heartbeat)
SELECT agent_id, now() - n % 90 * interval '1 second' FROM numbers;
INSERT INTO agents.state (agent_id, state_key, state_value, created_at, expires_at)
SELECT a.agent_id, 'key ' || k, jsonb_build_object('step', n.n, 'text', md5(n.n::text)), n.at,
       CASE WHEN n.n % 50 = 0 THEN n.at + interval '1 second' WHEN n.n % 20 = 1 THEN now() + interval '1 day' END
FROM numbers n CROSS JOIN LATERAL (SELECT n.n % 4 AS k, (n.n - 1) / 4 + 1 AS owner) o JOIN numbers a ON a.n = o.owner;
INSERT INTO agents.checkpoints (checkpoint_id, agent_id, checkpoint_name, state_snapshot, created_at)
SELECT pg_temp.id(n.p, 'checkpoint', n.n), a.agent_id, CASE WHEN n.n % 2 = 0 THEN 'before upgrade ' || n.n % 5000 END, '{}', n.at
FROM numbers n JOIN numbers a ON a.n = n.n % 2000 + 1;
INSERT INTO agents.lifecycle_events (event_id, agent_id, event_type, previous_status, new_status, triggered_by)
SELECT pg_temp.id(p, 'event', n), agent_id, CASE WHEN n % 500 = 0 THEN 'error' WHEN n % 2 = 0 THEN 'active' ELSE 'idle' END,
       CASE WHEN n % 2 = 0 THEN 'idle' ELSE 'active' END::agent_status_type,
       CASE WHEN n % 500 = 0 THEN 'error' WHEN n % 2 = 0 THEN 'active' ELSE 'idle' END::agent_status_type,
       CASE WHEN n % 10 = 0 THEN earlier_agent END
FROM numbers;
INSERT INTO agents.state_history (history_id, agent_id, state_key, state_value, version, kv_revision)
SELECT pg_temp.id(n.p, 'history', n.n), a.agent_id, 'key ' || n.n % 4, jsonb_build_object('step', n.n), n.n / 2000 + 1, n.n
FROM numbers n JOIN numbers a ON a.n = n.n % 2000 + 1;

SELECT partitions.create_task_type_partition('type ' || t) FROM generate_series(0, 9) t;
INSERT INTO tasks.types (task_type, partition_name)
SELECT 'type ' || t, partitions.create_task_type_partition('type ' || t) FROM generate_series(0, 9) t;
INSERT INTO tasks.identity SELECT task_id, 'type ' || n % 10 FROM numbers;
INSERT INTO tasks.queue (task_id, task_type, task_name, payload, status, priority, created_at, started_at, completed_at,
                         scheduled_at, expires_at, attempt, worker, lease_until, assigned_agent_id, created_by_agent_id,
                         parent_task_id, concurrency_key)
SELECT task_id, 'type ' || n % 10, 'task ' || n, jsonb_build_object('order', n, 'text', md5(n::text)), status::task_status_type,
       (ARRAY['low', 'normal', 'normal', 'high', 'urgent'])[n % 5 + 1]::task_priority_type, at,
       CASE WHEN status IN ('running', 'completed', 'failed') THEN at END,
       CASE WHEN status IN ('completed', 'failed') THEN at END,
       CASE WHEN status = 'pending' THEN at + interval '2 minutes' END,
       CASE WHEN n % 3 = 0 THEN at + interval '1 day' END,
       1, CASE WHEN status = 'running' THEN worker END,
       CASE WHEN status = 'running' THEN now() + (n % 3 - 1) * interval '1 minute' END,
       CASE WHEN n % 40 = 3 THEN earlier_agent END, CASE WHEN n % 2 = 0 THEN earlier_agent END, CASE WHEN n % 4 = 0 THEN earlier_task END,
       CASE WHEN n % 10 = 7 THEN 'customer ' || n / 50 % 100 END
FROM (SELECT *, (SELECT agent_id FROM numbers WHERE n = 1000) AS worker,
             CASE WHEN n % 300 = 1 THEN 'running' WHEN n % 50 IN (3, 47) THEN 'queued' WHEN n % 50 = 4 THEN 'pending'
                  WHEN n % 100 = 5 THEN 'failed' ELSE 'completed' END AS status FROM numbers) x;
INSERT INTO tasks.dependencies (dependency_id, task_id, depends_on_task_id, released_at)
SELECT pg_temp.id(p, 'dependency', n), task_id, COALESCE(earlier_task, pg_temp.id(p, 'task', 0)), CASE WHEN n % 50 <> 4 THEN at END
FROM numbers;
INSERT INTO tasks.limits (scope, name, fair_keys, rate_limit, rate_seconds) VALUES ('type', 'type 7', true, 100, 60);
INSERT INTO tasks.starts (start_id, limit_id, started_at, number)
SELECT pg_temp.id(n.p, 'start', n.n), CASE WHEN n.n % 200 = 0 THEN l.limit_id ELSE pg_temp.id('01800000-0000-7', 'limit', n.n % 199) END, n.at, 1
FROM numbers n, tasks.limits l;
INSERT INTO tasks.unique_keys
SELECT 'key ' || n, task_id, CASE WHEN n % 1000 = 0 THEN now() - interval '1 hour' END FROM numbers;
INSERT INTO tasks.resource_holders SELECT 'resource ' || n, task_id FROM numbers;
INSERT INTO tasks.resource_waiters
SELECT task_id, 'type ' || n % 10, CASE n WHEN 1 THEN 'free' ELSE 'resource ' || n END, 'normal' FROM numbers;
INSERT INTO tasks.executions (execution_id, task_id, agent_id, execution_attempt, started_at, completed_at, status, result)
SELECT pg_temp.id(n.p, 'execution', n.n), n.task_id, w.agent_id, 1, n.at, CASE WHEN n.n % 300 <> 1 THEN n.at END,
       (CASE WHEN n.n % 300 <> 1 THEN 'completed' ELSE 'running' END)::task_status_type, CASE WHEN n.n % 300 <> 1 THEN '{}'::jsonb END
FROM numbers n JOIN numbers w ON w.n = (n.n % 200 + 1) * 1000;

INSERT INTO messages.channels (channel_id, channel_name, channel_type)
SELECT pg_temp.id('01800000-0000-7', 'channel', n), 'channel ' || n, CASE WHEN n % 4 = 0 THEN 'queue' ELSE 'topic' END
FROM generate_series(1, 200) n;
INSERT INTO messages.subscriptions (subscription_id, agent_id, channel_id, message_pattern)
SELECT pg_temp.id(p, 'subscription', n), agent_id, pg_temp.id('01800000-0000-7', 'channel', n % 200 + 1), CASE WHEN n % 3 = 0 THEN 'orders.*' END
FROM numbers;
INSERT INTO messages.log (message_id, channel_id, from_agent_id, to_agent_id, message_type, subject, payload, correlation_id,
                          sent_at, delivered_at)
SELECT m.message_id, CASE WHEN m.n % 4 = 0 THEN pg_temp.id('01800000-0000-7', 'channel', m.n % 200 + 1) END, s.agent_id,
       CASE WHEN m.n % 4 <> 0 THEN r.agent_id END,
       (ARRAY['command', 'notification', 'query', 'response'])[m.n % 4 + 1]::message_type, 'orders.' || m.n,
       jsonb_build_object('order', m.n, 'text', md5(m.n::text)), CASE WHEN m.n % 4 > 1 THEN pg_temp.id('01800000-0000-7', 'correlation', m.n / 4) END,
       m.at, CASE WHEN m.n % 100 <> 1 THEN m.at END
FROM numbers m JOIN numbers s ON s.n = m.n % 2000 + 1 JOIN numbers r ON r.n = (m.n * 7) % 2000 + 1;
INSERT INTO messages.deliveries (delivery_id, message_id, agent_id, queue_id, state, priority, attempts, next_at, expires_at,
                                 error, delivered_at, processed_at)
SELECT pg_temp.id(m.p, 'delivery', m.n), m.message_id,
       CASE WHEN queue IS NULL OR state IN ('processed', 'delivered') THEN r.agent_id END, queue, state, m.n % 3,
       CASE state WHEN 'pending' THEN 0 WHEN 'delivered' THEN 5 ELSE 1 END,
       CASE WHEN state IN ('pending', 'delivered') THEN m.at END, m.at + CASE WHEN m.n % 40 = 0 THEN interval '1 minute' ELSE '7 days' END,
       CASE WHEN state = 'failed' THEN 'no' END, CASE WHEN state IN ('processed', 'delivered') THEN m.at END,
       CASE WHEN state = 'processed' THEN m.at END
FROM (SELECT *, CASE WHEN n % 5 = 0 THEN pg_temp.id('01800000-0000-7', 'channel', n % 50 * 4 + 4) END AS queue,
             CASE WHEN n % 100 = 1 THEN 'failed' WHEN n % 20 IN (0, 2, 14) THEN 'pending' WHEN n % 200 = 4 THEN 'delivered' ELSE 'processed' END AS state
      FROM numbers) m JOIN numbers r ON r.n = (m.n * 7) % 2000 + 1;

INSERT INTO sessions.active (session_id, token_digest, agent_id, user_id, created_at, expires_at)
SELECT sessions.token_id(digest), digest, CASE WHEN n % 2 = 0 THEN agent_id END, CASE WHEN n % 2 = 1 THEN 'user ' || n % 20000 END,
       at, CASE WHEN n % 50 = 0 THEN at + interval '1 second' ELSE now() + n % 1000 * interval '1 minute' END
FROM (SELECT *, sha256(int4send(n)) AS digest FROM numbers) x;

INSERT INTO knowledge.facts (fact_id, entity_type, entity_id, predicate, object_value, object_type, is_multivalued,
                             source_agent_id, created_at, valid_from, valid_until, superseded_by, retracted_at)
SELECT fact_id, (ARRAY['function', 'class', 'module'])[n % 3 + 1], 'entity ' || n / 5, 'says ' || n % 5,
       jsonb_build_object('text_content', 'words of number' || n || ' and number' || n % 997), 'text', n % 7 = 0,
       CASE WHEN n % 2 = 0 THEN earlier_agent END, at, at, CASE WHEN n % 25 = 0 THEN at + interval '1 minute' END,
       CASE WHEN n % 25 = 0 THEN earlier_fact END, CASE WHEN n % 400 = 1 THEN at + interval '2 minutes' END
FROM numbers;
SELECT knowledge.create_model_partition('small', 3);
INSERT INTO knowledge.models (model_name, model_version, dimensions, provider, state) VALUES ('small', '1', 3, 'local', 'active');
INSERT INTO knowledge.embeddings (embedding_id, fact_id, embedding_model, embedding_version, embedding_vector, text_content)
SELECT pg_temp.id(p, 'embedding', n), fact_id, 'small', '1', format('[%s,%s,1]', n % 7, n % 11)::halfvec, 'sentence ' || n
FROM numbers WHERE n <= 199000
UNION ALL
SELECT pg_temp.id(p, 'other', n), fact_id, 'small', '0', '[1,1,1]'::halfvec, 'sentence ' || n FROM numbers WHERE n <= 1000;
RESET session_replication_role;
