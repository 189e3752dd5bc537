"""``pgbridge tail``."""

import re
from typing import Annotated

import typer

from bridge.cli.context import read_settings
from bridge.cli.output import MISUSED, fail


def tail(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATTERN", help="ticket.created, ticket.* or *. Default: all events."
        ),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**63 - 1, help="Start after this event ID. Default: only new events."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines on a terminal too.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(help="A ws:// or wss:// URL. Default: from BRIDGE_HOST and BRIDGE_PORT."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Exit after this many events. Default: on Ctrl-C.")
    ] = None,
) -> None:
    """Follow the event stream of a running bridge.

    Authenticates with BRIDGE_TOKEN and reconnects when the connection is lost. Prints one line per
    event on a terminal and JSON into a pipe. Needs no database.
    """
    # Any database URL will do: tail talks to the bridge alone.
    settings = read_settings(database_url="postgresql://")
    import trio

    from bridge.live.selection import PatternError, checked_patterns
    from bridge.tail.address import Address, AddressError, parse_address
    from bridge.tail.follower import Follower, TailError
    from bridge.tail.run import Output
    from bridge.tail.run import tail as print_stream

    try:
        chosen = sorted(checked_patterns(patterns)) if patterns else []
        address = Address(settings.host, settings.port) if url is None else parse_address(url)
    except PatternError as error:
        fail(str(error), MISUSED)
    except AddressError as error:
        fail(f"--url {error}", MISUSED)
    token = settings.token.get_secret_value() if settings.token else ""
    if not re.fullmatch("[!-~]+", token):
        problem = "contains characters not allowed in a header" if token else "is not set"
        fail(f"BRIDGE_TOKEN {problem}; create a token: pgbridge token create --name tail", MISUSED)
    follower = Follower(address, token, patterns=chosen, since=since)
    try:
        trio.run(print_stream, follower, Output(as_json=as_json), count)
    except TailError as error:
        fail(str(error))
