-- Models that make embeddings. The name is the partition key of knowledge.embeddings: all versions of a model have the
-- same dimensions; another number of dimensions is another model.
CREATE TABLE knowledge.models (
  model_name varchar(100) PRIMARY KEY,
  model_version varchar(20) NOT NULL,
  dimensions integer NOT NULL,
  provider varchar(50) NOT NULL,
  is_default boolean NOT NULL DEFAULT false,
  state varchar(20) NOT NULL DEFAULT 'paused',
  caught_up_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT valid_model_name CHECK (length(model_name) > 0),
  CONSTRAINT valid_model_version CHECK (length(model_version) > 0),
  -- an HNSW index of halfvec ends at 4,000
  CONSTRAINT valid_dimensions CHECK (dimensions BETWEEN 1 AND 4000),
  CONSTRAINT valid_state CHECK (state IN ('active', 'paused', 'retired')),
  CONSTRAINT default_is_not_retired CHECK (NOT (is_default AND state = 'retired'))
);
COMMENT ON COLUMN knowledge.models.state IS
  'active: new facts get vectors; paused: they wait; retired: the vectors are gone';
COMMENT ON COLUMN knowledge.models.caught_up_at IS
  'facts made until an hour before this time have vectors of this version; NULL: the first load is not done';
CREATE UNIQUE INDEX idx_knowledge_models_one_default ON knowledge.models (is_default) WHERE is_default;
