"""The clients of the chaos test, which follow the stream from worker to worker."""

import json
from collections.abc import Sequence
from random import Random

import trio
from trio_websocket import ConnectionClosed, HandshakeError, wrap_client_stream

from tests.stress.chaos.verdict import Watched
from tests.stress.chaos.workers import Worker
from tests.system.processes import TOKEN

#: After this long without a message, as from a frozen worker, a client changes the worker.
SILENCE_SECONDS = 2.0


class Dashboard:
    """Resumes at any running worker and records every message."""

    def __init__(self, pattern: str, chance: Random) -> None:
        self.watched = Watched(pattern)
        self._chance = chance
        self._position = 0

    def has_come_to(self, event_id: int) -> bool:
        """Return whether it has received everything up to this event."""
        return self._position >= event_id

    async def follow(self, workers: Sequence[Worker]) -> None:
        """Follow the stream until cancelled."""
        while True:
            running = [worker for worker in workers if worker.is_running]
            if not running:
                await trio.sleep(0.05)
                continue
            try:
                await self._follow_one(self._chance.choice(running).bridge.port)
            except* (OSError, ConnectionClosed, HandshakeError, trio.TooSlowError):
                await trio.sleep(0.05)

    async def _follow_one(self, port: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream, trio.open_nursery() as nursery:
            target = f"/ws?token={TOKEN}&events={self.watched.pattern}&since={self._position}"
            with trio.fail_after(SILENCE_SECONDS):
                client = await wrap_client_stream(nursery, stream, "127.0.0.1", target)
            while True:
                with trio.fail_after(SILENCE_SECONDS):
                    self._take(json.loads(await client.get_message()))
                # Disconnect at random.
                if self._chance.random() < 0.01:
                    nursery.cancel_scope.cancel()

    def _take(self, message: dict[str, object]) -> None:
        match message:
            case {"type": "connection"}:
                pass
            case {"type": "resumed", "to": int(position)}:
                self._position = position
            case {"type": str(event_type), "id": int(event_id)}:
                self._position = event_id
                self.watched.events.append((event_id, event_type))
            case _:
                self.watched.unexpected.append(json.dumps(message))
