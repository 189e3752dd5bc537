"""Attacks by the holder of a ``webhooks:write`` token who wants to stop the bridge."""

import random
import string
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import trio

from tests.stress.hostile.target import Tally, Target, UnexpectedError

#: Names of the attacker's webhooks begin with this.
PREFIX = "hostile "
#: Time limit of a request; a bridge that takes longer has been stopped.
REQUEST_SECONDS = 30.0
#: How long the slow receiver takes to answer, in seconds.
SLOW_SECONDS = 5.0

_REFUSED_FILTERS = (
    "$" + "[0,0]" * 40 + " ? (@.a == 5) == 1",
    "$" + ".**" * 20 + " == 1",
    "$.a[*] == $.b[*]",
    "exists($[*] ? (exists($[*] ? (@.a == 1))))",
    '$.a like_regex "(?:(?:a?){30}){30}"',
    r'$.a like_regex "^(?=(.*)a)(?=(.*)b)(?=(.*)c)"',
    '$.a /* " */ like_regex "(?:(?:a?){30}){30}" /* " */',
    "$[$.a[*].size()] == 1",
    "$.a * 2 ^ 9 == 1",
    "$.a == $x",
    "!(" * 500 + "$.a == 1" + ")" * 500,
    "$.a == " + "9" * 10_000,
)
#: Each uses up one of the grammar's limits: conditions, wildcards, length, negations.
_COSTLY_FILTERS = (
    "exists($.*[*] ? (@.a == 1 || @.b == 2))",
    '$.*[*] == "x" || $.* > 1',
    "exists($.*.*.* ? (@ > 1))",
    "$.*.size() > 1 || $.x.y == 1",
    "$.data[last].x == 1 || $.a == 2 || $.b == 3",
    "strict " + " || ".join(f"$.data.k{number} == {number}" for number in range(60)),
    '$.body starts with "' + "x" * 1_900 + '"',
    "!(" * 10 + "$.a == 1" + ")" * 10,
    "((" * 5 + "$.*[*] == 1" + ") is unknown)" * 5,
)
# Nothing of the shop's own: the attacker would only take what it may have anyway.
_PATTERNS = (
    "*", "note.*", "note.saved", "bulk.*", "bulk.loaded", "mood.*", "mood.changed", "webhook.*",
    "ticket.*", "payment.completed", "never.happens", "note.saved.and.more.*", "a." * 120 + "*",
)  # fmt: skip
_ODD_PARAMETERS: tuple[Mapping[str, str | int], ...] = (
    {"limit": 200},
    {"limit": 200, "offset": 2**63 - 1},
    {"limit": 0},
    {"limit": -1},
    {"limit": "1e9"},
    {"limit": "9" * 400},
    {"offset": 10**30},
    {"before_id": 2**63 - 1, "limit": 200},
    {"before_id": 1, "offset": 1},
    {"status": "failed", "limit": 200},
    {"status": "pending", "limit": 200, "offset": 5_000},
    {"status": "x" * 4_000},
    {"event_type": "x" * 4_000},
    {"is_active": "maybe"},
)


@dataclass
class Holder:
    """The attacker: its client, and the webhooks it has made.

    Attributes:
        dead_port: nothing listens on it.
        slow_port: a receiver of the attacker's, which takes long to answer.
    """

    target: Target
    client: httpx.AsyncClient
    tally: Tally
    dead_port: int
    slow_port: int
    own: list[int] = field(default_factory=list)
    #: Whether the bridge has refused another webhook.
    is_full: bool = False

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        params: Mapping[str, str | int] | None = None,
    ) -> httpx.Response:
        """Send a request; every answer must be one that the API describes."""
        try:
            answer = await self.client.request(method, path, json=body, params=params)
        except httpx.TimeoutException:
            raise UnexpectedError(f"{method} {path} took {REQUEST_SECONDS} s") from None
        if answer.status_code >= 500 and answer.status_code != 503:
            raise UnexpectedError(f"{method} {path} got {answer.status_code}: {answer.text[:200]}")
        if answer.status_code in (429, 503):
            await trio.sleep(0.2)
        return answer

    async def create(self, **fields: Any) -> int | None:
        """Create a webhook; return its id, or None if the bridge refuses."""
        form = {
            "name": f"{PREFIX}{random.randrange(10**9)}",
            "url": self.url(),
            "event_type": random.choice(_PATTERNS),
            **fields,
        }
        answer = await self.call("POST", "/webhooks", form)
        if answer.status_code != 201:
            return None
        webhook_id: int = answer.json()["id"]
        return webhook_id

    def url(self) -> str:
        """Return the address of a receiver that is dead or slow."""
        port = random.choice([self.dead_port, self.slow_port])
        return f"http://127.0.0.1:{port}/{random.randrange(10**6)}"

    def one(self) -> int:
        """Return one of the webhooks, or an id that does not exist."""
        return random.choice(self.own) if self.own else 10**9


#: One round of an attack.
HolderAttack = Callable[[Holder], Awaitable[None]]


async def refused_filters(holder: Holder) -> None:
    """Create and change webhooks with filters that are not allowed."""
    text = random.choice(_REFUSED_FILTERS)
    for method, path in (("POST", "/webhooks"), ("PATCH", f"/webhooks/{holder.one()}")):
        form = {"name": f"{PREFIX}f", "url": holder.url(), "event_type": "*", "filter": text}
        answer = await holder.call(method, path, form)
        if answer.status_code < 300:
            raise UnexpectedError(f"the filter {text[:60]} was accepted")


async def costly_filters(holder: Holder) -> None:
    """Use filters of the largest cost that is allowed, for all events."""
    text = random.choice(_COSTLY_FILTERS)
    answer = await holder.call(
        "PATCH", f"/webhooks/{holder.one()}", {"filter": text, "event_type": "*"}
    )
    if answer.status_code == 422 and "filter" in answer.text:
        raise UnexpectedError(f"the filter {text[:60]} was refused: {answer.text[:200]}")


async def many_webhooks(holder: Holder) -> None:
    """Create as many webhooks as allowed, of all kinds."""
    if holder.is_full or len(holder.own) >= holder.target.webhooks:
        await trio.sleep(0.5)
        return
    webhook_id = await holder.create(
        description="x" * random.choice([0, 100, 20_000]),
        retry_schedule=random.choice([None, [0], [0] * 100, [0, 0.5, 1]]),
        rate_per_second=random.choice([None, None, 0.001, 100_000]),
        max_concurrency=random.choice([1, 4, 1000]),
        timeout_seconds=random.choice([1, 15, 120]),
        ordered=random.random() < 0.2,
        filter=random.choice([None, None, None, *_COSTLY_FILTERS]),
    )
    if webhook_id is not None:
        holder.own.append(webhook_id)


async def patches(holder: Holder) -> None:
    """Change webhooks all the time."""
    path = f"/webhooks/{holder.one()}"
    changes: Mapping[str, object] = random.choice(
        [
            {"url": holder.url()},
            {"url": holder.url(), "secret": "".join(random.choices(string.ascii_letters, k=32))},
            {"is_active": False},
            {"is_active": True},
            {"rate_per_second": random.choice([0.001, 1, 100_000, None])},
            {"retry_schedule": random.choice([[0] * 100, [2_592_000], None])},
            {"event_type": random.choice(_PATTERNS)},
            {"max_concurrency": random.choice([1, 1000])},
            {"ordered": random.random() < 0.5},
            {"description": "y" * 60_000},
        ]
    )
    await holder.call("PATCH", path, changes)
    await holder.call("POST", path + random.choice(["/pause", "/resume", "/rotate-secret"]))


async def redeliveries(holder: Holder) -> None:
    """Redeliver everything that failed, cancel, and do it again."""
    path = f"/webhooks/{holder.one()}"
    chosen = {"since": "1970-01-01T00:00:00Z", "dry_run": False, "per_second": 100_000}
    await holder.call("POST", f"{path}/redeliver", {**chosen, "dry_run": random.random() < 0.2})
    await holder.call("POST", f"{path}/redelivery/cancel")
    await holder.call("POST", f"{path}/redeliver", chosen)
    failed = await holder.call("GET", f"{path}/deliveries", params={"status": "failed", "limit": 5})
    if failed.status_code == 200:
        for item in failed.json()["items"]:
            await holder.call("POST", f"/deliveries/{item['id']}/redeliver")


async def trials(holder: Holder) -> None:
    """Send tests to a receiver that does not answer."""
    await holder.call("POST", f"/webhooks/{holder.one()}/test")


async def large_deletes(holder: Holder) -> None:
    """Let deliveries of bulk events queue up, and delete their webhook."""
    webhook_id = await holder.create(event_type="bulk.*", rate_per_second=0.001)
    if webhook_id is not None:
        await trio.sleep(min(5.0, holder.target.seconds / 4))
        await holder.call("DELETE", f"/webhooks/{webhook_id}")


async def odd_parameters(holder: Holder) -> None:
    """Ask for large pages, and for impossible ones."""
    params = random.choice(_ODD_PARAMETERS)
    path = random.choice(["/webhooks", f"/webhooks/{holder.one()}/deliveries"])
    await holder.call("GET", path, params=params)
    await holder.call("GET", f"/webhooks/{holder.one()}/health")


#: Each attack, how many run it at once, and the pause between two rounds in seconds. With these,
#: the token uses up its requests per second.
CROWDS: tuple[tuple[HolderAttack, int, float], ...] = (
    (many_webhooks, 4, 0.02),
    (refused_filters, 1, 0.2),
    (costly_filters, 1, 0.2),
    (patches, 2, 0.1),
    (redeliveries, 2, 0.1),
    (trials, 4, 0.5),
    (large_deletes, 1, 0.2),
    (odd_parameters, 2, 0.2),
)
NAMES = [attack.__name__ for attack, *_ in CROWDS]


async def attack(target: Target, tally: Tally) -> None:
    """Attack until cancelled."""
    with trio.socket.socket() as dead:
        # Bound, but not listening: connections are refused, and no other process gets the port.
        await dead.bind(("127.0.0.1", 0))
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with (
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{target.port}",
                headers={"X-API-Key": target.write_token},
                timeout=REQUEST_SECONDS,
            ) as client,
            trio.open_nursery() as nursery,
        ):
            holder = Holder(
                target,
                client,
                tally,
                dead_port=dead.getsockname()[1],
                slow_port=listener.socket.getsockname()[1],
            )
            nursery.start_soon(trio.serve_listeners, _answer_late, [listener])
            for round_, at_once, rest_seconds in CROWDS:
                for _ in range(at_once):
                    nursery.start_soon(_again_and_again, holder, round_, rest_seconds)


async def _again_and_again(holder: Holder, round_: HolderAttack, rest_seconds: float) -> None:
    while True:
        holder.tally.rounds[round_.__name__] += 1
        try:
            # A flooded bridge may hang up.
            with suppress(httpx.TransportError):
                await round_(holder)
        except UnexpectedError as error:
            holder.tally.unexpected[str(error)] += 1
        await trio.sleep(rest_seconds)


async def _answer_late(stream: trio.SocketStream) -> None:
    with suppress(OSError, trio.BrokenResourceError):
        async with stream:
            while await stream.receive_some():
                await trio.sleep(random.uniform(0, SLOW_SECONDS))
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
