DELETE FROM partitions.policies WHERE table_name IN ('messages.log', 'messages.deliveries');
