-- As in 0012, with one statement for tasks of one type, however many of their edges were released: the turn of a worker releases
-- one, two, three edges of some ten tasks, and each statement costs more than the rows do. Of more than a hundred ids they are
-- taken apart by that number, for each is looked up in the array.
CREATE OR REPLACE FUNCTION tasks.count_down(p_task_ids uuid[], p_broken uuid[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE v_group record;
BEGIN
  FOR v_group IN
    SELECT i.task_type, array_agg(s.task_id) AS ids, array_agg(s.number) AS numbers, min(s.number) = max(s.number) AS is_same
    FROM (SELECT x.task_id, count(*)::integer AS number FROM unnest(p_task_ids) AS x (task_id) GROUP BY 1) s
    CROSS JOIN LATERAL (SELECT y.task_type FROM tasks.identity y WHERE y.task_id = s.task_id OFFSET 0) i
    GROUP BY 1, CASE WHEN cardinality(p_task_ids) > 100 THEN s.number END
  LOOP
    UPDATE tasks.queue q SET
      blocked_by = greatest(q.blocked_by - v_group.numbers[
        CASE WHEN v_group.is_same THEN 1 ELSE array_position(v_group.ids, q.task_id::uuid) END], 0),
      status = CASE WHEN q.status = 'pending' AND q.blocked_by <= v_group.numbers[
          CASE WHEN v_group.is_same THEN 1 ELSE array_position(v_group.ids, q.task_id::uuid) END]
        AND (q.scheduled_at IS NULL OR q.scheduled_at <= now()) AND (p_broken IS NULL OR q.task_id <> ALL(p_broken))
        THEN 'queued' ELSE q.status END,
      updated_at = now()
    WHERE q.task_id = ANY(v_group.ids) AND q.task_type = v_group.task_type;
  END LOOP;
END $$;
