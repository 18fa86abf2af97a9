"""Masters that are listened to before they are done, by HTTP and WebSocket."""
