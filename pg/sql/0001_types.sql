-- Guide 9.1, as corrected. NULL-ability belongs to the column, never to the domain: a domain that refuses NULL makes
-- every nullable reference unusable. The domains refuse the nil UUID, which is what an unset id looks like in some
-- clients.
CREATE DOMAIN agent_id_type AS uuid
  CONSTRAINT agent_id_is_set CHECK (VALUE <> '00000000-0000-0000-0000-000000000000');
CREATE DOMAIN task_id_type AS uuid
  CONSTRAINT task_id_is_set CHECK (VALUE <> '00000000-0000-0000-0000-000000000000');
CREATE DOMAIN message_id_type AS uuid
  CONSTRAINT message_id_is_set CHECK (VALUE <> '00000000-0000-0000-0000-000000000000');

CREATE TYPE agent_status_type AS ENUM ('initializing', 'active', 'idle', 'suspended', 'terminated', 'error');
CREATE TYPE task_status_type AS ENUM ('pending', 'queued', 'running', 'paused', 'completed', 'failed', 'cancelled');
-- ascending, so ORDER BY priority DESC puts critical first
CREATE TYPE task_priority_type AS ENUM ('low', 'normal', 'high', 'urgent', 'critical');
CREATE TYPE message_type AS ENUM ('command', 'query', 'response', 'notification', 'heartbeat', 'error');

-- Never NULL, so that NULL metadata does not slip through a CHECK.
CREATE FUNCTION validate_agent_metadata(metadata jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT COALESCE(
    jsonb_typeof(metadata) = 'object'
    AND jsonb_typeof(metadata -> 'version') IN ('string', 'number')
    AND metadata ->> 'created_at' ~ ('^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])'
      || 'T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]\d{2}:?\d{2})$'),
    false)
$$;

CREATE FUNCTION default_agent_metadata() RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT jsonb_build_object(
    'created_at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'version', '1')
$$;

-- Lower-case hex SHA-256 of a text in UTF-8. convert_to() is only STABLE; with a fixed encoding it is immutable.
CREATE FUNCTION text_sha256(value text) RETURNS varchar
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT encode(sha256(convert_to(value, 'UTF8')), 'hex')
$$;

CREATE FUNCTION touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.updated_at := now();
  RETURN NEW;
END $$;
