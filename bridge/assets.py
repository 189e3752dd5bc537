"""Finds the SQL files and templates, in a checkout as inside the installed wheel."""

from functools import cache
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


def migrations() -> list[tuple[str, str]]:
    """Return (file name, text) of every file in ``sql/migrations``, in order of their names."""
    folder = _root("sql").joinpath("migrations")
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return [(entry.name, entry.read_text("utf-8")) for entry in entries]


def template(path: str) -> str:
    """Return the text of ``templates/<path>``."""
    return _root("templates").joinpath(*path.split("/")).read_text("utf-8")
