-- What goes to the store, and what is there. Rebuilt from the backup folder and the store where it is lost: an object that
-- is there already is only looked at.
CREATE TABLE recovery.uploads (
  upload_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  store text NOT NULL,                         -- its URL: another store begins anew
  key text NOT NULL,
  backup_id uuid,                              -- NULL: WAL; no foreign key, as entries come and go by themselves
  size_bytes bigint NOT NULL,                  -- of the files
  stored_bytes bigint,                         -- of the object
  sha256 text,
  key_id text,                                 -- NULL: not encrypted
  queued_at timestamptz NOT NULL DEFAULT now(),
  uploaded_at timestamptz,
  attempts integer NOT NULL DEFAULT 0,
  error text,
  doomed_at timestamptz,                       -- out of retention since; deleted when the grace is over
  CONSTRAINT valid_key CHECK (key <> '' AND key !~ '(^|/)\.\.?(/|$)' AND key !~ '^/'),
  CONSTRAINT valid_store CHECK (store ~ '^(s3|file)://'),
  CONSTRAINT valid_sizes CHECK (size_bytes >= 0 AND stored_bytes >= 0),
  CONSTRAINT valid_sha256 CHECK (sha256 ~ '^[0-9a-f]{64}$'),
  CONSTRAINT valid_attempts CHECK (attempts >= 0),
  CONSTRAINT uploaded_is_measured CHECK (
    (uploaded_at IS NULL) = (sha256 IS NULL) AND (uploaded_at IS NULL) = (stored_bytes IS NULL))
);
-- an object is stored once
CREATE UNIQUE INDEX idx_recovery_uploads_key ON recovery.uploads (store, key);
-- "what waits, the longest first?"
CREATE INDEX idx_recovery_uploads_waiting ON recovery.uploads (store, queued_at) WHERE uploaded_at IS NULL;
-- "which parts has this backup?"
CREATE INDEX idx_recovery_uploads_backup ON recovery.uploads (backup_id) WHERE backup_id IS NOT NULL;
-- "what is to be deleted?"
CREATE INDEX idx_recovery_uploads_doomed ON recovery.uploads (doomed_at) WHERE doomed_at IS NOT NULL;

ALTER TABLE recovery.backups
  ADD stored_at timestamptz,                   -- since then all of it is in the store
  ADD CONSTRAINT stored_when_complete CHECK (stored_at IS NULL OR completed_at IS NOT NULL);
