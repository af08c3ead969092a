DROP TABLE monitoring.notifications;
