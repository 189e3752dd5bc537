"""Errors of attempts are described in words, without traces of Python."""

import errno
import ssl

import h11
import pytest
import trio

from bridge.delivery.failures import describe_error
from bridge.delivery.retry import Failure


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def of_ssl(*arguments: object) -> ssl.SSLError:
    return ssl.SSLError(*arguments)


@pytest.mark.parametrize(
    ("error", "phase", "text"),
    [
        (
            h11.RemoteProtocolError("illegal header line: bytearray(b'X Y: \\x00')"),
            Failure.TIMEOUT_ANSWER,
            'invalid HTTP response: invalid header line "X Y: \\x00"',
        ),
        (
            h11.RemoteProtocolError(f"illegal header line: bytearray(b'{'x' * 600}')"),
            Failure.TIMEOUT_ANSWER,
            f'invalid HTTP response: invalid header line "{"x" * 467}"',
        ),
        (
            h11.RemoteProtocolError('illegal status line: bytearray(b"it\'s me")'),
            Failure.TIMEOUT_ANSWER,
            'invalid HTTP response: invalid status line "it\'s me"',
        ),
        (
            h11.RemoteProtocolError("peer unexpectedly closed connection"),
            Failure.TIMEOUT_ANSWER,
            "invalid HTTP response: the receiver closed the connection",
        ),
        (
            caused(trio.BrokenResourceError(), ConnectionResetError(errno.ECONNRESET, "whatever")),
            Failure.TIMEOUT_ANSWER,
            "connection lost: Connection reset by peer",
        ),
        (
            caused(
                trio.BrokenResourceError(),
                of_ssl(
                    1,
                    "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
                    "certificate has expired (_ssl.c:1006)",
                ),
            ),
            Failure.TIMEOUT_TLS,
            "TLS handshake failed: certificate verify failed: certificate has expired",
        ),
        (
            of_ssl(1, "[SSL] record layer failure (_ssl.c:2580)"),
            Failure.TIMEOUT_TLS,
            "TLS handshake failed: record layer failure",
        ),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('::1', 9, 0, 0)"),
            Failure.TIMEOUT_CONNECT,
            "cannot connect: Connection refused",
        ),
    ],
)
def test_errors_are_described_in_words(error: Exception, phase: Failure, text: str) -> None:
    assert describe_error(error, phase, has_status=False)[1] == text
