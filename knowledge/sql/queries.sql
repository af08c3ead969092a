-- name: assert_facts
-- One statement for a batch, in which a single-valued key occurs once. Waits only in the order of the keys, first for
-- the rows it replaces, then for the ones it adds, so that two batches never deadlock. "lost": another transaction
-- opened the same key meanwhile; its row is not in this statement's snapshot, so the caller starts anew.
WITH given AS MATERIALIZED (
  SELECT g.*, COALESCE(g.valid_from, m.now) AS holds_from, m.now
  FROM jsonb_to_recordset(%(claims)s::jsonb) AS g (
    fact_id uuid, entity_type text, entity_id text, predicate text, object_value jsonb, object_type text,
    is_multivalued boolean, source_agent_id uuid, confidence_score numeric, evidence jsonb, valid_from timestamptz)
  CROSS JOIN (SELECT clock_timestamp() AS now OFFSET 0) m
),
same AS MATERIALIZED (
  SELECT g.fact_id, f.fact_id AS known_id
  FROM given g
  JOIN knowledge.facts f ON f.entity_type = g.entity_type AND f.entity_id = g.entity_id AND f.predicate = g.predicate
    AND f.is_multivalued = g.is_multivalued AND f.object_value = g.object_value
  WHERE f.valid_until IS NULL AND f.retracted_at IS NULL
),
wanted AS MATERIALIZED (
  SELECT * FROM given g WHERE NOT EXISTS (SELECT FROM same s WHERE s.fact_id = g.fact_id)
),
refused AS MATERIALIZED (
  SELECT DISTINCT ON (g.fact_id) g.fact_id, f.fact_id AS known_id
  FROM wanted g
  JOIN knowledge.facts f ON f.entity_type = g.entity_type AND f.entity_id = g.entity_id AND f.predicate = g.predicate
  WHERE NOT g.is_multivalued AND NOT f.is_multivalued AND f.retracted_at IS NULL
    AND (f.valid_from > g.holds_from OR f.valid_until > g.holds_from)
),
changed AS MATERIALIZED (
  SELECT f.fact_id AS known_id, f.valid_from, g.fact_id, g.holds_from, g.now
  FROM wanted g
  JOIN knowledge.facts f ON f.entity_type = g.entity_type AND f.entity_id = g.entity_id AND f.predicate = g.predicate
  WHERE NOT g.is_multivalued AND NOT f.is_multivalued AND f.valid_until IS NULL AND f.retracted_at IS NULL
    AND f.valid_from <= g.holds_from AND f.object_value <> g.object_value
    AND NOT EXISTS (SELECT FROM refused r WHERE r.fact_id = g.fact_id)
  ORDER BY f.entity_type, f.entity_id, f.predicate
  FOR NO KEY UPDATE OF f
),
closed AS (
  -- a value that began at the same moment was wrong; an earlier one ends here
  UPDATE knowledge.facts f SET
    superseded_by = c.fact_id,
    retracted_at = CASE WHEN c.valid_from = c.holds_from THEN c.now END,
    valid_until = CASE WHEN c.valid_from < c.holds_from THEN c.holds_from END,
    closed_at = CASE WHEN c.valid_from < c.holds_from THEN c.now END
  FROM changed c WHERE f.fact_id = c.known_id
  RETURNING c.fact_id
),
added AS (
  INSERT INTO knowledge.facts (
    fact_id, entity_type, entity_id, predicate, object_value, object_type, is_multivalued, source_agent_id,
    confidence_score, evidence, created_at, valid_from)
  SELECT fact_id, entity_type, entity_id, predicate, object_value, object_type, is_multivalued, source_agent_id,
         confidence_score, evidence, now, holds_from
  FROM wanted g
  WHERE (SELECT count(*) FROM closed) >= 0  -- closes first: the unique index allows one open value
    AND NOT EXISTS (SELECT FROM refused r WHERE r.fact_id = g.fact_id)
  ORDER BY entity_type, entity_id, predicate
  ON CONFLICT DO NOTHING
  RETURNING fact_id
)
SELECT g.fact_id, COALESCE(s.known_id, r.known_id, g.fact_id) AS known_id,
       CASE WHEN s.fact_id IS NOT NULL THEN 'unchanged' WHEN r.fact_id IS NOT NULL THEN 'refused'
            WHEN c.fact_id IS NOT NULL THEN 'superseded' WHEN a.fact_id IS NOT NULL THEN 'added'
            ELSE 'lost' END AS outcome
FROM given g
LEFT JOIN same s USING (fact_id) LEFT JOIN refused r USING (fact_id)
LEFT JOIN closed c USING (fact_id) LEFT JOIN added a USING (fact_id)

-- name: retract_fact
UPDATE knowledge.facts SET
  retracted_at = clock_timestamp(),
  evidence = evidence || jsonb_strip_nulls(jsonb_build_object('retraction', NULLIF(%(reason)s::text, '')))
WHERE fact_id = %(fact_id)s AND retracted_at IS NULL

-- name: close_fact
UPDATE knowledge.facts SET valid_until = COALESCE(%(valid_until)s, clock_timestamp()), closed_at = clock_timestamp()
WHERE fact_id = %(fact_id)s AND valid_until IS NULL AND retracted_at IS NULL

-- name: read_words
-- querytree drops what is negated; 'T' means that the rest of the table would match
SELECT words.every_word::text AS every_word,
       CASE WHEN words.positive NOT IN ('', 'T') THEN replace(words.positive, ' & ', ' | ') END AS any_word
FROM (
  SELECT asked.query AS every_word, querytree(asked.query) AS positive
  FROM (SELECT websearch_to_tsquery('english'::regconfig, %(query)s) AS query) asked
) words

-- name: sizes
-- reltuples is -1 before the first ANALYZE: then the live rows that statistics have seen
SELECT
  (SELECT greatest(c.reltuples, s.n_live_tup)::bigint FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
   WHERE c.oid = 'knowledge.facts'::regclass) AS facts,
  pg_total_relation_size('knowledge.facts')::bigint AS facts_bytes,
  (SELECT COALESCE(sum(greatest(c.reltuples, s.n_live_tup)), 0)::bigint
   FROM pg_partition_tree('knowledge.embeddings') t
   JOIN pg_class c ON c.oid = t.relid JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE t.isleaf) AS embeddings,
  (SELECT COALESCE(sum(pg_total_relation_size(t.relid)), 0)::bigint
   FROM pg_partition_tree('knowledge.embeddings') t WHERE t.isleaf) AS embeddings_bytes

-- name: model_partitions
SELECT m.model_name, p.leaf::text AS partition,
       (SELECT greatest(c.reltuples, s.n_live_tup)::bigint FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
        WHERE c.oid = p.leaf) AS embeddings
FROM knowledge.models m CROSS JOIN LATERAL (SELECT knowledge.model_partition(m.model_name) AS leaf) p

-- name: extension
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS installed,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS available

-- name: invalid_indexes
SELECT i.indexrelid::regclass::text AS index_name
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'knowledge' AND NOT (i.indisvalid AND i.indisready)
ORDER BY 1

-- name: create_partition
SELECT knowledge.create_model_partition(%(model)s, %(dimensions)s) AS partition
