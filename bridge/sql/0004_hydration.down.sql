DROP TABLE bridge.hydration;
