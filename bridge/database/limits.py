"""Time limits of our database sessions.

PostgreSQL enforces them, so a statement ends even if its bridge does not wait for it any longer,
hangs or is gone. Every session sets its own: those of the database or of the role are meant for the
application, and a bridge with a limit of one second might never finish a large batch.

Values are in PostgreSQL's notation. The limit for a statement is longer than the one for its locks,
so that the error says which of the two was at fault.
"""

from collections.abc import Mapping
from typing import Final

#: Longest time of one drain, in seconds.
DRAIN_SECONDS: Final = 5

_IDLE: Final = {
    "idle_in_transaction_session_timeout": "30s",
    # An idle session is a bridge without work.
    "idle_session_timeout": "0",
}
#: The relay's connection, which listens, leads and drains; and the seconds it waits for a result.
RELAY: Final[Mapping[str, str]] = {
    **_IDLE,
    "statement_timeout": f"{DRAIN_SECONDS}s",
    "lock_timeout": "3s",
}
RELAY_SECONDS: Final = 2.0 * DRAIN_SECONDS
#: The pool: REST, console, claims, settling, upkeep, lookups.
POOL: Final[Mapping[str, str]] = {**_IDLE, "statement_timeout": "20s", "lock_timeout": "10s"}
#: Upkeep, which counts a day of a log before it drops it; and the seconds a client waits for that.
UPKEEP: Final[Mapping[str, str]] = {**_IDLE, "statement_timeout": "10min", "lock_timeout": "10s"}
UPKEEP_SECONDS: Final = 610.0
#: The limits of ``POOL`` for one transaction, for sessions that a pooler shares. They also switch
#: off compilation, as ``NEUTRAL`` does for other sessions.
POOL_SQL: Final = "; ".join(
    f"set local {name} = '{value}'" for name, value in {**POOL, "jit": "off"}.items()
)
#: Commands. ``init`` waits less for locks on the application's tables, ``doctor`` for everything.
INSTALL_SQL: Final = "; ".join(
    f"set {name} = '{value}'"
    for name, value in {**_IDLE, "statement_timeout": "10min", "lock_timeout": "1min"}.items()
)

#: First version of PostgreSQL that limits the duration of transactions, and how to switch that off,
#: for a ``session`` or ``local`` to a transaction.
TRANSACTION_TIMEOUT_SINCE: Final = (17,)
NO_TRANSACTION_TIMEOUT: Final = "set {} transaction_timeout = 0"
#: The server frees the locks of a client whose machine has vanished within about 15 s, and of one
#: that does not read within 12 s.
KEEPALIVES: Final = (
    "set tcp_keepalives_idle = '5s'; set tcp_keepalives_interval = '3s';"
    " set tcp_keepalives_count = 3; set tcp_user_timeout = '12s'"
)
#: How soon a server notices, during a statement, that its client is gone. Fails with
#: ``invalid_parameter_value`` on platforms that cannot tell, such as Windows.
CHECK_CLIENT: Final = "set client_connection_check_interval = '1s'"
