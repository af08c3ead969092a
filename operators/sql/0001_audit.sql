-- Who did what, to what, why. Rows are only added; the one later change is the seal, a chain of SHA-256 digests: each
-- seal is made of the one before it and of its own row, so that a changed or missing row breaks all that follow. Sealing is
-- a job of its own, because a chain built while inserting would make everybody wait for the longest open transaction.
CREATE TABLE operators.audit (
  entry_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL,
  via text NOT NULL,
  address inet,
  action text NOT NULL,
  objects text[] NOT NULL DEFAULT '{}',
  object_count bigint NOT NULL DEFAULT 1,
  reason text NOT NULL DEFAULT '',
  details jsonb NOT NULL DEFAULT '{}',
  seal_number bigint,
  seal bytea,
  CONSTRAINT named_actor CHECK (actor <> ''),
  CONSTRAINT valid_via CHECK (via IN ('admin', 'command', 'job', 'api')),
  CONSTRAINT valid_action CHECK (action ~ '^[a-z_]+[.][a-z_]+$'),
  CONSTRAINT valid_object_count CHECK (object_count >= 0),
  CONSTRAINT whole_seal CHECK ((seal_number IS NULL) = (seal IS NULL) AND octet_length(seal) = 32),
  CONSTRAINT one_seal UNIQUE (seal_number)
);
-- the entries of an action, of an actor, newest first
CREATE INDEX idx_operators_audit_action ON operators.audit (action, entry_id);
CREATE INDEX idx_operators_audit_actor ON operators.audit (actor, entry_id);
-- what happened to one object
CREATE INDEX idx_operators_audit_objects ON operators.audit USING gin (objects);
-- the sealing job
CREATE INDEX idx_operators_audit_unsealed ON operators.audit (entry_id) WHERE seal IS NULL;

CREATE FUNCTION operators.keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND OLD.seal IS NULL AND NEW.seal IS NOT NULL
     AND to_jsonb(OLD) - 'seal' - 'seal_number' = to_jsonb(NEW) - 'seal' - 'seal_number' THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'operators.audit is append-only: % refused', TG_OP
    USING ERRCODE = 'restrict_violation', HINT = 'add an entry that corrects the wrong one';
END $$;
CREATE TRIGGER keep_audit BEFORE UPDATE OR DELETE ON operators.audit
  FOR EACH ROW EXECUTE FUNCTION operators.keep_audit();
CREATE TRIGGER keep_audit_whole BEFORE TRUNCATE ON operators.audit
  FOR EACH STATEMENT EXECUTE FUNCTION operators.keep_audit();

-- The text that is sealed says the same in any time zone and datestyle.
CREATE FUNCTION operators.seal_of(previous bytea, entry operators.audit) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
  SELECT sha256(previous || convert_to(jsonb_build_array(
    entry.seal_number, entry.entry_id, extract(epoch FROM entry.recorded_at), entry.actor, entry.via, host(entry.address),
    entry.action, entry.objects, entry.object_count, entry.reason, entry.details)::text, 'UTF8'))
$$;

-- Seals up to max_rows entries in the order of their ids; returns how many. An entry that commits after a higher id was
-- sealed is sealed later: the order of the chain is that of sealing. One runner at a time; a second one returns 0.
CREATE FUNCTION operators.seal_audit(max_rows integer DEFAULT 10000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  head operators.audit;
  entry operators.audit;
  sealed integer := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('operators.audit'), hashtext('seal')) THEN
    RETURN 0;
  END IF;
  SELECT * INTO head FROM operators.audit WHERE seal_number IS NOT NULL ORDER BY seal_number DESC LIMIT 1;
  FOR entry IN SELECT * FROM operators.audit WHERE seal IS NULL ORDER BY entry_id LIMIT max_rows LOOP
    entry.seal_number := COALESCE(head.seal_number, 0) + 1;
    entry.seal := operators.seal_of(COALESCE(head.seal, ''), entry);
    UPDATE operators.audit SET seal_number = entry.seal_number, seal = entry.seal WHERE entry_id = entry.entry_id;
    head := entry;
    sealed := sealed + 1;
  END LOOP;
  RETURN sealed;
END $$;

-- Returns a row for each break of the chain; none when it is whole.
CREATE FUNCTION operators.verify_audit() RETURNS TABLE (seal_number bigint, entry_id bigint, problem text)
LANGUAGE plpgsql STABLE AS $$
DECLARE
  entry operators.audit;
  previous bytea := '';
  expected bigint := 1;
BEGIN
  FOR entry IN SELECT * FROM operators.audit a WHERE a.seal_number IS NOT NULL ORDER BY a.seal_number LOOP
    IF entry.seal_number <> expected THEN
      RETURN QUERY SELECT expected, NULL::bigint, format('%s entries are missing', entry.seal_number - expected);
    ELSIF entry.seal <> operators.seal_of(previous, entry) THEN
      RETURN QUERY SELECT entry.seal_number, entry.entry_id, 'changed after it was sealed'::text;
    END IF;
    previous := entry.seal;
    expected := entry.seal_number + 1;
  END LOOP;
END $$;
