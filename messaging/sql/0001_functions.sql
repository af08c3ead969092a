-- Whether a subject fits a pattern as NATS means it: `*` stands for one token, a last `>` for one or more.
-- No pattern fits everything; a pattern never fits a message without a subject.
CREATE FUNCTION messages.subject_matches(p_pattern text, p_subject text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN p_pattern IS NULL OR p_pattern = p_subject THEN true
    WHEN p_subject IS NULL THEN false
    ELSE (
      SELECT CASE WHEN t.pattern[cardinality(t.pattern)] = '>' THEN cardinality(t.subject) >= cardinality(t.pattern)
                  ELSE cardinality(t.subject) = cardinality(t.pattern) END
         AND NOT EXISTS (
           SELECT FROM unnest(t.pattern) WITH ORDINALITY AS u (token, place)
           WHERE u.token NOT IN ('*', '>') AND u.token IS DISTINCT FROM t.subject[u.place])
      FROM (SELECT string_to_array(p_pattern, '.') AS pattern, string_to_array(p_subject, '.') AS subject) t)
  END
$$;

-- Whether a subscription takes a message: the subject fits, and the payload contains the filters (`{}`: whatever it is).
CREATE FUNCTION messages.subscription_matches(p_pattern text, p_filters jsonb, p_subject text, p_payload jsonb)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT messages.subject_matches(p_pattern, p_subject) AND (p_filters = '{}' OR p_payload @> p_filters)
$$;

-- Whether one of an agent's subscriptions takes a logged message. plpgsql: its look-up by id is planned once per session.
CREATE FUNCTION messages.any_subscription_matches(p_message_id uuid, p_patterns text[], p_filters jsonb[])
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM messages.log m
    CROSS JOIN unnest(p_patterns, p_filters) AS s (message_pattern, filters)
    WHERE m.message_id = p_message_id
      AND messages.subscription_matches(s.message_pattern, s.filters, m.subject, m.payload));
END $$;
