DROP TABLE messages.channels;
