DROP TABLE messages.log;
