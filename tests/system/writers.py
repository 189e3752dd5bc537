"""The application of the client tests: inserts users all the time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.waiting import until_true

SIGN_UP = "insert into public.users (auth_type, username) values ('telegram', %s)"


class Writer:
    """Inserts users one by one from a thread."""

    def __init__(self, url: str, pause_seconds: float) -> None:
        self._url = url
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        #: The names of the inserted users, in order.
        self.names: list[str] = []
        self._thread.start()

    def _write(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.wait(self._pause_seconds):
                name = f"u{len(self.names)}"
                connection.execute(SIGN_UP, (name,))
                self.names.append(name)

    def stop(self) -> list[str]:
        """Stop, and return the names of the inserted users."""
        self._stop.set()
        self._thread.join()
        return self.names


@contextmanager
def writing(url: str, pause_seconds: float = 0.005) -> Iterator[Writer]:
    """Run a writer until it is stopped or the context ends."""
    writer = Writer(url, pause_seconds)
    try:
        yield writer
    finally:
        writer.stop()


async def logged(bot: psycopg.Connection[tuple[object, ...]], event_id: int) -> None:
    """Wait until the newest event in the log has this ID."""
    await until_true(bot, f"coalesce(max(id), 0) = {event_id} from bridge.events")
