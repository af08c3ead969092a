DROP FUNCTION operators.verify_audit();
DROP FUNCTION operators.seal_audit(integer);
DROP FUNCTION operators.seal_of(bytea, operators.audit);
DROP TABLE operators.audit;
DROP FUNCTION operators.keep_audit();
