"""Hands every event to every client that wants it: framed once, written once a client."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from bridge.events import Event
from bridge.live.history import Framed, History, chunks, framed
from bridge.live.outlet import Outlet
from bridge.live.selection import Selection
from bridge.telemetry import logs, metrics

log = structlog.get_logger()


class Hub:
    """The clients that follow the stream, grouped by what they want.

    Args:
        history: takes in what is published, for those who come later.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self._followers: dict[Selection, set[Outlet]] = {}

    @property
    def last_event_id(self) -> int:
        """The last event that was published."""
        return self.history.last_event_id

    @property
    def followers(self) -> int:
        """How many clients follow the stream."""
        return sum(map(len, self._followers.values()))

    def join(self, outlet: Outlet, selection: Selection) -> None:
        """Send a client what is selected of everything after ``last_event_id``."""
        self._followers.setdefault(selection, set()).add(outlet)

    def leave(self, outlet: Outlet, selection: Selection) -> None:
        """Send a client nothing more of a selection. It need not have joined."""
        group = self._followers.get(selection)
        if group is not None:
            group.discard(outlet)
            if not group:
                del self._followers[selection]

    def start_over(self, last_event_id: int) -> None:
        """Forget what was published; the log goes on after this id, and that is another log."""
        self.history = self.history.renewed(last_event_id)

    def publish(self, events: Sequence[Event]) -> Collection[str]:
        """Send the events, in this order, to all who follow; waits for none of them.

        Returns:
            The types of those events that anybody was sent.
        """
        batch = framed(events)
        self.history.append(batch)
        streamed = 0
        # Nobody leaves meanwhile: who does not keep up is told to, and does so when it runs next.
        for selection, outlets in self._followers.items():
            for frames, last_id, count in chunks(batch, selection):
                for outlet in outlets:
                    outlet.write_nowait(frames, last_id)
                streamed += count * len(outlets)
        if not streamed:
            return ()
        metrics.events_streamed.inc(streamed)
        if logs.items_told():
            self._tell_each(batch)
        return {
            event_type
            for event_type in {each.event_type for each in batch}
            if any(selection.takes(event_type) for selection in self._followers)
        }

    def _tell_each(self, batch: Sequence[Framed]) -> None:
        """Log each event, and to how many clients it was handed."""
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
