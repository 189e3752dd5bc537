"""Durable signed deliveries per second, from commit to settled, and two references.

References of the same run: a plain h11 loop that posts the same requests over as many connections
and records nothing, the limit of machine and Python; and a sender as in a typical bot, with aiohttp
and two commits per delivery. Receiver and PostgreSQL share the machine.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import aiohttp
import asyncpg
import h11
import psycopg
import trio

from bridge.delivery.body import canonical_body
from bridge.delivery.signing import contract_signature, headers, message_id
from bridge.demo.postgres import EmbeddedPostgres
from tests.bench.result import Result, new_database
from tests.system.processes import running

ROUNDS = 5
ENDPOINTS = 50
#: Connections to each receiver: the default max_concurrency.
CONNECTIONS = 4
#: Deliveries per round. The references get fewer.
DELIVERIES = int(os.environ.get("BENCH_DELIVERIES", "10_000"))
PLAIN_DELIVERIES = 6_000
BOT_DELIVERIES = 500
#: Events per commit.
EVENTS_A_COMMIT = 10

# A separate process that answers 200 to everything as fast as Python can.
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

PAYLOAD = json.dumps(
    {"user_id": 1, "telegram_id": None, "username": None, "first_name": None, "last_name": None}
)


def run(server: EmbeddedPostgres) -> list[Result]:
    with subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE) as receiver:
        try:
            assert receiver.stdout is not None
            port = int(receiver.stdout.readline())
            rounds = [_round(server, port) for _ in range(ROUNDS)]
        finally:
            receiver.terminate()
    bridged, plain, bot = (median(figures) for figures in zip(*rounds, strict=True))

    def result(
        name: str, reference: float, against: str, ratio: Callable[[float, float, float], float]
    ) -> Result:
        return Result(
            name,
            bridged,
            reference,
            "deliveries/s",
            against,
            mark=">= 2,000/s",
            median_ratio=median(ratio(*figures) for figures in rounds),
        )

    return [
        result(
            "deliveries, commit to settled",
            plain,
            "a plain loop of h11, nothing recorded",
            lambda b, p, _: b / p,
        ),
        result(
            "deliveries beside a bot's own",
            bot,
            "aiohttp, two commits each, one at a time",
            lambda b, _, s: b / s,
        ),
    ]


def _round(server: EmbeddedPostgres, port: int) -> tuple[float, float, float]:
    """Alternate between the three; return the deliveries per second of each."""
    return (
        trio.run(_bridged, new_database(server), f"http://127.0.0.1:{port}"),
        trio.run(_plain, port),
        asyncio.run(_bot(new_database(server, []), f"http://127.0.0.1:{port}")),
    )


async def _bridged(url: str, base: str) -> float:
    async with running(url):
        with psycopg.connect(url, autocommit=True) as connection:
            for number in range(ENDPOINTS):
                connection.execute(
                    "insert into bridge.webhooks (name, url, event_type, secret)"
                    " values ('bench', %s, 'user.created', 'secret')",
                    (f"{base}/{number}",),
                )
            started = time.perf_counter()
            for _ in range(DELIVERIES // ENDPOINTS // EVENTS_A_COMMIT):
                connection.execute(
                    "insert into public.users (auth_type) select 'x' from generate_series(1, %s)",
                    (EVENTS_A_COMMIT,),
                )
            settled = 0
            while settled < DELIVERIES:
                await trio.sleep(0.02)
                row = connection.execute(
                    "select sum(delivered_count)::bigint from bridge.webhooks"
                ).fetchone()
                assert row is not None
                settled = row[0]
            return DELIVERIES / (time.perf_counter() - started)


async def _plain(port: int) -> float:
    async def send(number: int, count: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        connection = h11.Connection(h11.CLIENT)
        async with stream:
            for each in range(count):
                await _post(stream, connection, number, each)

    started = time.perf_counter()
    senders = ENDPOINTS * CONNECTIONS
    async with trio.open_nursery() as nursery:
        for number in range(senders):
            nursery.start_soon(send, number % ENDPOINTS, PLAIN_DELIVERIES // senders)
    return PLAIN_DELIVERIES / (time.perf_counter() - started)


async def _post(
    stream: trio.SocketStream, connection: h11.Connection, number: int, each: int
) -> None:
    """Post the same signed requests as the bridge."""
    body = canonical_body(PAYLOAD)
    signed = headers(
        body=body,
        event_type="user.created",
        webhook_id=number,
        message=message_id(each, number),
        timestamp=int(time.time()),
        secret="secret",
    )
    lines = [
        (name, value)
        for name, _, value in (line.partition(": ") for line in signed.decode().splitlines())
    ]
    request = h11.Request(
        method="POST",
        target=f"/{number}",
        headers=[("Host", "127.0.0.1"), ("Content-Length", str(len(body))), *lines],
    )
    await stream.send_all(
        (connection.send(request) or b"")
        + (connection.send(h11.Data(body)) or b"")
        + (connection.send(h11.EndOfMessage()) or b"")
    )
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some()))
    connection.start_next_cycle()


async def _bot(url: str, base: str) -> float:
    """Deliver as a bot would: commit a row before and after each POST."""
    connection = await asyncpg.connect(url)
    await connection.execute("create table public.sent (id serial primary key, status text)")
    async with aiohttp.ClientSession() as session:
        started = time.perf_counter()
        for each in range(BOT_DELIVERIES):
            number = await connection.fetchval(
                "insert into public.sent (status) values ('pending') returning id"
            )
            body = canonical_body(PAYLOAD)
            signature = f"sha256={contract_signature(body, 'secret')}"
            async with session.post(
                f"{base}/{each % ENDPOINTS}",
                data=body,
                headers={
                    "Content-Type": "application/json",
                    "X-Webhook-Event": "user.created",
                    "X-Webhook-Signature": signature,
                },
            ) as answer:
                await answer.read()
            await connection.execute(
                "update public.sent set status = $2 where id = $1", number, str(answer.status)
            )
        rate = BOT_DELIVERIES / (time.perf_counter() - started)
    await connection.close()
    return rate
