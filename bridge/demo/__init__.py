"""The main job on a machine that has nothing: PostgreSQL, a bot, a receiver and a bridge."""
