INSERT INTO partitions.policies (table_name, make_ahead_days, keep_days, on_expiry) VALUES
  ('messages.log', 14, 30, 'archive'),
  ('messages.deliveries', 14, 30, 'drop');
SELECT partitions.create_time_partition(t, (now() AT TIME ZONE 'UTC')::date + n)
FROM unnest(ARRAY['messages.log', 'messages.deliveries']) t, generate_series(-1, 14) n;
