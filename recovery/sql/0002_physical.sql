-- Base and incremental backups: what they hang on, and which WAL they need. Positions in WAL are bytes, as numbers.
ALTER TABLE recovery.backups
  ADD parent_id uuid,                          -- no foreign key: entries come back from beside the data in any order
  ADD system_identifier text,
  ADD timeline integer,
  ADD start_lsn bigint,
  ADD end_lsn bigint,
  ADD has_wal boolean NOT NULL DEFAULT false,  -- brings the WAL that it needs: restores to its own end without archive
  ADD CONSTRAINT incremental_has_parent CHECK ((kind = 'incremental') = (parent_id IS NOT NULL)),
  ADD CONSTRAINT physical_has_a_range CHECK (
    kind NOT IN ('base', 'incremental') OR completed_at IS NULL
    OR (system_identifier IS NOT NULL AND timeline > 0 AND start_lsn >= 0 AND end_lsn > start_lsn));

-- What the continuity job saw in the WAL archive: one row per segment, from the oldest kept backup's start to now.
CREATE TABLE recovery.wal_segments (
  name varchar(24) PRIMARY KEY,
  timeline integer NOT NULL,
  number bigint NOT NULL,                      -- position / segment size
  segment_bytes bigint NOT NULL,
  stored_bytes bigint NOT NULL,                -- 0: it is missing
  archived_at timestamptz NOT NULL,
  checked_at timestamptz NOT NULL DEFAULT now(),
  first_commit_at timestamptz,
  last_commit_at timestamptz,
  problem text,
  CONSTRAINT valid_timeline CHECK (timeline > 0),
  CONSTRAINT valid_number CHECK (number >= 0),
  CONSTRAINT valid_sizes CHECK (segment_bytes > 0 AND stored_bytes >= 0),
  CONSTRAINT missing_is_a_problem CHECK (stored_bytes > 0 OR COALESCE(problem, '') <> ''),
  CONSTRAINT valid_commits CHECK ((first_commit_at IS NULL) = (last_commit_at IS NULL))
);
-- "is every segment from here to there?", "which commit is the newest one archived?"
CREATE UNIQUE INDEX idx_recovery_wal_segments_number ON recovery.wal_segments (timeline, number);
-- "are there gaps?"
CREATE INDEX idx_recovery_wal_segments_problem ON recovery.wal_segments (timeline, number) WHERE problem IS NOT NULL;

-- Timelines that began by a promotion: where each left its parent.
CREATE TABLE recovery.timelines (
  timeline integer PRIMARY KEY,
  parent integer NOT NULL,
  switch_lsn bigint NOT NULL,
  CONSTRAINT parent_is_older CHECK (parent > 0 AND parent < timeline),
  CONSTRAINT valid_switch_lsn CHECK (switch_lsn >= 0)
);

-- What the continuity job found when it last looked: the archive of one server.
CREATE TABLE recovery.archive_state (
  system_identifier text PRIMARY KEY,
  timeline integer NOT NULL,                   -- the newest one
  segment_bytes bigint NOT NULL,
  checked_at timestamptz NOT NULL,
  archived_lsn bigint NOT NULL,                -- all WAL before it is archived without a gap, since the oldest backup
  last_commit_at timestamptz,                  -- the newest commit before it
  problems text[] NOT NULL DEFAULT '{}',
  CONSTRAINT valid_timeline CHECK (timeline > 0),
  CONSTRAINT valid_segment_bytes CHECK (segment_bytes > 0),
  CONSTRAINT valid_archived_lsn CHECK (archived_lsn >= 0)
);

-- pg_create_restore_point, as found in the archive.
CREATE TABLE recovery.restore_points (
  point_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  name text NOT NULL,
  timeline integer NOT NULL,
  lsn bigint NOT NULL,
  segment varchar(24) NOT NULL,
  CONSTRAINT valid_timeline CHECK (timeline > 0),
  CONSTRAINT valid_lsn CHECK (lsn >= 0)
);
-- "where is the point of this name?"; seen twice it is one
CREATE UNIQUE INDEX idx_recovery_restore_points_name ON recovery.restore_points (name, timeline, lsn);
