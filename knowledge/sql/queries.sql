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
        WHERE c.oid = p.leaf) AS embeddings,
       x.index_name, COALESCE(x.is_valid, false) AS is_indexed,
       (SELECT COALESCE(round(100.0 * b.tuples_done / nullif(b.tuples_total, 0)), 0)::int
        FROM pg_stat_progress_create_index b WHERE b.relid = p.leaf LIMIT 1) AS built_percent
FROM knowledge.models m
CROSS JOIN LATERAL (SELECT knowledge.model_partition(m.model_name) AS leaf) p
LEFT JOIN LATERAL (
  SELECT i.indexrelid::regclass::text AS index_name, i.indisvalid AND i.indisready AS is_valid
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
  WHERE i.indrelid = p.leaf AND a.amname = 'hnsw'
  ORDER BY i.indisvalid DESC LIMIT 1
) x ON true

-- name: waiting_facts
SELECT s.fact_id, s.sentence, s.created_at
FROM knowledge.sentences s
WHERE s.fact_id > %(after)s AND NOT EXISTS (
  SELECT FROM knowledge.embeddings e
  WHERE e.fact_id = s.fact_id AND e.embedding_model = %(model)s AND e.embedding_version = %(version)s)
ORDER BY s.fact_id
LIMIT %(limit)s

-- name: count_waiting
SELECT count(*) AS waiting FROM (
  SELECT FROM knowledge.sentences s
  WHERE s.fact_id > %(after)s AND NOT EXISTS (
    SELECT FROM knowledge.embeddings e
    WHERE e.fact_id = s.fact_id AND e.embedding_model = %(model)s AND e.embedding_version = %(version)s)
  LIMIT %(limit)s
) w

-- name: known_vectors
-- the same text of another fact: its vector is copied, not computed again
SELECT DISTINCT ON (e.content_hash) e.text_content AS sentence, e.embedding_vector::text AS vector
FROM knowledge.embeddings e
WHERE e.embedding_model = %(model)s AND e.embedding_version = %(version)s
  AND e.content_hash IN (SELECT text_sha256(s) FROM unnest(%(sentences)s::text[]) s)

-- name: add_embeddings
-- Two may do the same: the second adds nothing. A fact that went meanwhile gets none. Vectors of another version go.
WITH made AS (
  SELECT m.* FROM unnest(%(fact_ids)s::uuid[], %(vectors)s::text[], %(sentences)s::text[]) AS m (fact_id, vector, sentence)
  JOIN knowledge.facts f USING (fact_id)
),
added AS (
  INSERT INTO knowledge.embeddings (fact_id, embedding_model, embedding_version, embedding_vector, text_content)
  SELECT fact_id, %(model)s, %(version)s, vector::halfvec, sentence FROM made
  ON CONFLICT DO NOTHING
  RETURNING fact_id
),
replaced AS (
  DELETE FROM knowledge.embeddings e USING made
  WHERE e.fact_id = made.fact_id AND e.embedding_model = %(model)s AND e.embedding_version <> %(version)s
)
SELECT count(*)::int AS added FROM added

-- name: has_vectors
SELECT EXISTS (SELECT FROM knowledge.embeddings WHERE embedding_model = %(model)s) AS found

-- name: newest_vector
-- ids begin with their time, and the partition's key with the id
SELECT max(created_at) AS made_at FROM (
  SELECT created_at FROM knowledge.embeddings WHERE embedding_model = %(model)s ORDER BY embedding_id DESC LIMIT 1) e

-- name: search_options
-- For this transaction. relaxed_order: go on until enough rows pass the filters, instead of giving up after ef_search.
SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', '100', true),
       set_config('hnsw.max_scan_tuples', '40000', true)

-- name: try_embedder_lock
SELECT pg_try_advisory_lock(hashtext('knowledge.embed'), hashtext(%(model)s)) AS is_ours

-- name: wait_for_embedder_lock
SELECT pg_advisory_lock(hashtext('knowledge.embed'), hashtext(%(model)s))

-- name: release_embedder_lock
SELECT pg_advisory_unlock(hashtext('knowledge.embed'), hashtext(%(model)s))

-- name: extension
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS installed,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS available

-- name: invalid_indexes
SELECT i.indexrelid::regclass::text AS index_name
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'knowledge' AND NOT (i.indisvalid AND i.indisready)
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index b WHERE b.index_relid = i.indexrelid)  -- being built
ORDER BY 1

-- name: create_partition
SELECT knowledge.create_model_partition(%(model)s, %(dimensions)s) AS partition
