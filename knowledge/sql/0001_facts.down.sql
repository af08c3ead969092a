DROP VIEW knowledge.sentences;
DROP TABLE knowledge.facts;
DROP FUNCTION knowledge.fact_search_text(text, text, jsonb);
DROP FUNCTION knowledge.words_of_name(text);
