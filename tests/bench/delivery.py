"""Durable signed deliveries a second, from commit to settled, over a sender such as a bot has."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import httpx
import psycopg
import trio

from bridge.delivery.signing import canonical_body, contract_signature
from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.result import Result, new_database
from tests.system.processes import running

ENDPOINTS = 50
DELIVERIES = 6_000
PLAIN_DELIVERIES = 500

# Answers 200 to everything, on kept connections, as fast as Python does: in a process of its own.
RECEIVER = """
import asyncio
class Answer(asyncio.Protocol):
    def connection_made(self, transport): self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\\r\\n\\r\\n")) >= 0:
            head = self.data[:end].lower()
            size = int(head.split(b"content-length:")[1].split(b"\\r\\n")[0])
            if len(self.data) < end + 4 + size: return
            self.data = self.data[end + 4 + size:]
            self.transport.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
async def main():
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def run(server: EmbeddedPostgres) -> list[Result]:
    with subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE) as receiver:
        try:
            assert receiver.stdout is not None
            base = f"http://127.0.0.1:{int(receiver.stdout.readline())}"
            bridged = trio.run(_bridged, new_database(server), base)
            plain = trio.run(_plain, new_database(server), base)
        finally:
            receiver.terminate()
    return [
        Result(
            "deliveries, commit to settled",
            bridged,
            plain,
            "deliveries/s",
            "one at a time, two commits each",
        )
    ]


async def _bridged(url: str, base: str) -> float:
    async with running(url, delivery_concurrency=128):
        with psycopg.connect(url, autocommit=True) as connection:
            for number in range(ENDPOINTS):
                connection.execute(
                    "insert into bridge.webhooks (name, url, event_type, secret)"
                    " values ('bench', %s, 'user.created', 'secret')",
                    (f"{base}/{number}",),
                )
            started = time.perf_counter()
            for _ in range(DELIVERIES // ENDPOINTS):
                connection.execute("insert into public.users (auth_type) values ('x')")
            settled = 0
            while settled < DELIVERIES:
                await trio.sleep(0.05)
                row = connection.execute("select count(*) from bridge.delivery_log").fetchone()
                assert row is not None
                settled = row[0]
            return DELIVERIES / (time.perf_counter() - started)


async def _plain(url: str, base: str) -> float:
    payload = json.dumps({"user_id": 1, "username": None})
    with psycopg.connect(url) as connection:
        connection.execute("create table public.sent (id serial primary key, status text)")
        connection.commit()
        async with httpx.AsyncClient(trust_env=False) as client:
            started = time.perf_counter()
            for _ in range(PLAIN_DELIVERIES):
                row = connection.execute(
                    "insert into public.sent (status) values ('pending') returning id"
                ).fetchone()
                assert row is not None
                connection.commit()
                body = canonical_body(payload)
                signature = f"sha256={contract_signature(body, 'secret')}"
                answer = await client.post(
                    base, content=body, headers={"X-Webhook-Signature": signature}
                )
                connection.execute(
                    "update public.sent set status = %s where id = %s",
                    (str(answer.status_code), row[0]),
                )
                connection.commit()
            return PLAIN_DELIVERIES / (time.perf_counter() - started)
