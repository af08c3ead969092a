DROP TRIGGER release_dependents ON tasks.queue;
DROP FUNCTION tasks.release_dependents() CASCADE;
DROP TABLE tasks.dependencies;
DROP FUNCTION tasks.block_dependent();
DROP FUNCTION tasks.refuse_cycle();
