"""Sends each published event to the clients that selected it.

An event is encoded once, and each client gets one write per chunk.
"""

from collections.abc import Sequence

import structlog

from bridge.database.clock import ServerClock
from bridge.events import Event
from bridge.live.framing import FramedEvent, chunks, frame_events
from bridge.live.history import History
from bridge.live.outlet import Outlet
from bridge.live.selection import Selection
from bridge.telemetry import logs, metrics

log = structlog.get_logger()


class Hub:
    """The clients that follow the live stream, grouped by selection.

    Args:
        history: stores what is published, for clients that catch up.
        clock: the database's clock, which dates the events.
    """

    def __init__(self, history: History, clock: ServerClock) -> None:
        self.history = history
        self._clock = clock
        self._followers: dict[Selection, set[Outlet]] = {}

    @property
    def last_event_id(self) -> int:
        """The id of the newest published event."""
        return self.history.last_event_id

    def join(self, outlet: Outlet, selection: Selection) -> None:
        """Send a client the selected events after ``last_event_id``."""
        self._followers.setdefault(selection, set()).add(outlet)

    def leave(self, outlet: Outlet, selection: Selection) -> None:
        """Stop sending a selection to a client, which need not have joined."""
        group = self._followers.get(selection)
        if group is not None:
            group.discard(outlet)
            if not group:
                del self._followers[selection]

    def start_over(self, last_event_id: int) -> None:
        """Forget all published events: the log was replaced by one that ends with this id."""
        self.history = self.history.renewed(last_event_id)

    def publish(self, events: Sequence[Event]) -> None:
        """Send events to every follower, in order and without waiting for any client."""
        batch = frame_events(events)
        self.history.append(batch)
        streamed = 0
        # The groups do not change here: a client that overflows leaves when its task runs next.
        for selection, outlets in self._followers.items():
            for frames, last_id, count in chunks(batch, selection):
                for outlet in outlets:
                    outlet.write_nowait(frames, last_id)
                streamed += count * len(outlets)
        if streamed:
            metrics.events_streamed.inc(streamed)
            self._observe_delays(events)
            if logs.logs_items():
                self._log_each(batch)

    def _observe_delays(self, events: Sequence[Event]) -> None:
        """Measure how long after their capture the events reached any client."""
        now = self._clock.seconds()
        taken = {
            event_type
            for event_type in {event.event_type for event in events}
            if any(selection.takes(event_type) for selection in self._followers)
        }
        metrics.commit_to_client.observe_all(
            [now - event.occurred_at.timestamp() for event in events if event.event_type in taken]
        )

    def _log_each(self, batch: Sequence[FramedEvent]) -> None:
        """Log each event with the number of clients it was sent to."""
        for event in batch:
            log.debug(
                "event_streamed",
                event_id=event.id,
                event_type=event.event_type,
                clients=sum(
                    len(outlets)
                    for selection, outlets in self._followers.items()
                    if selection.takes(event.event_type)
                ),
            )
