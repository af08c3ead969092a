DROP TABLE messages.deliveries;
