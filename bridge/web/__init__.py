"""The one port: REST beside the WebSocket stream."""
