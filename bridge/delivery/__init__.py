"""Delivers events to webhooks, at least once."""
