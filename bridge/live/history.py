"""What has been published: the newest events in memory, all others in pages of the log.

A client that was away reads on from where it was, page by page, until it has caught up with the
stream. Pages are the same bytes for everybody: a thousand clients that come back at once read the
log about as often as one.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from sys import intern

import structlog
import trio

from bridge.database.errors import DatabaseError, DatabaseUnavailable
from bridge.events import Event
from bridge.live.frames import text_frame
from bridge.live.selection import Selection

log = structlog.get_logger()

#: One write to a client: as much as fits without another event, or one event.
CHUNK_BYTES = 64 * 1024
#: A page of the log: what a client that catches up holds on to.
PAGE_EVENTS = 500
PAGE_BYTES = 256 * 1024
#: Frames kept in memory: of the newest events, and of pages that were read lately.
RECENT_BYTES = 8 * 1024 * 1024
CACHED_BYTES = 16 * 1024 * 1024
#: Selections for which a page keeps its frames joined; clients that come back at once mostly want
#: the same.
JOINED_SELECTIONS = 2
#: Pages read at once; the pool of connections is also that of REST and of delivery.
CONCURRENT_READS = 2
#: Between two tries to read the log, at least and at most.
RETRY_SECONDS = (0.5, 1.0)


@dataclass(frozen=True, slots=True)
class LogPage:
    """Events of the log, as they are read.

    Attributes:
        events: in order.
        complete: there are no others up to where they were asked for.
        available_from: lowest id that the log has; without events, the id that comes next.
        newest_id: highest id that the log has; without events, the last that was given out.
    """

    events: Sequence[Event]
    complete: bool
    available_from: int
    newest_id: int


#: Frames for one write, the id of the last event among them, and how many they are.
Chunk = tuple[bytes, int, int]

#: Reads what follows an id, up to another one; at most so many events and bytes of payload.
ReadLog = Callable[[int, int, int, int], Awaitable[LogPage]]


@dataclass(frozen=True, slots=True)
class Framed:
    """One event as it goes out."""

    id: int
    event_type: str
    frame: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about."""
        return len(self.frame) + 200


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive events.

    Attributes:
        framed: in order.
        through: the last id that the page tells about, whether there is an event with it or not.
        available_from: lowest id that the log had; 0 for a page from memory, which lacks nothing.
    """

    framed: Sequence[Framed]
    through: int
    available_from: int = 0
    _joined: dict[Selection, Sequence[Chunk]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about and at most."""
        frames = sum(len(each.frame) for each in self.framed)
        return 500 + sum(each.size for each in self.framed) + JOINED_SELECTIONS * frames

    def part(self, after: int, until: int | None = None, carried: Selection | None = None) -> Page:
        """Return the events of the page that follow an id, up to another one.

        Args:
            carried: what is left out.
        """
        through = self.through if until is None else min(self.through, until)
        if through == self.through and carried is None and self.follows(after):
            return self
        return Page(
            [
                each
                for each in self.framed
                if after < each.id <= through
                and (carried is None or not carried.takes(each.event_type))
            ],
            through,
        )

    def follows(self, after: int) -> bool:
        """Tell whether all of its events come after an id."""
        return not self.framed or after < self.framed[0].id

    def chunks(self, selection: Selection) -> Sequence[Chunk]:
        """Return the frames of what is selected, joined: once for all who select the same."""
        joined = self._joined.get(selection)
        if joined is None:
            if len(self._joined) == JOINED_SELECTIONS:
                self._joined.clear()
            joined = self._joined[selection] = list(chunks(self.framed, selection))
        return joined


def framed(events: Iterable[Event]) -> list[Framed]:
    """Return the events as they go out."""
    return [Framed(each.id, intern(each.event_type), text_frame(each.wire())) for each in events]


def chunks(events: Iterable[Framed], selection: Selection) -> Iterator[Chunk]:
    """Yield the frames of what is selected, joined."""
    joined: list[bytes] = []
    size = last_id = 0
    for each in events:
        if not selection.takes(each.event_type):
            continue
        if joined and size + len(each.frame) > CHUNK_BYTES:
            yield b"".join(joined), last_id, len(joined)
            joined, size = [], 0
        joined.append(each.frame)
        size += len(each.frame)
        last_id = each.id
    if joined:
        yield b"".join(joined), last_id, len(joined)


class History:
    """The events up to the last one published.

    Args:
        last_event_id: the newest event of the log when the bridge started.
        read_log: reads the log. While the database is away, whoever waits for a page waits on.
        recent_bytes: how much of the newest is kept in memory.
    """

    def __init__(
        self, last_event_id: int, read_log: ReadLog, *, recent_bytes: int = RECENT_BYTES
    ) -> None:
        self.last_event_id = last_event_id
        self._read_log = read_log
        self._recent_bytes = recent_bytes
        self._recent = _Recent(last_event_id, recent_bytes)
        self._cached: OrderedDict[int, Page] = OrderedDict()
        self._cached_size = 0
        self._being_read: dict[int, trio.Event] = {}
        self._reads = trio.CapacityLimiter(CONCURRENT_READS)
        self._grown = trio.Event()

    def renewed(self, last_event_id: int) -> History:
        """Return one that knows nothing yet, for a log that is another from now on."""
        return History(last_event_id, self._read_log, recent_bytes=self._recent_bytes)

    def append(self, events: Sequence[Framed]) -> None:
        """Take in events that are being published."""
        self._recent.append(events)
        self.last_event_id = events[-1].id
        self._grown.set()
        self._grown = trio.Event()

    async def reached(self, event_id: int) -> None:
        """Wait until an event with this id, or a later one, was published."""
        while self.last_event_id < event_id:
            await self._grown.wait()

    async def bounds(self) -> tuple[int, int]:
        """Return the lowest and the highest id that the log has; see :class:`LogPage`."""
        read = await self._retried_read(0, 0, 1, 1)
        return read.available_from, read.newest_id

    def recent(self, after: int) -> Page | None:
        """Return events that follow an id, one write of them, if they are in memory.

        Args:
            after: less than ``last_event_id``.
        """
        return self._recent.page(after)

    async def page(self, after: int) -> Page:
        """Return events that follow an id, as far as one page goes.

        Args:
            after: less than ``last_event_id``.
        """
        while True:
            if (recent := self._recent.page(after)) is not None:
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
        up_to = self._recent.after  # the rest is in memory
        read = await self._retried_read(after, up_to, PAGE_EVENTS, PAGE_BYTES)
        events, through = read.events, up_to
        if events:
            # Pages end at multiples, so that clients that began at different places meet.
            multiple = -(-events[0].id // PAGE_EVENTS) * PAGE_EVENTS
            fitting = [each for each in events if each.id <= multiple]
            if len(fitting) < len(events):
                through = multiple
            elif not read.complete:
                through = events[-1].id
            events = fitting
        return Page(framed(events), through, read.available_from)

    async def _retried_read(self, *bounds: int) -> LogPage:
        while True:
            async with self._reads:
                try:
                    return await self._read_log(*bounds)
                except (DatabaseUnavailable, DatabaseError) as error:
                    log.warning("replay_waits", reason=str(error))
                    # In its place, so that a thousand clients knock and tell of it like two; but
                    # then it is another's turn, whose page may be one that can be read.
                    await trio.sleep(random.uniform(*RETRY_SECONDS))  # noqa: S311

    def _cache(self, after: int, page: Page) -> None:
        self._cached[after] = page
        self._cached_size += page.size
        while self._cached_size > CACHED_BYTES:
            _, oldest = self._cached.popitem(last=False)
            self._cached_size -= oldest.size


class _Recent:
    """The newest events: all of those after one id."""

    def __init__(self, after: int, most_bytes: int) -> None:
        self.after = after
        self._most_bytes = most_bytes
        # Those before _start have gone already; a list, unlike a deque, is quick to search.
        self._events: list[Framed] = []
        self._start = 0
        self._size = 0
        # The page that was asked for last, and what it follows: who comes back at once also
        # arrives here at once.
        self._last_page: tuple[int, Page] | None = None

    def append(self, events: Sequence[Framed]) -> None:
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
        """Return what follows an id; None if that is not all here."""
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
