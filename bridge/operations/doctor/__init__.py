"""Check the database and the connection to it, and say what to fix."""
