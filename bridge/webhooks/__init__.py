"""Webhooks: the model and its operations."""
