"""Turn capture rules into triggers on the application's tables. Used by commands, on psycopg."""
