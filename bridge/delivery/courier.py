"""Runs deliveries: claims them, attempts them, settles them.

A delivery is leased in a short transaction, sent outside of any, and settled in a batch. From claim
to settlement it occupies a slot: at most ``concurrency`` in all, and ``max_concurrency`` per
webhook. This bounds the memory for responses and the number of repeats after a crash; payloads are
bounded by bytes. A courier without free slots claims nothing, and the deliveries wait in the queue.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from uuid import UUID

import structlog
import trio

from bridge.access.vault import Vault
from bridge.database.clock import ServerClock
from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.database.restart import keep_running
from bridge.delivery import claiming
from bridge.delivery.attempt import Attempt, Delivery, Sender
from bridge.delivery.claiming import Claimer
from bridge.delivery.owners import Owners
from bridge.delivery.settling import Settler
from bridge.delivery.transport import Transport
from bridge.tasks import WakeUp, linger

log = structlog.get_logger()

#: Maximum number of deliveries per claim: few enough that the previous attempts are still running
#: when the next ones arrive.
CLAIM_BATCH = 64
#: How long running attempts may continue after ``stop``.
STOP_SECONDS = 6.0
#: How long a last claim may take after ``stop``, and later settling and returning leases.
LAST_WORDS_SECONDS = 1.0
#: A courier that has not claimed, or not settled a finished attempt, for this long is stalled.
STALL_SECONDS = 10.0


class Courier:
    """Delivers what is due.

    Args:
        vault: decrypts the webhooks' secrets.
        concurrency: maximum number of attempts in flight over all webhooks; half of it for
            webhooks that mostly fail.
        schedule: seconds to wait before each attempt of a delivery.
        disable_seconds: how long a webhook may fail without a success before it is disabled.
        create_partitions: creates missing partitions of the logs; returns how many.
        poll_seconds: longest time between two claims.
    """

    def __init__(
        self,
        database: Database,
        transport: Transport,
        vault: Vault,
        *,
        concurrency: int,
        schedule: Sequence[float],
        disable_seconds: float,
        create_partitions: Callable[[], Awaitable[int]],
        poll_seconds: float,
    ) -> None:
        self._database = database
        self._transport = transport
        self._concurrency = concurrency
        self._poll_seconds = min(poll_seconds, claiming.SWEEP_SECONDS)
        clock = ServerClock()
        # Claimed and not settled yet; each occupies a slot. A delivery is here twice if its lease
        # was taken away, by hand or by restoring a backup, and it was claimed again.
        self._held: dict[tuple[int, UUID], Delivery] = {}
        self._claimer = Claimer(
            database,
            clock,
            most_failing=max(1, concurrency // 2),
            schedule=schedule,
            owner=database.key,
        )
        self._owners = Owners(database, died=self.look_everywhere)
        self._sender = Sender(transport, vault, clock)
        self._settler = Settler(
            database,
            settled=self._settled,
            disable_seconds=disable_seconds,
            create_partitions=create_partitions,
        )
        #: Whether the last claim left deliveries that are due.
        self._has_more = False
        self._due = WakeUp()
        self._ended = WakeUp()
        self._stopping = False
        self._claiming = trio.CancelScope()
        self._over = False
        #: Set when ``run`` has released everything.
        self.stopped = trio.Event()
        self._polled_at = trio.current_time()

    @property
    def in_flight(self) -> int:
        """Number of deliveries that are being sent or about to be settled."""
        return len(self._held)

    def claim_trouble(self) -> str | None:
        """Return a message if no claim has finished for too long, else None."""
        waited = trio.current_time() - self._polled_at
        if waited < STALL_SECONDS:
            return None
        return f"this bridge has not polled for deliveries for {waited:.0f} s"

    def settle_trouble(self) -> str | None:
        """Return a message if a finished attempt has not been settled for too long, else None."""
        waiting = self._settler.waiting
        waited = trio.current_time() - waiting[0].ended if waiting else 0.0
        if waited < STALL_SECONDS:
            return None
        return f"the result of an attempt has not been saved for {waited:.0f} s"

    def deliveries_due(self) -> None:
        """Claim soon: deliveries may be due."""
        self._due.signal()

    def look_everywhere(self) -> None:
        """Sweep soon: deliveries may be due that earlier claims passed over."""
        self._claimer.sweep_next()
        self._due.signal()

    def stop(self) -> None:
        """Make ``run`` claim nothing more, finish what is in flight and return."""
        self._stopping = True
        self._due.signal()
        # A running claim ends in time; a pause because the database is away might not.
        self._claiming.deadline = trio.current_time() + LAST_WORDS_SECONDS

    async def run(self) -> None:
        """Deliver until ``stop``; then finish or release what is in flight."""
        async with trio.open_nursery() as watching:
            watching.start_soon(keep_running, "presence", self._database.hold_key)
            watching.start_soon(keep_running, "owners", self._owners.run)
            async with trio.open_nursery() as settling:
                settling.start_soon(self._settle_until_over)
                async with trio.open_nursery() as attempts:
                    with self._claiming:
                        await keep_running("claim", lambda: self._claim_until_stopped(attempts))
                    attempts.cancel_scope.deadline = trio.current_time() + STOP_SECONDS
                self._over = True
                self._ended.signal()
                settling.cancel_scope.deadline = trio.current_time() + LAST_WORDS_SECONDS
            watching.cancel_scope.cancel()
        with trio.move_on_after(LAST_WORDS_SECONDS):
            await self._release()
        await self._sender.close()
        self.stopped.set()

    async def _claim_until_stopped(self, attempts: trio.Nursery) -> None:
        await self._owners.register()
        while not self._stopping:
            started = trio.current_time()
            free = min(CLAIM_BATCH, self._concurrency - len(self._held))
            if free <= 0:
                # A full courier counts as polling: slow receivers are not its fault.
                self._polled_at = started
            else:
                deliveries = await self._claimer.claim(free, self._held.values(), self._owners.dead)
                self._polled_at = trio.current_time()
                for delivery in deliveries:
                    self._held[delivery.id, delivery.lease_token] = delivery
                    attempts.start_soon(self._attempt, delivery)
                self._has_more = len(deliveries) == free or self._claimer.has_cut
                if self._has_more:
                    continue
            self._transport.close_idle()
            await linger(started)
            await self._due.wait(self._poll_seconds)

    async def _attempt(self, delivery: Delivery) -> None:
        self._settler.waiting.append(await self._sender.attempt(delivery))
        self._ended.signal()

    async def _settle_until_over(self) -> None:
        while not self._over or self._settler.waiting:
            started = trio.current_time()
            await keep_running("settle", self._settle)
            if not self._over and len(self._held) > CLAIM_BATCH:
                await linger(started)
            await self._ended.wait(self._poll_seconds)
        await keep_running("count", partial(self._settler.count, now=True))

    async def _settle(self) -> None:
        await self._settler.settle_all()
        await self._settler.count(now=not self._held and not self._has_more)

    def _settled(self, batch: Sequence[Attempt]) -> None:
        """Give the slots of settled attempts to other deliveries."""
        for attempt in batch:
            del self._held[attempt.delivery.id, attempt.delivery.lease_token]
        self._due.signal()

    async def _release(self) -> None:
        """Return the leases of deliveries that were not sent or settled, and sign off."""
        held = list(self._held.values())
        try:
            if held:
                await self._database.fetch(
                    "release", [each.id for each in held], [each.lease_token for each in held]
                )
                log.info("leases_released", count=len(held))
            await self._owners.forget([self._database.key])
        except (DatabaseUnavailable, DatabaseError) as error:
            if held:
                log.warning("lease_release_failed", count=len(held), reason=str(error))
