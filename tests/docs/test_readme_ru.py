"""README.ru.md has the same content as README.md.

The test compares everything except words, section by section: paragraphs, list items, table rows,
code, links, names in code and figures.
"""

import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH = (ROOT / "README.md").read_text("utf-8")
RUSSIAN = (ROOT / "README.ru.md").read_text("utf-8")

#: Files of the Russian page, and their English counterparts.
COUNTERPARTS = {
    "README.md": "README.ru.md",
    "docs/images/overview-ru-light.png": "docs/images/overview-light.png",
    "docs/images/overview-ru-dark.png": "docs/images/overview-dark.png",
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
RUSSIAN_LETTER = re.compile(r"[А-Яа-яЁё]")
#: Comment markers by language.
COMMENTS = {"sh": r"#", "sql": r"--"}

# 1,260,000 and 0.87 in English; 1 260 000, with spaces that do not break, and 0,87 in Russian.
ENGLISH_FIGURE = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?")
RUSSIAN_FIGURE = re.compile("\\d{1,3}(?:\u00a0\\d{3})+(?!\\d)|\\d+(?:[.,]\\d+)?")


def english_figures(text: str) -> list[Decimal]:
    return [Decimal(each.replace(",", "")) for each in ENGLISH_FIGURE.findall(text)]


def russian_figures(text: str) -> list[Decimal]:
    return [
        Decimal(each.replace("\u00a0", "").replace(",", "."))
        for each in RUSSIAN_FIGURE.findall(text)
    ]


def sections(page: str) -> list[str]:
    """Split a page at its second-level headings."""
    prose = FENCE.sub(lambda block: block[0].replace("\n#", "\n\0#"), page)
    return [each.replace("\0", "") for each in re.split(r"^(?=#{2,} )", prose, flags=re.MULTILINE)]


def shape(section: str) -> list[str]:
    """Return the kinds of a section's parts in order."""
    kinds = {"#": "heading", "- ": "point", "|": "row", "```": "block", "<": "picture"}
    found = []
    for part in re.split(r"\n\s*\n", FENCE.sub("\n```\n", section).strip()):
        first, *further = part.split("\n")
        starts = [first] + [line for line in further if line.startswith(("- ", "|"))]
        found += [
            next((kind for sign, kind in kinds.items() if line.startswith(sign)), "paragraph")
            for line in starts
        ]
    return found


def code_alone(kind: str, block: str) -> str:
    """Return a block without comments, which are translated."""
    if kind not in COMMENTS:
        return block
    return re.sub(rf"(^|\s+){COMMENTS[kind]}\s.*$", "", block, flags=re.MULTILINE)


def drawing(block: str) -> list[list[str]]:
    """Return the shapes in each line of a drawing, ignoring lengths."""
    return [
        [re.sub(r"(.)\1+", r"\1", each) for each in re.findall(r"[\u2190-\u25ff]+", line)]
        for line in block.splitlines()
    ]


def same_code(kind: str, english: str, russian: str) -> bool:
    """Return whether two blocks are equal except for comments and words in drawings."""
    if not kind and RUSSIAN_LETTER.search(russian):
        words = [Counter(re.findall(r"[A-Za-z_/]+", block)) for block in (russian, english)]
        return drawing(english) == drawing(russian) and words[0] <= words[1]
    return code_alone(kind, english) == code_alone(kind, russian)


def names_in_code(text: str) -> Counter[str]:
    """Count the names in code, such as commands and settings."""
    return Counter(" ".join(each.split()) for each in CODE.findall(text))


def links(text: str) -> Counter[str]:
    """Count the link targets, mapped to the English page."""
    targets = [first or second for first, second in LINK.findall(text)]
    return Counter(COUNTERPARTS.get(each, each) for each in targets)


def differences(english: str, russian: str) -> list[str]:
    """Return the differences between the two pages, in words.

    Args:
        english: the text of README.md.
        russian: the text of README.ru.md.
    """
    found = []
    for one, other in zip_longest(sections(english), sections(russian), fillvalue=""):
        name = f"{one.splitlines()[:1]} and {other.splitlines()[:1]}"
        blocks, russian_blocks = FENCE.findall(one), FENCE.findall(other)
        prose, russian_prose = FENCE.sub("", one), FENCE.sub("", other)
        # Digits in links are not figures of the text.
        bare, russian_bare = LINK.sub("]", prose), LINK.sub("]", russian_prose)
        rows, russian_rows = (
            [line for line in text.splitlines() if line.startswith("|")]
            for text in (bare, russian_bare)
        )
        same = {
            "parts": shape(one) == shape(other),
            "blocks": [kind for kind, _ in blocks] == [kind for kind, _ in russian_blocks],
            "links": links(prose) == links(russian_prose),
            "names in code": names_in_code(prose) == names_in_code(russian_prose),
            "figures of the text": Counter(english_figures(bare))
            == Counter(russian_figures(russian_bare)),
            "figures of the tables": [english_figures(row) for row in rows]
            == [russian_figures(row) for row in russian_rows],
        }
        for (kind, block), (_, russian_block) in zip(blocks, russian_blocks, strict=False):
            same[f"code: {block[:60]!r}"] = same_code(kind, block, russian_block)
        found += [f"{what} of {name}" for what, is_same in same.items() if not is_same]
    return found


def test_russian_readme_matches_the_english_one() -> None:
    assert differences(ENGLISH, RUSSIAN) == []


def test_readmes_link_to_each_other() -> None:
    assert ENGLISH.startswith("# pgbridge\n\nEnglish · [Русский](README.ru.md)\n")
    assert RUSSIAN.startswith("# pgbridge\n\n[English](README.md) · Русский\n")


@pytest.mark.parametrize("heading", re.findall(r"^#{2,} .*$", RUSSIAN, re.MULTILINE))
def test_headings_of_the_russian_readme_are_russian(heading: str) -> None:
    assert RUSSIAN_LETTER.search(heading)


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(page: str) -> str:
        assert old in page, "the page has changed: this case needs another place"
        return page.replace(old, new, 1)

    return change


def without_its_last_section(page: str) -> str:
    return page[: page.rindex("\n## ")]


def with_two_sections_swapped(page: str) -> str:
    first, second, third, *others = sections(page)
    return "".join([first, third, second, *others])


CHANGES = {
    "a figure of a table": replaced("| 7,700–8,000 |", "| 7,700–8,001 |"),
    "a figure of a table, tenfold": replaced("| 1.26 |", "| 12.6 |"),
    "figures of a row in another order": replaced("| 8, 10 ms | 8, 9 ms", "| 8, 9 ms | 8, 10 ms"),
    "a figure of the text": replaced("5 min, 30 min", "5 min, 20 min"),
    "a command": replaced("pgbridge doctor  ", "pgbridge look  "),
    "an option in a block": replaced("--scope events:read --scope", "--scope"),
    "a name in a query": replaced("bridge.pause_webhook(1)", "bridge.stop_webhook(1)"),
    "a line of an example": replaced("        if valid:\n", ""),
    "a line of what is shown": replaced('{"type": "pong"}\n', ""),
    "an arrow of the drawing": replaced("relay ─▶ events", "relay ─ events"),
    "a word of the drawing": replaced("courier", "sender"),
    "a setting in the text": replaced("`BRIDGE_DOORBELL=poll`", "`BRIDGE_BELL=poll`"),
    "where a link leads": replaced("(docs/logs.md)", "(docs/metrics.md)"),
    "a picture": replaced("overview-dark.png", "events-dark.png"),
    "a point less": replaced("- Triggers do not fire", "  Triggers do not fire"),
    "a row less": replaced("\n| `ticket.created`", "\n`ticket.created`"),
    "a paragraph more": replaced("\n\nThe bridge sends:", "\n\nOne more.\n\nThe bridge sends:"),
    "a section more": replaced("\n## Operate it", "\n## More\n\n## Operate it"),
    "a section less": without_its_last_section,
    "another order of sections": with_two_sections_swapped,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_one_sided_change_is_noticed(change: Callable[[str], str]) -> None:
    assert differences(change(ENGLISH), RUSSIAN) != []


def test_figures_are_parsed_in_both_languages() -> None:
    assert english_figures("1,260,000 of 2,710; 8, 10 ms; 0.87") == [
        *(1260000, 2710, 8, 10),
        Decimal("0.87"),
    ]
    assert russian_figures("1\u00a0260\u00a0000 из 2710; 8, 10 мс; 0,87") == [
        *(1260000, 2710, 8, 10),
        Decimal("0.87"),
    ]
