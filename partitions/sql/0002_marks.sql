-- What the catalog cannot say of a partition. The oid makes sure that a table of the same name is never taken for it.
CREATE TABLE partitions.marks (
  partition_oid bigint PRIMARY KEY,
  partition_name varchar(127) NOT NULL,
  table_name varchar(127) NOT NULL,
  lower_time timestamptz NOT NULL,
  upper_time timestamptz NOT NULL,
  kind varchar(12) NOT NULL,
  archive_id uuid REFERENCES partitions.archives,
  marked_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_kind CHECK (kind IN ('expiring', 'kept', 'loading', 'brought back', 'releasing')),
  CONSTRAINT comes_from_an_archive CHECK (
    (archive_id IS NOT NULL) = (kind IN ('loading', 'brought back', 'releasing')))
);
CREATE UNIQUE INDEX marks_archive_id ON partitions.marks (archive_id);
COMMENT ON COLUMN partitions.marks.kind IS
  'expiring: being detached and dropped; kept: detached by a person; loading, brought back, releasing: from an archive';
