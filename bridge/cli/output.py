"""Exit codes, and errors that end a command."""

from typing import NoReturn

from bridge.terminal.output import say

#: Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
FAILED = 1
MISUSED = 2


def fail(line: str, code: int = FAILED) -> NoReturn:
    """Print an error in one line and exit."""
    say(f"pgbridge: {line}")
    raise SystemExit(code)
