"""Quote values and names for SQL text that cannot take parameters."""


def literal(text: str) -> str:
    """Return a text as an SQL string literal."""
    quoted = text.replace("'", "''")
    return f"E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{quoted}'"


def identifier(name: str) -> str:
    """Return a name as an SQL identifier, always quoted: it may be any word."""
    return '"' + name.replace('"', '""') + '"'
