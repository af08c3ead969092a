CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_knowledge_facts_text_search ON knowledge.facts
  USING gin (to_tsvector('english'::regconfig, object_value ->> 'text_content')) WHERE object_type = 'text';
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_knowledge_facts_object_gin ON knowledge.facts
  USING gin (object_value jsonb_path_ops);
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_knowledge_facts_predicate ON knowledge.facts (predicate, created_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_knowledge_facts_entity_predicate
  ON knowledge.facts (entity_type, entity_id, predicate, valid_from);
DROP INDEX CONCURRENTLY IF EXISTS knowledge.idx_knowledge_facts_entity;
