"""A complete demo on one machine: PostgreSQL, a bot, a receiver and a bridge."""
