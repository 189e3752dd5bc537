"""The language of the pages: English, or Russian for browsers that prefer it."""

import tomllib
from collections.abc import Callable
from functools import cache
from typing import Final

from bridge import assets

#: The first is the language of the templates; each other one has ``templates/console/<code>.toml``.
LANGUAGES: Final = ("en", "ru")

Translate = Callable[[str], str]


def chosen_language(accepted: str) -> str:
    """Return the supported language that a browser prefers.

    Args:
        accepted: its ``Accept-Language`` header, such as ``ru-RU,ru;q=0.9,en;q=0.8``.
    """
    weights: dict[str, float] = {}
    for item in accepted[:1000].split(","):
        name, _, weight = item.partition(";")
        language = name.strip().lower().partition("-")[0]
        try:
            value = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        weights[language] = max(value, weights.get(language, 0.0))
    best = max(LANGUAGES, key=lambda language: weights.get(language, 0.0))
    return best if weights.get(best) else LANGUAGES[0]


@cache
def translator(language: str) -> Translate:
    """Return the function that translates texts of the pages into a language."""
    if language == LANGUAGES[0]:
        return lambda text: text
    texts: dict[str, str] = tomllib.loads(assets.template(f"console/{language}.toml"))
    return texts.__getitem__
