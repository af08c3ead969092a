-- the partitions of models go with their table
DROP FUNCTION knowledge.create_model_partition(text, integer);
DROP FUNCTION knowledge.model_partition(text);
