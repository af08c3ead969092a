-- Partitions written to files. A row is made before its file, so that no file is without one.
CREATE TABLE partitions.archives (
  archive_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  table_name varchar(127) NOT NULL,
  partition_name varchar(127) NOT NULL,
  partition_oid bigint NOT NULL,
  lower_time timestamptz NOT NULL,
  upper_time timestamptz NOT NULL,
  state varchar(8) NOT NULL DEFAULT 'writing',
  location text NOT NULL,
  columns text[] NOT NULL,
  row_count bigint,
  checksum text,
  sha256 varchar(64),
  size_bytes bigint,
  table_bytes bigint NOT NULL,
  uploaded_to text,
  created_at timestamptz NOT NULL DEFAULT now(),
  verified_at timestamptz,
  dropped_at timestamptz,
  error text,
  CONSTRAINT valid_range CHECK (lower_time < upper_time),
  CONSTRAINT valid_state CHECK (state IN ('writing', 'verified', 'stale', 'damaged')),
  CONSTRAINT verified_is_measured CHECK (
    state = 'writing'
    OR num_nulls(row_count, checksum, sha256, size_bytes, verified_at) = 0),
  CONSTRAINT dropped_was_verified CHECK (dropped_at IS NULL OR verified_at IS NOT NULL),
  CONSTRAINT damaged_has_an_error CHECK (state <> 'damaged' OR COALESCE(error, '') <> '')
);
CREATE INDEX idx_archives_partition ON partitions.archives (table_name, lower_time);
COMMENT ON COLUMN partitions.archives.state IS
  'writing: not to be trusted; verified: loaded again and equal; stale: rows changed since; damaged: the file has changed';
COMMENT ON COLUMN partitions.archives.checksum IS 'of the rows, by partitions.checksum_of; sha256 is of the file';
COMMENT ON COLUMN partitions.archives.partition_oid IS
  'of the table that was archived: another one of the same name is not meant';
