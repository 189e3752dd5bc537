"""Why an operation on webhooks fails. Each message says what is wrong, in one line."""

from typing import Literal

What = Literal["webhook", "delivery", "redelivery of webhook", "dead letter"]


class WebhookError(Exception):
    """The operation is not possible. The message gives the reason."""


class NotFoundError(WebhookError):
    """No webhook, delivery or dead letter has this id, or this webhook was never redelivered."""

    def __init__(self, what: What, row_id: int) -> None:
        super().__init__(f"there is no {what} {row_id}")
        self.what = what


class TooManyError(WebhookError):
    """There are as many webhooks as there may be."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"there are already {most} webhooks, the limit of BRIDGE_MAX_WEBHOOKS; delete some, or "
            "raise it"
        )


class InvalidInputError(WebhookError):
    """A value is invalid.

    Attributes:
        field: the field with the value; None if they are invalid together.
        problem: what is wrong, without the value, which may be a secret.
        kind: a short name for the problem.
    """

    def __init__(self, field: str | None, problem: str, *, kind: str = "value_error") -> None:
        super().__init__(problem if field is None else f"{field}: {problem}")
        self.field, self.problem, self.kind = field, problem, kind
