"""A real PgBouncer in front of the test server."""

from __future__ import annotations

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

#: Debian installs it where only root's PATH looks.
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
#: Has it take clients that ask for settings of their sessions, which they do not get.
TAKES_SETTINGS = (
    "ignore_startup_parameters = tcp_keepalives_idle, tcp_keepalives_interval,"
    " tcp_keepalives_count, search_path, jit"
)


@contextmanager
def pgbouncer(
    url: str, *, mode: str = "transaction", pool_size: int = 4, takes_settings: bool = False
) -> Iterator[str]:
    """Run a PgBouncer in front of a database; yields the URL that leads through it.

    Where there is none, the test is skipped.
    """
    if PGBOUNCER is None:
        pytest.skip("there is no pgbouncer; on Debian: apt-get install pgbouncer")
    parts = urlsplit(url)
    [directory] = parse_qs(parts.query)["host"]
    # It refuses to be root, and the server's socket is in a directory of the server's own user.
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
                more=TAKES_SETTINGS if takes_settings else "",
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
    """Wait until it takes connections."""
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
