-- halfvec and HNSW need pgvector 0.7.0 or newer.
CREATE EXTENSION IF NOT EXISTS vector;
