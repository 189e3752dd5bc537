"""Bodies of requests, which refuse misspelt fields."""

from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from bridge.terminal.suggestion import shown, unknown

#: Unknown fields that an error lists. Each is compared with all known ones.
MOST_LISTED: Final = 3


class Body(BaseModel):
    """A body whose unknown fields are errors, each with what was probably meant.

    Attributes:
        read_only: names that responses have. Clients send them back with a change; they are
            ignored.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    read_only: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        names = cls.model_fields
        if problems := [name for name in body if name not in names and name not in cls.read_only]:
            raise ValidationError.from_exception_data(
                cls.__name__, [_problem(name, names) for name in problems[:MOST_LISTED]]
            )
        return {name: value for name, value in body.items() if name in names}


def _problem(name: str, known: Any) -> InitErrorDetails:
    # Pydantic's own message has no suggestion. The text is data, lest its braces be a template.
    message = {"message": unknown("field", name, known)}
    kind = PydanticCustomError("extra_forbidden", "{message}", message)
    return InitErrorDetails(type=kind, loc=(shown(name),), input=None)
