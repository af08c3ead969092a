DROP TABLE monitoring.alarm_events;
