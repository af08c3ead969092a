-- Guide 9.2 knowledge.facts, bitemporal. valid_from and valid_until say when the fact holds; created_at when it was
-- recorded, closed_at when its end was learned, retracted_at when it was found to be wrong. So both questions have an
-- answer: what holds at a time, and what was known at a time. Rows are added and closed, never rewritten.

-- "argparse.ArgumentParser" is found by itself, by "argparse", by "ArgumentParser" and by "parser".
CREATE FUNCTION knowledge.words_of_name(name text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT concat_ws(' ', name, parts.words, regexp_replace(parts.words, '([a-z0-9])([A-Z])', '\1 \2', 'g'))
  FROM (SELECT regexp_replace(name, '[^[:alnum:]]+', ' ', 'g') AS words) parts
$$;

CREATE FUNCTION knowledge.fact_search_text(entity_id text, predicate text, object_value jsonb) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT setweight(to_tsvector('english'::regconfig, knowledge.words_of_name(entity_id)), 'A')
      || setweight(to_tsvector('english'::regconfig, knowledge.words_of_name(predicate)), 'B')
      || setweight(to_tsvector('english'::regconfig, object_value), 'C')
$$;

CREATE TABLE knowledge.facts (
  fact_id uuid PRIMARY KEY DEFAULT partitions.uuid7(),
  entity_type varchar(100) NOT NULL,
  entity_id varchar(255) NOT NULL,
  predicate varchar(255) NOT NULL,
  object_value jsonb NOT NULL,
  object_type varchar(50) NOT NULL,
  is_multivalued boolean NOT NULL DEFAULT false,
  source_agent_id agent_id_type REFERENCES agents.registry ON DELETE SET NULL,
  confidence_score numeric(4, 3),
  evidence jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  valid_from timestamptz NOT NULL DEFAULT now(),
  valid_until timestamptz,
  closed_at timestamptz,
  retracted_at timestamptz,
  superseded_by uuid REFERENCES knowledge.facts ON DELETE SET NULL,
  search_text tsvector GENERATED ALWAYS AS (knowledge.fact_search_text(entity_id, predicate, object_value)) STORED,
  CONSTRAINT valid_entity_type CHECK (length(entity_type) > 0),
  CONSTRAINT valid_entity_id CHECK (length(entity_id) > 0),
  CONSTRAINT valid_predicate CHECK (length(predicate) > 0),
  CONSTRAINT valid_object_type CHECK (length(object_type) > 0),
  -- a tsvector holds at most 1 MB
  CONSTRAINT valid_object_size CHECK (length(object_value::text) <= 262144),
  CONSTRAINT valid_confidence CHECK (confidence_score BETWEEN 0 AND 1),
  CONSTRAINT valid_validity_period CHECK (valid_until > valid_from),
  CONSTRAINT closed_has_end CHECK (closed_at IS NULL OR valid_until IS NOT NULL),
  CONSTRAINT not_its_own_successor CHECK (superseded_by <> fact_id)
) WITH (fillfactor = 90);
COMMENT ON COLUMN knowledge.facts.is_multivalued IS 'other open values may stand beside this one';
COMMENT ON COLUMN knowledge.facts.closed_at IS 'when valid_until was learned; NULL: still open, or known from the start';
COMMENT ON COLUMN knowledge.facts.retracted_at IS 'when the fact was found to be wrong; NULL: it stands';

-- no WHEN: a condition on the whole row is refused where a column is generated
CREATE TRIGGER touch BEFORE UPDATE ON knowledge.facts FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

-- at most one open value, or one of each value: what two writers meet in; the first also serves facts of an entity
CREATE UNIQUE INDEX idx_knowledge_facts_one_open ON knowledge.facts (entity_type, entity_id, predicate)
  WHERE valid_until IS NULL AND retracted_at IS NULL AND NOT is_multivalued;
CREATE UNIQUE INDEX idx_knowledge_facts_each_open
  ON knowledge.facts (entity_type, entity_id, predicate, text_sha256(object_value::text))
  WHERE valid_until IS NULL AND retracted_at IS NULL AND is_multivalued;
-- history of an entity, and what held at a time
CREATE INDEX idx_knowledge_facts_entity_predicate
  ON knowledge.facts (entity_type, entity_id, predicate, valid_from);
CREATE INDEX idx_knowledge_facts_predicate ON knowledge.facts (predicate, created_at);
CREATE INDEX idx_knowledge_facts_source ON knowledge.facts (source_agent_id, created_at)
  WHERE source_agent_id IS NOT NULL;
CREATE INDEX idx_knowledge_facts_valid_until ON knowledge.facts (valid_until) WHERE valid_until IS NOT NULL;
CREATE INDEX idx_knowledge_facts_superseded_by ON knowledge.facts (superseded_by) WHERE superseded_by IS NOT NULL;
CREATE INDEX idx_knowledge_facts_object_gin ON knowledge.facts USING gin (object_value jsonb_path_ops);
-- the guide's own (13.1); search reads the next one
CREATE INDEX idx_knowledge_facts_text_search ON knowledge.facts
  USING gin (to_tsvector('english'::regconfig, object_value ->> 'text_content')) WHERE object_type = 'text';
CREATE INDEX idx_knowledge_facts_search_text ON knowledge.facts USING gin (search_text);

-- What gets a vector: open facts that are texts of at least three words. Code, numbers and objects are found by words.
CREATE VIEW knowledge.sentences AS
SELECT fact_id, created_at, left(entity_id || ' ' || predicate || ': ' || (object_value ->> 'text_content'), 4000) AS sentence
FROM knowledge.facts
WHERE object_type = 'text' AND object_value ->> 'text_content' ~ '\S\s+\S+\s+\S'
  AND valid_until IS NULL AND retracted_at IS NULL;
COMMENT ON VIEW knowledge.sentences IS 'open facts that get a vector, as the sentence that is embedded';
-- the view's rows in the order of their age: which of them wait for a vector
CREATE INDEX idx_knowledge_facts_sentences ON knowledge.facts (fact_id)
  WHERE object_type = 'text' AND object_value ->> 'text_content' ~ '\S\s+\S+\s+\S'
    AND valid_until IS NULL AND retracted_at IS NULL;
