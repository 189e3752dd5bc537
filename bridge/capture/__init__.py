"""Installs capture on the application's tables. Run by the command line, on psycopg."""
