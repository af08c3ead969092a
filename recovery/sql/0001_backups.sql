-- The catalogue of backups, as it also lies beside them (<backup folder>/catalogue/<backup_id>.json): where the two
-- differ, the newer updated_at is right. So this table may be lost, or restored from an older day.
CREATE TABLE recovery.backups (
  backup_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  kind varchar(20) NOT NULL DEFAULT 'logical',
  status varchar(20) NOT NULL DEFAULT 'running',
  location text NOT NULL,                      -- below the backup folder
  database_name text NOT NULL,
  server_version text NOT NULL,
  tool_version text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  completed_at timestamptz,
  verified_at timestamptz,                     -- the last time that a restore of it was equal
  updated_at timestamptz NOT NULL DEFAULT now(),
  database_bytes bigint NOT NULL,
  size_bytes bigint,
  manifest_sha256 text,
  row_counts jsonb NOT NULL DEFAULT '{}',      -- rows per table; partitions are counted through theirs
  is_pinned boolean NOT NULL DEFAULT false,    -- never pruned
  error text,
  CONSTRAINT valid_kind CHECK (kind IN ('logical', 'base', 'incremental', 'cross_system')),
  CONSTRAINT valid_status CHECK (status IN ('running', 'complete', 'verified', 'damaged', 'failed')),
  CONSTRAINT valid_location CHECK (location <> ''),
  CONSTRAINT valid_sizes CHECK (database_bytes >= 0 AND size_bytes >= 0),
  CONSTRAINT valid_manifest_sha256 CHECK (manifest_sha256 ~ '^[0-9a-f]{64}$'),
  CONSTRAINT completion CHECK (
    (status IN ('running', 'failed')) = (completed_at IS NULL) AND completed_at >= started_at),
  CONSTRAINT complete_is_measured CHECK (
    completed_at IS NULL OR (size_bytes IS NOT NULL AND manifest_sha256 IS NOT NULL)),
  CONSTRAINT verified_has_a_time CHECK (status <> 'verified' OR verified_at IS NOT NULL),
  CONSTRAINT verified_after_completion CHECK (
    verified_at IS NULL OR (completed_at IS NOT NULL AND verified_at >= completed_at)),
  CONSTRAINT trouble_has_an_error CHECK (status NOT IN ('damaged', 'failed') OR COALESCE(error, '') <> '')
);
-- "which is the newest verified one?"
CREATE INDEX idx_recovery_backups_status ON recovery.backups (status, completed_at);
