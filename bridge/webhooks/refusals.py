"""Translates what PostgreSQL refuses into errors that name the field."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bridge.database.queries import Refusal, refusal_of, unrepresentable
from bridge.webhooks.errors import InvalidInputError


@contextmanager
def filter_errors() -> Iterator[None]:
    """Translate the database's refusal of a filter, by bridge.to_filter()."""
    try:
        yield
    except Exception as error:
        match refusal_of(error):
            case Refusal(message=message, constraint="webhooks_filter_allowed"):
                problem = message.removeprefix("filter: ")
                raise InvalidInputError("filter", problem) from None
        raise


@contextmanager
def input_errors(fields: Mapping[str, object]) -> Iterator[None]:
    """Translate the refusal of a filter, or of a character in one of the fields."""
    try:
        with filter_errors():
            yield
    except Exception as error:
        if problem := unrepresentable(error):
            texts = ((name, each) for name, each in fields.items() if isinstance(each, str))
            field = next((name for name, text in texts if problem.character in text), None)
            raise InvalidInputError(field, str(problem)) from None
        raise
