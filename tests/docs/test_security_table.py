"""Every test that docs/threats.md and docs/contract.md name exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Pages, and their minimum number of rows.
PAGES = {"docs/threats.md": 60, "docs/contract.md": 40}
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def names_in(path: str) -> set[str]:
    """Return the names of a file's tests without importing it."""
    module = ast.parse((ROOT / path).read_text("utf-8"))
    return {
        each.name
        for each in ast.walk(module)
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        and each.name.startswith("test_")
    }


def rows(page: str) -> list[list[str]]:
    """Return the rows of tables whose last column names tests."""
    found: list[list[str]] = []
    in_table = False
    for line in (ROOT / page).read_text("utf-8").splitlines():
        if not line.startswith("|"):
            in_table = False
        elif line.endswith("| test |"):
            in_table = True
        elif in_table and not re.fullmatch(r"[|-]+", line):
            found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_row_names_existing_tests(page: str) -> None:
    named = rows(page)
    assert len(named) >= PAGES[page]
    for row in named:
        assert len(row) == 3, row
        assert all(row), row
        tests = TEST.findall(row[2])
        assert tests, row
        # The cell contains nothing else, so misspelt tests are found.
        assert re.fullmatch(r"[\s,]*", TEST.sub("", row[2])), row
        for path, name in tests:
            assert (ROOT / path).is_file(), path
            assert name in names_in(path), f"{path} has no {name}"


@pytest.mark.parametrize("page", PAGES)
def test_no_row_is_repeated(page: str) -> None:
    first_cells = [row[0] for row in rows(page)]
    assert sorted(first_cells) == sorted(set(first_cells))


@pytest.mark.parametrize("page", PAGES)
def test_tests_named_outside_tables_exist(page: str) -> None:
    for path, name in TEST.findall((ROOT / page).read_text("utf-8")):
        assert name in names_in(path), f"{path} has no {name}"
