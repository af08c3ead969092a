-- The partition of a model, or NULL. Found by its bound, never by its name.
CREATE FUNCTION knowledge.model_partition(p_model text) RETURNS regclass
LANGUAGE sql STABLE STRICT AS $$
  SELECT i.inhrelid::regclass
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent = 'knowledge.embeddings'::regclass
    AND pg_get_expr(c.relpartbound, c.oid) = format('FOR VALUES IN (%L)', p_model)
$$;

-- Makes the partition of a model with its dimension check; returns its name. For one that exists it only checks the
-- dimensions, so it may run twice; two callers at once wait for each other. The HNSW index is built when the first load
-- is done: filling a table that has one takes several times as long.
CREATE FUNCTION knowledge.create_model_partition(p_model text, p_dimensions integer) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  v_leaf regclass;
  v_name text := left('embeddings_' || trim('_' FROM lower(regexp_replace(p_model, '[^a-zA-Z0-9]+', '_', 'g'))), 49);
BEGIN
  IF p_model = '' OR p_dimensions NOT BETWEEN 1 AND 4000 THEN
    RAISE EXCEPTION 'model % of % dimensions: needs a name and 1 to 4000 dimensions', quote_literal(p_model), p_dimensions
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('knowledge.create_model_partition'), 0);
  v_leaf := knowledge.model_partition(p_model);
  IF v_leaf IS NOT NULL THEN
    IF NOT EXISTS (
      SELECT FROM pg_constraint
      WHERE conrelid = v_leaf AND conname = 'valid_dimensions'
        AND pg_get_constraintdef(oid) LIKE format('%%= %s))', p_dimensions)
    ) THEN
      RAISE EXCEPTION 'partition % of model % has other dimensions than %', v_leaf, p_model, p_dimensions
        USING ERRCODE = 'invalid_parameter_value', HINT = 'give the model with other dimensions a name of its own';
    END IF;
    RETURN v_leaf::text;
  END IF;
  IF to_regclass(format('knowledge.%I', v_name)) IS NOT NULL THEN  -- "a-b" and "a_b" would share a name
    v_name := v_name || '_' || left(md5(p_model), 8);
  END IF;
  EXECUTE format('CREATE TABLE knowledge.%I PARTITION OF knowledge.embeddings'
    ' (CONSTRAINT valid_dimensions CHECK (vector_dims(embedding_vector) = %s)) FOR VALUES IN (%L)',
    v_name, p_dimensions, p_model);
  RETURN 'knowledge.' || quote_ident(v_name);
END $$;

INSERT INTO knowledge.models (model_name, model_version, dimensions, provider, is_default, state) VALUES
  ('all-MiniLM-L6-v2', '1', 384, 'local', true, 'active'),           -- runs on this machine
  ('text-embedding-ada-002', '1', 1536, 'openai', false, 'paused');  -- the guide's VECTOR(1536)
SELECT knowledge.create_model_partition(model_name, dimensions) FROM knowledge.models;
