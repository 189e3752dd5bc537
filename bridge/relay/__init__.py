"""Moves captured events from the outbox to the log, the stream and the delivery queue."""
