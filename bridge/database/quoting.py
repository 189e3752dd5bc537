"""Quote values and names for SQL text that cannot take parameters."""


def literal(text: str) -> str:
    """Quote a text as an SQL string literal."""
    quoted = text.replace("'", "''")
    return f"E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{quoted}'"


def identifier(name: str) -> str:
    """Quote a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
