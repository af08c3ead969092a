-- What each process does with its connections: it says so itself every few seconds, from wherever it runs. A row that was not
-- renewed for a minute is of a process that has ended or has no way to the server.
CREATE TABLE monitoring.process_pools (
  pool_id uuid PRIMARY KEY,  -- of this process: made when it opens the pool
  process text NOT NULL,
  host text NOT NULL,
  pid integer NOT NULL,
  pool text NOT NULL,
  maximum integer,
  connections integer NOT NULL,
  idle integer NOT NULL,
  waiting integer NOT NULL,
  requests bigint NOT NULL,
  waited_seconds double precision NOT NULL,
  refused bigint NOT NULL,
  lost bigint NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  seen_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON COLUMN monitoring.process_pools.maximum IS 'NULL: the process has no pool and keeps the sessions it needs';
COMMENT ON COLUMN monitoring.process_pools.requests IS 'for a connection, since the process began; so are waited_seconds, refused and lost';
