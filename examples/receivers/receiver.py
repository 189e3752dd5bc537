"""Receives webhooks of pgbridge: verifies each, keeps it, answers, and works on it afterwards.

WEBHOOK_SECRET=… python3 examples/receivers/receiver.py

Nothing but Python's standard library is needed. Settings, all from the environment:

WEBHOOK_SECRET           the webhook's secret, whsec_… or any other text
WEBHOOK_SECRET_PREVIOUS  one more that is accepted, while the secret is changed
WEBHOOK_SCHEME           standard (webhook-signature), or simple (X-Webhook-Signature)
HOST, PORT               where to listen: 127.0.0.1, 9000
INBOX                    the file that keeps what came: inbox.db
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

#: A request that was signed longer ago, or so far in the future, is refused: somebody recorded it.
#: Each attempt is signed anew when it is sent, so retries are never too old.
TOLERANCE_SECONDS = 300
MOST_BODY_BYTES = 1024 * 1024
#: How long a connection may keep a thread while nothing comes.
IDLE_SECONDS = 60
#: When the work on a delivery has failed.
TRY_AGAIN_SECONDS = 5


class Headers(Protocol):
    """Headers of a request, whatever read them; names are found in capitals as well as without."""

    def get(self, name: str, default: str, /) -> str:
        """Return the value of a header, or the default where there is none."""


class Refused(Exception):  # noqa: N818 - a request is refused; nothing is wrong here
    """A request that is not taken: the status and the text of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


# --- is it genuine?


def verify(headers: Headers, body: bytes, secrets: list[str], now: float) -> str:
    """Verify a request by the scheme of Standard Webhooks; return its ``webhook-id``.

    Args:
        body: the bytes as they came. Parsed and written again, they might be others.
        secrets: those that are valid; a request has to be signed by one of them.
        now: seconds since the epoch.

    Raises:
        Refused: it is not genuine, or too old to tell.
    """
    message_id = webhook_id(headers)
    timestamp = headers.get("webhook-timestamp", "")
    if not re.fullmatch(r"\d{1,12}", timestamp, re.ASCII):
        raise Refused(400, "webhook-timestamp is missing, or is no number of seconds")
    signed = f"{message_id}.{timestamp}.".encode("latin-1") + body
    expected = [
        "v1," + base64.b64encode(hmac.digest(signing_key(secret), signed, "sha256")).decode()
        for secret in secrets
    ]
    # Several signatures, while the secret is being changed; other versions than v1 match nothing.
    if not any_equal(expected, headers.get("webhook-signature", "").split(" ")):
        raise Refused(401, "no signature is by a secret that is known here")
    # Not before the signature: who cannot sign learns nothing about this machine's clock.
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise Refused(401, "signed too long ago, or in the future")
    return message_id


def verify_simple(headers: Headers, body: bytes, secrets: list[str]) -> str:
    """Verify a request by the simple scheme; return its ``webhook-id``.

    It signs nothing but the body. Who has recorded a request can send it again, at any time and
    with another ``webhook-id``: use it only over TLS, and where a repeat does no harm.

    Raises:
        Refused: it is not genuine.
    """
    expected = [
        "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        for secret in secrets
    ]
    # By the new secret, and for a day after it was changed by the one before as well.
    names = ("X-Webhook-Signature", "X-Webhook-Signature-Previous")
    if not any_equal(expected, [headers.get(name, "") for name in names]):
        raise Refused(401, "no signature is by a secret that is known here")
    return webhook_id(headers)


def webhook_id(headers: Headers) -> str:
    """Return what names the delivery, the same for every attempt at it."""
    found = headers.get("webhook-id", "")
    if not found:
        raise Refused(400, "webhook-id is missing")
    return found


def signing_key(secret: str) -> bytes:
    """Return the standard scheme's key: what a ``whsec_`` secret encodes, or the text itself."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    encoded = secret.removeprefix("whsec_")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def any_equal(expected: list[str], given: list[str]) -> bool:
    """Tell whether any is any of the other, in a time that does not tell how nearly."""
    # As bytes: of texts, compare_digest takes only ASCII, and anything may stand in a header.
    return any(
        hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogateescape"))
        for one in expected
        for other in given
    )


# --- what came, kept


class Inbox:
    """What came, each delivery once, in a file that outlives the process.

    Yours may be a table in the database that the work is done in: then the work and the mark that
    it is done are one transaction.
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
        """Keep a delivery, on disk when this returns; false if it was there already.

        Ids are kept for as long as somebody may send a delivery again: for ever, here.
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
        """Do for ever what is not done, in the order in which it came.

        What fails is tried again, and what came after it waits.
        """
        while True:
            try:
                self._work_on_what_waits()
            except Exception:
                traceback.print_exc()
                time.sleep(TRY_AGAIN_SECONDS)

    def _work_on_what_waits(self) -> None:
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
        """Open the file for one transaction: connections of SQLite belong to one thread."""
        database = sqlite3.connect(self._path, timeout=10)
        try:
            with database:
                yield database
        finally:
            database.close()


def handle(message_id: str, event_type: str, payload: object) -> None:
    """Do what the event is received for: yours to write."""
    print(message_id, event_type, json.dumps(payload), flush=True)


# --- HTTP


@dataclass
class Receiver:
    """What decides on a request, whatever serves HTTP."""

    secrets: list[str]
    simple: bool
    inbox: Inbox

    def take(self, headers: Headers, body: bytes) -> None:
        """Verify and keep a request; it is to be answered 204 then, a repeat as well.

        Raises:
            Refused: it is to be answered otherwise.
        """
        if self.simple:
            message_id = verify_simple(headers, body, self.secrets)
        else:
            message_id = verify(headers, body, self.secrets, time.time())
        try:
            payload = json.loads(body)
        except ValueError as error:
            raise Refused(400, "the body is no JSON") from error
        self.inbox.put(message_id, headers.get("X-Webhook-Event", ""), json.dumps(payload))


def from_environment() -> Receiver:
    """Return the receiver that the environment asks for; where that is none, end the process."""
    names = ("WEBHOOK_SECRET", "WEBHOOK_SECRET_PREVIOUS")
    secrets = [os.environ[name] for name in names if os.environ.get(name)]
    if not os.environ.get("WEBHOOK_SECRET"):
        sys.exit("set WEBHOOK_SECRET to the webhook's secret")
    try:
        for secret in secrets:
            signing_key(secret)
    except ValueError:
        sys.exit("what follows whsec_ in a secret has to be base64")
    scheme = os.environ.get("WEBHOOK_SCHEME", "standard")
    if scheme not in ("standard", "simple"):
        sys.exit("WEBHOOK_SCHEME is standard or simple")
    inbox = Inbox(os.environ.get("INBOX", "inbox.db"))
    # What an earlier process has not done is done first.
    threading.Thread(target=inbox.work, daemon=True).start()
    return Receiver(secrets, scheme == "simple", inbox)


def main() -> None:
    """Serve until the process is ended; nothing that was answered 204 is lost by that."""
    receiver = from_environment()

    class Hook(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps the connection for the next delivery
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
                self.close_connection = True  # nobody knows where the next request would begin
                raise Refused(411, "Content-Length is missing")
            if int(length) > MOST_BODY_BYTES:
                self.close_connection = True
                raise Refused(413, f"a body may have {MOST_BODY_BYTES} bytes")
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
            """Log no requests: the inbox has them."""

    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "9000"))
    with ThreadingHTTPServer((host, port), Hook) as server:
        print(f"listening on http://{host}:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
