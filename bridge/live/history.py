"""The published events: the newest in memory, older ones in pages read from the log.

A client that catches up reads page by page until it reaches the live stream. Clients share the
encoded pages: a thousand clients that reconnect at once read the log about as often as one.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import structlog
import trio

from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.database.pool import Database
from bridge.events import Event, events_of
from bridge.live.framing import CHUNK_BYTES, Chunk, FramedEvent, chunks, frame_events
from bridge.live.selection import Selection

log = structlog.get_logger()

#: Limits of one page of the log, which a client that catches up holds in memory.
PAGE_EVENTS = 500
PAGE_BYTES = 256 * 1024
#: Encoded events kept in memory: the newest ones, and pages that were read recently.
RECENT_BYTES = 8 * 1024 * 1024
CACHED_BYTES = 16 * 1024 * 1024
#: Selections for which a page keeps its chunks. Clients that reconnect at once mostly select the
#: same events.
JOINED_SELECTIONS = 2
#: Concurrent reads of the log; REST and delivery use the same pool of connections.
CONCURRENT_READS = 2
#: Shortest and longest pause before a failed read is retried.
RETRY_SECONDS = (0.5, 1.0)


@dataclass(frozen=True, slots=True)
class LogPage:
    """Events read from the log.

    Attributes:
        events: in order of ids.
        complete: whether these are all events of the requested range.
        available_from: lowest id from which the log is complete; if it is empty, the next id.
        newest_id: highest id in the log; if the log is empty, the last id given out.
    """

    events: Sequence[Event]
    complete: bool
    available_from: int
    newest_id: int


#: Reads the events after an id up to another one, with a limit of events and of payload bytes.
ReadLog = Callable[[int, int, int, int], Awaitable[LogPage]]


async def read_log(
    database: Database, after: int, through: int, most_events: int, most_bytes: int
) -> LogPage:
    """Read events of the log.

    Args:
        after: id before the first event.
        through: id of the last event.
        most_bytes: limit of the payloads together; a single event may be larger.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
    """
    rows = await database.fetch("log_page", after, through, most_events, most_bytes)
    bounds = rows[0]
    events = events_of(row for row in rows if row["id"] is not None)
    read_rows = bounds["read_rows"] or 0
    return LogPage(
        events,
        complete=len(events) == read_rows < most_events,
        available_from=bounds["available_from"],
        newest_id=bounds["newest_id"],
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive events.

    Attributes:
        events: in order of ids.
        through: the last id the page covers, whether an event has it or not.
        available_from: lowest id from which the log is complete; 0 for a page from memory.
    """

    events: Sequence[FramedEvent]
    through: int
    available_from: int = 0
    _joined: dict[Selection, Sequence[Chunk]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Approximate upper bound of the memory use in bytes."""
        frames = sum(len(each.frame) for each in self.events)
        return 500 + sum(each.size for each in self.events) + JOINED_SELECTIONS * frames

    def part(self, after: int, until: int | None = None, carried: Selection | None = None) -> Page:
        """Return the events after an id.

        Args:
            until: id of the last event; None for the end of the page.
            carried: events to leave out.
        """
        through = self.through if until is None else min(self.through, until)
        if (
            through == self.through
            and carried is None
            and (not self.events or after < self.events[0].id)
        ):
            return self
        return Page(
            [
                each
                for each in self.events
                if after < each.id <= through
                and (carried is None or not carried.takes(each.event_type))
            ],
            through,
        )

    def chunks(self, selection: Selection) -> Sequence[Chunk]:
        """Return the selected events as chunks, which clients with the same selection share."""
        joined = self._joined.get(selection)
        if joined is None:
            if len(self._joined) == JOINED_SELECTIONS:
                self._joined.clear()
            joined = self._joined[selection] = list(chunks(self.events, selection))
        return joined


class History:
    """The events up to the last published one.

    Args:
        last_event_id: the newest event of the log when the bridge started.
        read_log: reads the log. While the database is unavailable, callers wait for their page.
        recent_bytes: how much of the newest events is kept in memory.
    """

    def __init__(
        self, last_event_id: int, read_log: ReadLog, *, recent_bytes: int = RECENT_BYTES
    ) -> None:
        self.last_event_id = last_event_id
        self._read_log = read_log
        self._recent_bytes = recent_bytes
        self.recent = Recent(last_event_id, recent_bytes)
        self._cached: OrderedDict[int, Page] = OrderedDict()
        self._cached_size = 0
        self._being_read: dict[int, trio.Event] = {}
        self._reads = trio.CapacityLimiter(CONCURRENT_READS)
        self._grown = trio.Event()

    def renewed(self, last_event_id: int) -> History:
        """Return an empty history for a log that replaces this one."""
        return History(last_event_id, self._read_log, recent_bytes=self._recent_bytes)

    def append(self, events: Sequence[FramedEvent]) -> None:
        """Add events that are being published."""
        self.recent.append(events)
        self.last_event_id = events[-1].id
        self._grown.set()
        self._grown = trio.Event()

    async def reached(self, event_id: int) -> None:
        """Wait until an event with this id or a later one was published."""
        while self.last_event_id < event_id:
            await self._grown.wait()

    async def newest_id(self) -> int:
        """Return the highest id in the log, which this bridge may not have published yet."""
        return (await self._retried_read(0, 0, 1, 1)).newest_id

    async def page(self, after: int) -> Page:
        """Return one page of the events after an id.

        Args:
            after: less than ``last_event_id``.
        """
        while True:
            if (recent := self.recent.page(after)) is not None:
                return recent
            if (cached := self._cached.get(after)) is not None:
                self._cached.move_to_end(after)
                return cached
            if (being_read := self._being_read.get(after)) is not None:
                await being_read.wait()
                continue
            self._being_read[after] = trio.Event()
            try:
                page = await self._read(after)
                self._cache(after, page)
                return page
            finally:
                self._being_read.pop(after).set()

    async def _read(self, after: int) -> Page:
        up_to = self.recent.after  # the rest is in memory
        read = await self._retried_read(after, up_to, PAGE_EVENTS, PAGE_BYTES)
        events, through = read.events, up_to
        if events:
            # Pages end at multiples, so clients that began at different ids share the later pages.
            multiple = -(-events[0].id // PAGE_EVENTS) * PAGE_EVENTS
            fitting = [each for each in events if each.id <= multiple]
            if len(fitting) < len(events):
                through = multiple
            elif not read.complete:
                through = events[-1].id
            events = fitting
        return Page(frame_events(events), through, read.available_from)

    async def _retried_read(self, *bounds: int) -> LogPage:
        while True:
            async with self._reads:
                try:
                    return await self._read_log(*bounds)
                except (DatabaseUnavailable, DatabaseError) as error:
                    log.warning("replay_delayed", reason=str(error))
                    # Sleep while holding the limiter, so that a thousand clients retry and log
                    # like two. Then release it: the page of another client may be readable.
                    await trio.sleep(random.uniform(*RETRY_SECONDS))  # noqa: S311

    def _cache(self, after: int, page: Page) -> None:
        self._cached[after] = page
        self._cached_size += page.size
        while self._cached_size > CACHED_BYTES:
            _, oldest = self._cached.popitem(last=False)
            self._cached_size -= oldest.size


class Recent:
    """The newest events, in memory.

    Args:
        most_bytes: limit of their size.
    """

    def __init__(self, after: int, most_bytes: int) -> None:
        #: All events after this id are here.
        self.after = after
        self._most_bytes = most_bytes
        # Events before _start were dropped; unlike a deque, a list can be bisected.
        self._events: list[FramedEvent] = []
        self._start = 0
        self._size = 0
        # The last page and the id before it: clients that reconnect at once ask for the same one.
        self._last_page: tuple[int, Page] | None = None

    def append(self, events: Sequence[FramedEvent]) -> None:
        """Add events that are being published, and drop the oldest."""
        self._last_page = None
        self._events += events
        self._size += sum(each.size for each in events)
        while self._size > self._most_bytes:
            oldest = self._events[self._start]
            self._start += 1
            self._size -= oldest.size
            self.after = oldest.id
        if self._start > len(self._events) // 2:
            del self._events[: self._start]
            self._start = 0

    def page(self, after: int) -> Page | None:
        """Return the events after an id, one chunk at most; None if they are not all in memory.

        Args:
            after: less than the id of the last event.
        """
        if after < self.after:
            return None
        if self._last_page is not None and self._last_page[0] == after:
            return self._last_page[1]
        first = bisect_right(self._events, after, self._start, key=attrgetter("id"))
        chosen = self._events[first : first + PAGE_EVENTS]
        size = 0
        for count, each in enumerate(chosen, 1):
            size += len(each.frame)
            if size > CHUNK_BYTES:
                chosen = chosen[: max(count - 1, 1)]
                break
        page = Page(chosen, chosen[-1].id)
        self._last_page = after, page
        return page
