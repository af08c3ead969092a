DROP FUNCTION messages.any_subscription_matches(uuid, text[], jsonb[]);
DROP FUNCTION messages.subscription_matches(text, jsonb, text, jsonb);
DROP FUNCTION messages.subject_matches(text, text);
