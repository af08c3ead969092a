DROP TRIGGER bridge_epoch ON agents.registry;
DROP FUNCTION bridge.capture_epoch();
