"""Says what kind of failure ended an attempt, and why, in a few words for people."""

import os
import re
import ssl

import h11
import trio

from bridge.delivery.connection import RESPONSE_HEAD_BYTES, HungUpError
from bridge.delivery.resolve import BlockedAddressError, UnresolvableError
from bridge.delivery.retry import Failure

_TIMEOUTS = {
    Failure.TIMEOUT_DNS: "cannot resolve the host: no response from the name server",
    Failure.TIMEOUT_CONNECT: "cannot connect: no response",
    Failure.TIMEOUT_TLS: "TLS handshake failed: no response",
    Failure.TIMEOUT_SEND: "the receiver did not read the request",
    Failure.TIMEOUT_ANSWER: "no response",
    Failure.TIMEOUT_BODY: "no complete response",
}
# h11 quotes the offending bytes, and we may cut off the end:
# "illegal status line: bytearray(b'SSH-2.0')".
_QUOTED = re.compile(
    r"illegal (.*): bytearray\(b(?P<quote>['\"])(.*?)(?:(?P=quote)\))?$", re.DOTALL
)
# OpenSSL's category, and where in its source Python raised the error: "[SSL: X] … (_ssl.c:1006)".
_OF_SSL = re.compile(r"^\[[A-Z0-9_]+(: [A-Z0-9_]+)?\] ?|:? ?\(_ssl\.c:\d+\)$")
_CLOSED = re.compile(r"^peer (unexpectedly )?closed connection")


def timeout_text(phase: Failure, seconds: float) -> str:
    """Say what did not happen within an attempt's time limit."""
    return f"{_TIMEOUTS[phase]} within {seconds:g} s"


def describe_error(error: Exception, phase: Failure, *, has_status: bool) -> tuple[Failure, str]:
    """Return the kind of an error and a text for people.

    Args:
        phase: how far the attempt had come: the timeout that would have been next.
        has_status: whether the response's status had arrived.
    """
    reason = _reason(error)
    connecting = phase is Failure.TIMEOUT_CONNECT
    match error:
        case BlockedAddressError():
            return Failure.BLOCKED, f"blocked: {reason}"
        case UnresolvableError():
            return Failure.DNS, f"cannot resolve the host: {reason}"
        case TimeoutError() if connecting:
            return Failure.TIMEOUT_CONNECT, f"cannot connect: {reason}"
        case OSError() if connecting:
            text = os.strerror(error.errno) if error.errno else reason
            return Failure.CONNECT, f"cannot connect: {text}"
        case ValueError() if phase is Failure.TIMEOUT_DNS:
            return Failure.URL, f"invalid URL: {reason}"
        case trio.BrokenResourceError() | ssl.SSLError() if phase is Failure.TIMEOUT_TLS:
            return Failure.TLS, f"TLS handshake failed: {reason}"
        case h11.RemoteProtocolError() if error.error_status_hint == 431:
            return Failure.OVERSIZE, f"the response head exceeds {RESPONSE_HEAD_BYTES} bytes"
        case h11.RemoteProtocolError() if has_status and "closed" in reason:
            return Failure.LOST, f"connection lost: {_plain(reason)}"
        case h11.ProtocolError():
            return Failure.PROTOCOL, f"invalid HTTP response: {_plain(reason)}"
        case HungUpError():
            return Failure.LOST, "connection lost: closed without a response"
        case trio.BrokenResourceError() | OSError():
            return Failure.LOST, f"connection lost: {reason}"
    return Failure.INTERNAL, reason


def _plain(reason: str) -> str:
    """Rewrite a message of h11 for people."""
    reason = _QUOTED.sub(lambda quoted: f'invalid {quoted[1]} "{quoted[3]}"', reason)
    return _CLOSED.sub("the receiver closed the connection", reason)


def _reason(failure: BaseException) -> str:
    """Return the message of an error or, if a cause has one, of that."""
    cause: BaseException | None = failure
    said = ""
    while cause is not None:
        said = " ".join(_message(cause).split()) or said
        cause = cause.__cause__ or (None if said else cause.__context__)
    return said[:500] or type(failure).__name__


def _message(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return _OF_SSL.sub("", str(error))
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
