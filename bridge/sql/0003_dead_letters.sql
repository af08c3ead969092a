-- What came from JetStream and cannot be applied: with the payload, the error and the count. Nothing waits for it; it is
-- sent through again, or dropped, by somebody.
CREATE TABLE bridge.dead_letters (
  dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  consumer text NOT NULL,
  stream text NOT NULL,
  stream_epoch bigint NOT NULL,
  stream_sequence bigint NOT NULL,
  subject text NOT NULL,
  headers jsonb NOT NULL DEFAULT '{}',
  payload bytea NOT NULL,
  stored_at timestamptz NOT NULL,
  error text NOT NULL,
  attempts integer NOT NULL DEFAULT 1,
  first_failed_at timestamptz NOT NULL DEFAULT now(),
  last_failed_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_attempts CHECK (attempts > 0),
  CONSTRAINT valid_stream_position CHECK (stream_epoch >= 0 AND stream_sequence >= 0),
  CONSTRAINT one_letter_per_message UNIQUE (consumer, stream, stream_epoch, stream_sequence)
);
COMMENT ON COLUMN bridge.dead_letters.stream_epoch IS
  'when the stream was made, in microseconds since 1970: sequences of another one mean other messages';
COMMENT ON COLUMN bridge.dead_letters.stored_at IS 'when the server stored it, by its clock';
