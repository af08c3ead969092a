DROP TABLE bridge.conflict_rules;
