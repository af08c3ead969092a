DROP FUNCTION bridge.capture_lifecycle_events() CASCADE;
