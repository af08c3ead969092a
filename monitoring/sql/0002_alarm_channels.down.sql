DROP TABLE monitoring.alarm_channels;
