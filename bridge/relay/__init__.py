"""Moves captured events from the outbox to the log, the live stream and the delivery queue."""
