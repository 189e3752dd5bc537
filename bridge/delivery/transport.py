"""Sends one request to a receiver and reads the beginning of its answer."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx
import structlog
import trio

from bridge.delivery.retry import Answer, Failure

log = structlog.get_logger()

#: How much of an answer is read and kept.
ANSWER_BYTES = 16 * 1024
CONNECT_SECONDS = 5.0


class Transport:
    """Posts to receivers. Redirects, cookies, proxies and the environment mean nothing to it."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Answer:
        """Post the body, and return what came back; never raises for what a receiver does.

        ``deadline_seconds`` is for the whole attempt: a receiver that sends a byte now and then
        never runs into a time-out between two bytes.
        """
        status: int | None = None
        retry_after: str | None = None
        received = bytearray()
        error: str | None = None
        kind: Failure | None = None
        with trio.move_on_after(deadline_seconds) as attempt:
            try:
                async with self._client.stream(
                    "POST", url, headers=dict(headers), content=body
                ) as response:
                    status = response.status_code
                    retry_after = response.headers.get("retry-after")
                    async for chunk in response.aiter_raw():
                        received += chunk
                        if len(received) >= ANSWER_BYTES:
                            break
            except Exception as failure:
                error, kind = _describe(failure), Failure.PROTOCOL
                if not isinstance(failure, (httpx.HTTPError, httpx.InvalidURL)):
                    log.exception("attempt_failed_unexpectedly")
        if attempt.cancelled_caught:
            error = f"no complete answer within {deadline_seconds:g} s"
            kind = Failure.TIMEOUT_ANSWER
        text = _text(received) if status is not None else None
        return Answer(status, text, kind, error, retry_after)


@asynccontextmanager
async def open_transport(*, connections: int) -> AsyncIterator[Transport]:
    """Open a transport that keeps up to so many connections alive."""
    async with httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        verify=ssl.create_default_context(),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=connections),
        # Answers are kept as they were sent.
        headers={"User-Agent": "pgbridge", "Accept": "*/*", "Accept-Encoding": "identity"},
    ) as client:
        yield Transport(client)


def _describe(failure: Exception) -> str:
    """Return a failure in a few words, for the people who read the log of deliveries."""
    reason = _reason(failure)
    match failure:
        case httpx.ConnectTimeout():
            return f"cannot connect: no answer within {CONNECT_SECONDS:g} s"
        case httpx.ConnectError():
            return f"cannot connect: {reason}"
        case httpx.ProtocolError():
            return f"not HTTP: {reason}"
        case httpx.NetworkError():
            return f"connection lost: {reason}"
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return f"not a usable URL: {reason}"
    return reason


def _reason(failure: BaseException) -> str:
    """Return what a failure says or, where it says nothing, what caused it says."""
    cause: BaseException | None = failure
    while cause is not None:
        if said := " ".join(str(cause).split()):
            return said[:500]
        cause = cause.__cause__ or cause.__context__
    return type(failure).__name__


def _text(received: bytearray) -> str:
    """Return the answer as text that PostgreSQL takes: it has no zero character."""
    return bytes(received[:ANSWER_BYTES]).decode("utf-8", "replace").replace("\0", "\ufffd")
