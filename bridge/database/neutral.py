"""Settings of our sessions, so that those of the database or of the role do not change our SQL."""

from collections.abc import Mapping
from typing import Final

NEUTRAL: Final[Mapping[str, str]] = {
    "search_path": "pg_catalog, pg_temp",
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    # The catalog shows our triggers as init wrote them.
    "quote_all_identifiers": "off",
    "default_transaction_isolation": "read committed",
    # Policies that hide rows make a query fail, instead of making the bridge blind.
    "row_security": "off",
    # Compiling a short query takes seconds if the planner overestimates its cost.
    "jit": "off",
}
#: The same as SQL.
NEUTRAL_SQL: Final = "select " + ", ".join(
    f"set_config('{name}', '{value}', false)" for name, value in NEUTRAL.items()
)
