DROP TABLE knowledge.embeddings;
