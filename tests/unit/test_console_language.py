"""The pages in every language that there is."""

import re
import tomllib
from pathlib import Path

import pytest
from jinja2 import Environment
from jinja2.ext import extract_from_ast

from bridge.capture.blindness import BLIND_REASONS
from bridge.web.console.language import LANGUAGES, chosen_language, translator
from bridge.web.console.rendering import ROOMS

TEMPLATES = Path(__file__).parents[2] / "templates" / "console"
UNITS = {"ms", "s", "min", "h", "d", "."}
PAGES = Path(__file__).parents[2] / "bridge" / "web" / "console"


def texts() -> set[str]:
    """Return every text of the pages."""
    found = {title for _, _, title, _ in ROOMS} | UNITS | set(BLIND_REASONS.values())
    for path in PAGES.glob("*.py"):
        found.update(re.findall(r"\btranslate\(\s*\"([^\"]+)\"", path.read_text("utf-8")))
    for path in TEMPLATES.glob("*.j2"):
        tree = Environment().parse(path.read_text("utf-8"))
        for _, _, message in extract_from_ast(tree, gettext_functions=("_",)):
            if isinstance(message, str):  # else it is a name of ROOMS
                found.add(message)
    return found


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_text_is_translated_and_no_other(language: str) -> None:
    translated = tomllib.loads((TEMPLATES / f"{language}.toml").read_text("utf-8"))
    assert texts() - translated.keys() == set()
    assert translated.keys() - texts() == set()


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_texts_are_sorted(language: str) -> None:
    lines = (TEMPLATES / f"{language}.toml").read_text("utf-8").splitlines()
    names = [line.split('" = "')[0] for line in lines if line.startswith('"')]
    assert names == sorted(names)


def test_template_texts_are_translatable() -> None:
    """Words that stand between tags would be English in every language."""
    bare = {}
    for path in TEMPLATES.glob("*.j2"):
        source = re.sub(r"\{#.*?#\}", "", path.read_text("utf-8"), flags=re.DOTALL)
        source = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "\0", source, flags=re.DOTALL)
        source = re.sub(r"<(code|pre|title)\b.*?</\1>", "", source, flags=re.DOTALL)
        words = re.findall(r">([^<>]*[A-Za-z]{2}[^<>]*)<", source)
        if words := [word.strip() for word in words if "pgbridge" not in word]:
            bare[path.name] = words
    assert bare == {}


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("ru", "ru"),
        ("ru-RU,ru;q=0.9,en-US;q=0.8,en;q=0.7", "ru"),
        ("en-US,en;q=0.9,ru;q=0.8", "en"),
        ("de,ru;q=0.5", "ru"),
        ("de-DE,fr;q=0.4", "en"),
        ("*", "en"),
        ("ru;q=0", "en"),
        ("RU", "ru"),
        ("ru;q=much", "en"),
        (";;,,;q=", "en"),
    ],
)
def test_browser_gets_its_preferred_language(accepted: str, language: str) -> None:
    assert chosen_language(accepted) == language


def test_english_texts_need_no_translation() -> None:
    assert translator("en")("Sign in") == "Sign in"
    assert translator("ru")("Sign in") == "Войти"
