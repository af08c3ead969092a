CREATE OR REPLACE FUNCTION tasks.count_down(p_task_ids uuid[], p_broken uuid[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_group record;
BEGIN
  FOR v_group IN  -- of one type, and with as many edges released: often all of them
    SELECT i.task_type, s.number, array_agg(s.task_id) AS ids
    FROM (SELECT x.task_id, count(*)::integer AS number FROM unnest(p_task_ids) AS x (task_id) GROUP BY 1) s
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i GROUP BY 1, 2
  LOOP
    UPDATE tasks.queue q SET
      blocked_by = greatest(q.blocked_by - v_group.number, 0),
      status = CASE WHEN q.status = 'pending' AND q.blocked_by <= v_group.number
        AND (q.scheduled_at IS NULL OR q.scheduled_at <= now()) AND (p_broken IS NULL OR q.task_id <> ALL(p_broken))
        THEN 'queued' ELSE q.status END,
      updated_at = now()
    WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type;
  END LOOP;
END $$;
