"""Builds request bodies.

``python -m bridge.delivery.body`` reads payloads from standard input and writes their bodies to
standard output, each after its length; see ``builder``.
"""

import json
import signal
import struct
import sys
from typing import BinaryIO

from bridge.events import parse_payload

#: The length of what follows.
LENGTH = struct.Struct("!q")
#: Instead of a length: the payload is nested too deeply.
NO_BODY = -1


def canonical_body(payload: str) -> bytes:
    """Return the request body of a payload.

    Receivers written for the contract verify ``json.dumps`` of the parsed body, with sorted keys.
    The body is exactly that text, so verifying the raw bytes works too. Numbers that Python cannot
    represent are sent as strings.

    Raises:
        RecursionError: it is nested too deeply.
    """
    try:
        return _body(json.loads(payload))
    except ValueError:
        # A number that Python cannot represent. To look at each number takes four times as long.
        return _body(parse_payload(payload))


def _body(parsed: object) -> bytes:
    return json.dumps(parsed, sort_keys=True, allow_nan=False).encode("ascii")


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Build bodies until there are no more payloads."""
    while head := requests.read(LENGTH.size):
        [length] = LENGTH.unpack(head)
        try:
            body = canonical_body(requests.read(length).decode())
        except RecursionError:
            answers.write(LENGTH.pack(NO_BODY))
        else:
            answers.write(LENGTH.pack(len(body)) + body)
        answers.flush()


if __name__ == "__main__":
    # A Ctrl+C in the terminal is for the bridge, which still finishes what is in flight.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
