"""Hands every event to every client: framed once, written once a client."""

from collections.abc import Sequence

from bridge.events import Event
from bridge.live.frames import text_frame
from bridge.live.outlet import Outlet


class Hub:
    """The clients that are connected, and the last event that they were sent."""

    def __init__(self, last_event_id: int) -> None:
        self.last_event_id = last_event_id
        self._outlets: set[Outlet] = set()

    def join(self, outlet: Outlet) -> None:
        """Send a client everything after ``last_event_id``."""
        self._outlets.add(outlet)

    def leave(self, outlet: Outlet) -> None:
        """Send it nothing more. It need not have joined."""
        self._outlets.discard(outlet)

    def publish(self, events: Sequence[Event]) -> None:
        """Send the events, in this order, to all clients; waits for none of them."""
        frames = b"".join(text_frame(event.wire()) for event in events)
        self.last_event_id = events[-1].id
        # A copy: a client that does not keep up leaves while it is written to.
        for outlet in list(self._outlets):
            outlet.write_nowait(frames)
