"""``pgbridge tail``: follow the stream from a shell and reconnect as needed."""
