"""Locates SQL files, templates and the version, in a checkout and in an installed wheel."""

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.resources import files
from importlib.resources.abc import Traversable


@cache
def _root(name: str) -> Traversable:
    packaged = files("bridge").joinpath(f"_{name}")
    return packaged if packaged.is_dir() else files("bridge").joinpath("..", name)


@cache
def query(name: str) -> str:
    """Return the text of ``sql/queries/<name>.sql``."""
    return _root("sql").joinpath("queries", f"{name}.sql").read_text("utf-8")


def version() -> str:
    """Return the version of pgbridge; 0 for a checkout that is not installed."""
    try:
        return installed_version("pgbridge")
    except PackageNotFoundError:
        return "0"


def migrations() -> list[tuple[str, str]]:
    """Return (file name, text) of every file in ``sql/migrations``, sorted by name."""
    folder = _root("sql").joinpath("migrations")
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return [(entry.name, entry.read_text("utf-8")) for entry in entries]


def schema_version() -> int:
    """Return the version of the newest migration."""
    return int(migrations()[-1][0].partition("_")[0])


def schema_mismatch(version: int) -> tuple[str, str] | None:
    """Return the problem with a schema of this version and its fix, or None if it is current."""
    newest = schema_version()
    if version < newest:
        return (
            f"the database is at schema version {version}, this pgbridge needs {newest}",
            "run: pgbridge init",
        )
    if version > newest:
        return (
            f"the database is newer than this pgbridge (schema version {version}, "
            f"this pgbridge knows {newest})",
            "install the newer pgbridge",
        )
    return None


def template(path: str) -> str:
    """Return the text of ``templates/<path>``."""
    return _root("templates").joinpath(*path.split("/")).read_text("utf-8")


def presets() -> list[str]:
    """Return the names of the files in ``templates/presets``, without their suffix."""
    folder = _root("templates").joinpath("presets")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir())


def console_file(name: str) -> bytes:
    """Return a file of ``templates/console/static``.

    ``pgbridge.js`` is kept in ``examples``; the wheel has a copy in the same folder.
    """
    file = _root("templates").joinpath("console", "static", name)
    if not file.is_file():
        file = files("bridge").joinpath("..", "examples", name)
    return file.read_bytes()
