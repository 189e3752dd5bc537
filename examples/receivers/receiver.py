"""Receive webhooks: verify each, store it, respond, then process it.

WEBHOOK_SECRET=… python3 examples/receivers/receiver.py

It needs only Python's standard library. Settings, from the environment:

WEBHOOK_SECRET           the webhook's secret, whsec_… or any other text
WEBHOOK_SECRET_PREVIOUS  also accepted, during a rotation
WEBHOOK_SCHEME           standard (webhook-signature), or simple (X-Webhook-Signature)
HOST, PORT               listening address: 127.0.0.1, 9000
INBOX                    file that stores deliveries: inbox.db
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

#: Maximum clock difference of a request, to reject replays. Each attempt is signed when it is sent,
#: so late retries pass.
TOLERANCE_SECONDS = 300
MOST_BODY_BYTES = 1024 * 1024
#: How long an idle connection may occupy a thread.
IDLE_SECONDS = 60
#: Pause after processing failed.
TRY_AGAIN_SECONDS = 5


class Headers(Protocol):
    """A request's headers, with case-insensitive names."""

    def get(self, name: str, default: str, /) -> str:
        """Return the value of a header, or the default."""


class Refused(Exception):  # noqa: N818 - a rejected request, not a fault of this program
    """A rejected request, with the status and text of the response."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


# --- Signatures


def verify(headers: Headers, body: bytes, secrets: list[str], now: float) -> str:
    """Verify a request by Standard Webhooks and return its ``webhook-id``.

    Args:
        headers: of the request.
        body: the raw bytes; a re-serialised body may differ.
        secrets: valid secrets; the request must be signed with one of them.
        now: seconds since the epoch.

    Raises:
        Refused: the signature is invalid, or the request too old.
    """
    message_id = webhook_id(headers)
    timestamp = headers.get("webhook-timestamp", "")
    if not re.fullmatch(r"\d{1,12}", timestamp, re.ASCII):
        raise Refused(400, "webhook-timestamp is missing or invalid")
    signed = f"{message_id}.{timestamp}.".encode("latin-1") + body
    expected = [
        "v1," + base64.b64encode(hmac.digest(signing_key(secret), signed, "sha256")).decode()
        for secret in secrets
    ]
    # There are several signatures during a rotation. Versions other than v1 never match.
    if not any_equal(expected, headers.get("webhook-signature", "").split(" ")):
        raise Refused(401, "the signature does not match a known secret")
    # Check the time after the signature, so that strangers learn nothing about this clock.
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise Refused(401, "the timestamp is too far from the current time")
    return message_id


def verify_simple(headers: Headers, body: bytes, secrets: list[str]) -> str:
    """Verify a request by the simple scheme and return its ``webhook-id``.

    The signature covers only the body, so a captured request can be replayed indefinitely, with
    any ``webhook-id``. Use it only over TLS, and where repeats do no harm.

    Raises:
        Refused: the signature is invalid.
    """
    expected = [
        "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        for secret in secrets
    ]
    # For a day after a rotation, there is a second signature with the previous secret.
    names = ("X-Webhook-Signature", "X-Webhook-Signature-Previous")
    if not any_equal(expected, [headers.get(name, "") for name in names]):
        raise Refused(401, "the signature does not match a known secret")
    return webhook_id(headers)


def webhook_id(headers: Headers) -> str:
    """Return the id of the delivery, which is the same for every attempt."""
    found = headers.get("webhook-id", "")
    if not found:
        raise Refused(400, "webhook-id is missing")
    return found


def signing_key(secret: str) -> bytes:
    """Return the Standard Webhooks key: a decoded ``whsec_`` secret, or the text itself."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    encoded = secret.removeprefix("whsec_")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def any_equal(expected: list[str], given: list[str]) -> bool:
    """Return whether the lists share an element, comparing in constant time."""
    # Compare bytes: compare_digest accepts only ASCII text, and a header may contain anything.
    return any(
        hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogateescape"))
        for one in expected
        for other in given
    )


# --- Storage


class Inbox:
    """Store each delivery once, in a SQLite file.

    In your application, use a table in the database where the work happens, so that the work and
    the mark that it is done commit together.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._arrived = threading.Event()
        with self._open() as database:
            database.execute("pragma journal_mode = wal")
            database.execute(
                "create table if not exists inbox (number integer primary key,"
                " webhook_id text not null unique, event_type text not null,"
                " payload text not null, done_at text)"
            )

    def put(self, message_id: str, event_type: str, payload: str) -> bool:
        """Store a delivery on disk; return false if it was already stored.

        This example never deletes ids. Keep them for as long as deliveries can be repeated.
        """
        with self._open() as database:
            added = database.execute(
                "insert into inbox (webhook_id, event_type, payload) values (?, ?, ?)"
                " on conflict (webhook_id) do nothing",
                (message_id, event_type, payload),
            ).rowcount
        self._arrived.set()
        return added == 1

    def work(self) -> None:
        """Process stored deliveries forever, in order of arrival.

        A delivery that fails is retried, and the later ones wait.
        """
        while True:
            try:
                self._process_pending()
            except Exception:
                traceback.print_exc()
                time.sleep(TRY_AGAIN_SECONDS)

    def _process_pending(self) -> None:
        while True:
            self._arrived.clear()
            with self._open() as database:
                waiting = database.execute(
                    "select number, webhook_id, event_type, payload from inbox"
                    " where done_at is null order by number limit 100"
                ).fetchall()
            for number, message_id, event_type, payload in waiting:
                handle(message_id, event_type, json.loads(payload))
                with self._open() as database:
                    database.execute(
                        "update inbox set done_at = datetime('now') where number = ?", (number,)
                    )
            if not waiting:
                self._arrived.wait()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, because SQLite connections belong to one thread."""
        database = sqlite3.connect(self._path, timeout=10)
        try:
            with database:
                yield database
        finally:
            database.close()


def handle(message_id: str, event_type: str, payload: object) -> None:
    """Process an event: replace this with your own code."""
    print(message_id, event_type, json.dumps(payload), flush=True)


# --- HTTP


@dataclass
class Receiver:
    """Accept or reject requests, independent of the HTTP server."""

    secrets: list[str]
    simple: bool
    inbox: Inbox

    def take(self, headers: Headers, body: bytes) -> None:
        """Verify and store a request. Respond 204 afterwards, also to duplicates.

        Raises:
            Refused: respond with its status instead.
        """
        if self.simple:
            message_id = verify_simple(headers, body, self.secrets)
        else:
            message_id = verify(headers, body, self.secrets, time.time())
        try:
            payload = json.loads(body)
        except ValueError as error:
            raise Refused(400, "the body is not JSON") from error
        self.inbox.put(message_id, headers.get("X-Webhook-Event", ""), json.dumps(payload))


def from_environment() -> Receiver:
    """Create a receiver from environment variables; exit if they are invalid."""
    names = ("WEBHOOK_SECRET", "WEBHOOK_SECRET_PREVIOUS")
    secrets = [os.environ[name] for name in names if os.environ.get(name)]
    if not os.environ.get("WEBHOOK_SECRET"):
        sys.exit("set WEBHOOK_SECRET to the webhook's secret")
    try:
        for secret in secrets:
            signing_key(secret)
    except ValueError:
        sys.exit("the part of a secret after whsec_ must be base64")
    scheme = os.environ.get("WEBHOOK_SCHEME", "standard")
    if scheme not in ("standard", "simple"):
        sys.exit("WEBHOOK_SCHEME must be standard or simple")
    inbox = Inbox(os.environ.get("INBOX", "inbox.db"))
    # Deliveries left by an earlier process come first.
    threading.Thread(target=inbox.work, daemon=True).start()
    return Receiver(secrets, scheme == "simple", inbox)


def main() -> None:
    """Serve until the process ends. Deliveries that got a 204 are on disk."""
    receiver = from_environment()

    class Hook(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keep connections open
        timeout = IDLE_SECONDS

        def do_POST(self) -> None:
            try:
                receiver.take(self.headers, self._body())
            except Refused as refused:
                self._answer(refused.status, str(refused))
            else:
                self._answer(204)

        def _body(self) -> bytes:
            length = self.headers.get("Content-Length", "")
            if not re.fullmatch(r"\d{1,12}", length, re.ASCII):
                self.close_connection = True  # the end of the request is unknown
                raise Refused(411, "Content-Length is missing")
            if int(length) > MOST_BODY_BYTES:
                self.close_connection = True
                raise Refused(413, f"the body exceeds {MOST_BODY_BYTES} bytes")
            return self.rfile.read(int(length))

        def _answer(self, status: int, text: str = "") -> None:
            self.send_response(status)
            if text:
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(text.encode())))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            """Do not log requests: the inbox has them."""

    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "9000"))
    with ThreadingHTTPServer((host, port), Hook) as server:
        print(f"listening on http://{host}:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
