"""What the attackers know, and what they count."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """The bridge under attack.

    Attributes:
        port: its port on 127.0.0.1.
        token: a valid token, which some attackers have.
        write_token: a token with the scope webhooks:write.
        owner_url: the database, for the role that owns captured tables.
        seconds: duration of the attack.
        logins: number of failed logins.
        webhooks: most webhooks that the holder of ``write_token`` has at once.
        rows: rows of the table owner's largest commit.
        row_bytes: size of its largest row.
        message_bytes: the maximum size of a message.
    """

    port: int
    token: str
    write_token: str
    owner_url: str
    seconds: float
    logins: int
    webhooks: int
    rows: int
    row_bytes: int
    message_bytes: int = 64 * 1024


class UnexpectedError(Exception):
    """The bridge or the database did something that it must not do."""


@dataclass
class Tally:
    """The rounds of each attack, and what was unexpected."""

    rounds: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
