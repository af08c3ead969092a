DROP TABLE messages.subscriptions;
