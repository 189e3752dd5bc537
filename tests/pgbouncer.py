"""A real PgBouncer in front of the test server."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

#: Debian installs it in a directory that only root has in PATH.
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

CONFIGURATION = """
[databases]
* = host={server} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {pool_size}
{more}
"""
#: Makes PgBouncer accept clients that request session settings, and ignore the settings.
IGNORE_SETTINGS = (
    "ignore_startup_parameters = search_path, statement_timeout, lock_timeout,"
    " idle_in_transaction_session_timeout, idle_session_timeout"
)


@contextmanager
def pgbouncer(
    url: str, *, mode: str = "transaction", pool_size: int = 4, ignore_settings: bool = False
) -> Iterator[str]:
    """Run a PgBouncer in front of a database; yield the URL through it.

    Skip the test if PgBouncer is not installed.
    """
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    parts = urlsplit(url)
    [directory] = parse_qs(parts.query)["host"]
    # It refuses to run as root, and only the server's user can reach the server's socket.
    owner = Path(directory).stat().st_uid
    with tempfile.TemporaryDirectory(prefix="pgbridge-") as home:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        configuration = Path(home, "pgbouncer.ini")
        configuration.write_text(
            CONFIGURATION.format(
                server=directory,
                user=parts.username,
                port=port,
                mode=mode,
                pool_size=pool_size,
                more=IGNORE_SETTINGS if ignore_settings else "",
            )
        )
        Path(home).chmod(0o755)
        process = subprocess.Popen(
            [PGBOUNCER, "--quiet", str(configuration)],
            user=owner if os.geteuid() == 0 else None,
            stderr=subprocess.PIPE,
        )
        try:
            pooled = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
            _wait_for(pooled, process)
            yield pooled
        finally:
            process.kill()
            process.communicate()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until it accepts connections."""
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
