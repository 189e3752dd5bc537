"""The form of a webhook: from a webhook to its fields, and from the fields to the model.  (pure)"""

import re
from typing import Any, Final

from bridge.web.console.forms import Form, decimal_point
from bridge.webhooks.errors import InvalidInputError
from bridge.webhooks.model import REMOVABLE, NewWebhook, Webhook, WebhookChanges

_TEXTS: Final = (
    "name",
    "url",
    "event_type",
    "description",
    "timeout_seconds",
    "max_concurrency",
    "filter",
    "rate_per_second",
    "retry_schedule",
)
_BOXES: Final = ("is_active", "ordered")
#: All fields; ``seen`` is the version that was edited.
FIELDS: Final = (*_TEXTS, *_BOXES, "secret_choice", "secret", "seen")
#: Fields that most people leave at their defaults.
RARE: Final = frozenset(
    {
        "filter",
        "timeout_seconds",
        "max_concurrency",
        "rate_per_second",
        "ordered",
        "retry_schedule",
    }
)


def blank() -> dict[str, Any]:
    """Return the initial fields for a new webhook."""
    return _fields_of(NewWebhook.model_construct(name="", url="", event_type=""), "generate")


def filled(webhook: Webhook) -> dict[str, Any]:
    """Return the initial fields for an existing webhook."""
    return _fields_of(webhook, "keep")


def _fields_of(webhook: NewWebhook | Webhook, secret_choice: str) -> dict[str, Any]:
    return {
        **{name: _text(getattr(webhook, name)) for name in _TEXTS},
        **{name: getattr(webhook, name) for name in _BOXES},
        "secret_choice": secret_choice,
        "secret_typed": False,
    }


def typed(form: Form) -> dict[str, Any]:
    """Return the fields as they were submitted, without the secret."""
    return {
        **{name: form.text(name) for name in _TEXTS},
        **{name: form.chosen(name) for name in _BOXES},
        "secret_choice": form.text("secret_choice"),
        "secret_typed": bool(form.text("secret")),
    }


def new_webhook(form: Form) -> NewWebhook:
    """Return the webhook to create.

    Raises:
        ValidationError, InvalidInputError: a field is invalid; see ``problems_of``.
    """
    return NewWebhook.model_validate(
        {
            **_values(form),
            "secret": given_secret(form),
            "generate_secret": form.text("secret_choice") == "generate",
        }
    )


def changes(form: Form, webhook: Webhook) -> WebhookChanges:
    """Return the fields that differ from the webhook's.

    Unchanged fields are left out, so a webhook whose URL is no longer allowed can still be renamed.

    Raises:
        ValidationError, InvalidInputError: a field is invalid; see ``problems_of``.
    """
    given = _values(form)
    if form.text("secret_choice") in ("given", "none"):
        given["secret"] = given_secret(form)
    wanted = WebhookChanges.model_validate(given)
    return WebhookChanges.model_validate(
        {
            name: value
            for name, value in wanted.model_dump(exclude_unset=True).items()
            if name == "secret" or value != getattr(webhook, name)
        }
    )


def version_of(webhook: Webhook) -> str:
    """Return a text that differs after every change by a person, and if the bridge disables it."""
    return f"{webhook.updated_at.isoformat()} {webhook.is_active}"


def _values(form: Form) -> dict[str, Any]:
    """Return the submitted fields as the model expects them."""
    values: dict[str, Any] = {
        name: form.text(name) or (None if name in REMOVABLE else "") for name in _TEXTS
    }
    values |= {name: form.chosen(name) for name in _BOXES}
    if values["rate_per_second"]:
        values["rate_per_second"] = decimal_point(values["rate_per_second"])
    if values["retry_schedule"]:
        values["retry_schedule"] = re.findall(r"[^\s,;]+", values["retry_schedule"])
    return values


def given_secret(form: Form) -> str | None:
    """Return the submitted secret, unstripped; None if the form does not set one.

    Raises:
        InvalidInputError: the form sets one, and it is empty.
    """
    if form.text("secret_choice") != "given":
        return None
    secrets = form.texts("secret")
    if not secrets or not secrets[-1]:
        raise InvalidInputError("secret", "")
    return secrets[-1]


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case [*numbers]:
            return ", ".join(map(_text, numbers))
        case float():
            return f"{value:.15g}"
    return str(value)
