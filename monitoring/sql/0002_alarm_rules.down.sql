DROP TABLE monitoring.alarm_rules;
