"""Real-time events and signed webhooks from a PostgreSQL application that must not change."""
