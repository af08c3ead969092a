-- Guide 14.4: what restore drills found.
CREATE TABLE recovery.test_results (
  test_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  test_type varchar(50) NOT NULL,
  backup_timestamp timestamptz NOT NULL,
  recovery_target timestamptz,
  test_started_at timestamptz NOT NULL DEFAULT now(),
  test_completed_at timestamptz,
  test_status varchar(20) NOT NULL DEFAULT 'running',
  data_verification_passed boolean,
  performance_metrics jsonb NOT NULL DEFAULT '{}',
  error_messages text[],
  notes text,
  CONSTRAINT valid_test_type CHECK (test_type IN ('full_restore', 'pitr', 'partial_restore', 'cross_system')),
  CONSTRAINT valid_test_status CHECK (test_status IN ('running', 'passed', 'failed', 'cancelled')),
  CONSTRAINT completion CHECK (
    (test_status = 'running') = (test_completed_at IS NULL) AND test_completed_at >= test_started_at),
  CONSTRAINT passed_means_verified CHECK (test_status <> 'passed' OR data_verification_passed IS NOT FALSE)
);
-- "when did a drill of this type last pass?"
CREATE INDEX idx_recovery_test_results_type ON recovery.test_results (test_type, test_completed_at);
