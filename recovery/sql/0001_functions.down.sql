DROP FUNCTION recovery.verify_data_consistency();
DROP VIEW recovery.consistency_rules;
DROP FUNCTION recovery.broken_constraints(regclass);
DROP FUNCTION recovery.record_test_result(
  text, timestamptz, timestamptz, text, boolean, jsonb, text, timestamptz, text[]);
DROP FUNCTION recovery.validate_recovery_readiness(text, timestamptz, text);
DROP FUNCTION recovery.prepare_pitr(timestamptz, text);
