-- Guide 9.2 knowledge.embeddings. The guide's VECTOR(1536) fits one model only, and its ivfflat index on an empty table
-- finds one right neighbour in nine. Here: one partition per model, each with its own dimension check and HNSW index
-- over halfvec (half the size, the same recall). See knowledge.create_model_partition.
CREATE TABLE knowledge.embeddings (
  embedding_id uuid NOT NULL DEFAULT partitions.uuid7(),
  fact_id uuid NOT NULL REFERENCES knowledge.facts ON DELETE CASCADE,
  embedding_model varchar(100) NOT NULL REFERENCES knowledge.models,
  embedding_version varchar(20) NOT NULL,
  embedding_vector halfvec NOT NULL,
  text_content text NOT NULL,
  content_hash varchar(64) GENERATED ALWAYS AS (text_sha256(text_content)) STORED,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (embedding_id, embedding_model),
  -- the same text of a fact is embedded once; serves embeddings of a fact
  CONSTRAINT one_embedding_per_text UNIQUE (fact_id, embedding_model, embedding_version, content_hash),
  CONSTRAINT valid_embedding_version CHECK (length(embedding_version) > 0),
  CONSTRAINT valid_text_content CHECK (length(text_content) > 0)
) PARTITION BY LIST (embedding_model);

-- the same text of another fact: its vector is copied, not computed again
CREATE INDEX idx_knowledge_embeddings_hash ON knowledge.embeddings (content_hash);
