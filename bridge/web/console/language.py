"""The language of the pages: English, or Russian for browsers that ask for it."""

import tomllib
from collections.abc import Callable
from functools import cache
from typing import Final

from bridge import assets

#: The pages are written in the first; the others have a file, ``templates/console/<it>.toml``.
LANGUAGES: Final = ("en", "ru")

Translate = Callable[[str], str]


def chosen_language(accepted: str) -> str:
    """Return the language that a browser likes best of those that there are.

    Args:
        accepted: its header ``Accept-Language``, such as ``ru-RU,ru;q=0.9,en;q=0.8``.
    """
    wishes: dict[str, float] = {}
    for wish in accepted[:1000].split(","):
        name, _, weight = wish.partition(";")
        language = name.strip().lower().partition("-")[0]
        try:
            weighed = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        wishes[language] = max(weighed, wishes.get(language, 0.0))
    best = max(LANGUAGES, key=lambda language: wishes.get(language, 0.0))
    return best if wishes.get(best) else LANGUAGES[0]


@cache
def translator(language: str) -> Translate:
    """Return what translates a text of the pages into a language."""
    if language == LANGUAGES[0]:
        return lambda text: text
    return dictionary(language).__getitem__


@cache
def dictionary(language: str) -> dict[str, str]:
    """Return the texts of the pages, each with its translation."""
    texts: dict[str, str] = tomllib.loads(assets.template(f"console/{language}.toml"))
    return texts
