-- UUIDv7 (RFC 9562, 5.7) for PostgreSQL 15 to 18; the same three functions exist in Python as pg.uuid7.

-- the moment that the id carries, to the millisecond
CREATE FUNCTION partitions.uuid7_time(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT timestamptz 'epoch'
    + (('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint) * interval '1 millisecond'
$$;

-- the smallest uuid of that millisecond: a partition's bound, and the predicate that prunes
CREATE FUNCTION partitions.uuid7_floor(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- a random id of that moment
CREATE FUNCTION partitions.uuid7_at(moment timestamptz) RETURNS uuid
LANGUAGE sql VOLATILE STRICT PARALLEL SAFE AS $$
  SELECT encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send(floor(extract(epoch FROM moment) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
      52, 1), 53, 1), 'hex')::uuid
$$;

-- a new id for now; PostgreSQL 18 has its own
DO $do$
BEGIN
  IF current_setting('server_version_num')::int >= 180000 THEN
    CREATE FUNCTION partitions.uuid7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE AS 'SELECT uuidv7()';
  ELSE
    CREATE FUNCTION partitions.uuid7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE AS 'SELECT partitions.uuid7_at(clock_timestamp())';
  END IF;
END $do$;
