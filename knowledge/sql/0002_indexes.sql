-- An entity is asked for by its id, often without its type: before PostgreSQL 18 an index that begins with the type is
-- then read whole. An interrupted build is thrown away and begun anew.
DROP INDEX CONCURRENTLY IF EXISTS knowledge.idx_knowledge_facts_entity;
CREATE INDEX CONCURRENTLY idx_knowledge_facts_entity ON knowledge.facts (entity_id, entity_type, predicate, valid_from);
DROP INDEX CONCURRENTLY IF EXISTS knowledge.idx_knowledge_facts_entity_predicate;
-- no query reads these
DROP INDEX CONCURRENTLY IF EXISTS knowledge.idx_knowledge_facts_predicate;
DROP INDEX CONCURRENTLY IF EXISTS knowledge.idx_knowledge_facts_object_gin;
DROP INDEX CONCURRENTLY IF EXISTS knowledge.idx_knowledge_facts_text_search;
