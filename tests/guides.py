"""The fenced blocks of the documentation, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

#: Kind and text.
Block = tuple[str, str]


def guide(name: str) -> str:
    """Return the text of a page of ``docs/``."""
    return (Path(__file__).parents[1] / "docs" / name).read_text("utf-8")


def section(text: str, number: int) -> str:
    """Return the section of a page with this number; 0 is what stands before the first."""
    return re.split(r"^## (?=\d\. )", text, flags=re.M)[number]


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a text."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
