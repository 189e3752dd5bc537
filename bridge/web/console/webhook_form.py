"""The form of a webhook: what it shows, and what the API is told of what was typed.  (pure)"""

import re
from typing import Any, Final

from fastapi import HTTPException
from pydantic import ValidationError

from bridge.web.api.refusals import invalid
from bridge.web.api.schemas import NewWebhook, Webhook, WebhookChanges
from bridge.web.console.forms import Form

#: What is wrong, by the names of fields; where the field's own sentence says it all, nothing.
Problems = dict[str, str]

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
# Fields of the API that some people may well leave empty.
_OPTIONAL: Final = ("description", "filter", "rate_per_second", "retry_schedule")
#: Of the form's fields, those of whom most people want the default.
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
    """Return what the form of a new webhook shows at first."""
    fields = {name: NewWebhook.model_fields[name] for name in (*_TEXTS, *_BOXES)}
    return {
        **{
            name: "" if fields[name].is_required() else _text(fields[name].default)
            for name in _TEXTS
        },
        **{name: fields[name].default for name in _BOXES},
        "secret_choice": "generate",
        "secret_typed": False,
    }


def filled(webhook: Webhook) -> dict[str, Any]:
    """Return what the form of a webhook shows at first."""
    return {
        **{name: _text(getattr(webhook, name)) for name in _TEXTS},
        **{name: getattr(webhook, name) for name in _BOXES},
        "secret_choice": "keep",
        "secret_typed": False,
    }


def typed(form: Form) -> dict[str, Any]:
    """Return what the form shows again: what was typed, but for the secret."""
    return {
        **{name: form.text(name) for name in _TEXTS},
        **{name: form.chosen(name) for name in _BOXES},
        "secret_choice": form.text("secret_choice"),
        "secret_typed": bool(form.text("secret")),
    }


def new_webhook(form: Form) -> NewWebhook:
    """Return the webhook to make.

    Raises:
        ValidationError, HTTPException: it cannot be, like this; ``problems_of`` says why.
    """
    return NewWebhook.model_validate(
        {
            **_values(form),
            "secret": given_secret(form),
            "generate_secret": form.text("secret_choice") == "generate",
        }
    )


def changes(form: Form, webhook: Webhook) -> WebhookChanges:
    """Return what is to be changed of a webhook: what is other than it is.

    What was not touched is not sent. So a webhook whose URL is not allowed any more can still be
    given another name.

    Raises:
        ValidationError, HTTPException: it cannot be, like this; ``problems_of`` says why.
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
    """Return what tells whether somebody has changed a webhook, or the bridge has switched it."""
    return f"{webhook.updated_at.isoformat()} {webhook.is_active}"


def problems_of(error: Exception) -> Problems:
    """Return what an API's models or functions find wrong, by fields.

    Raises:
        Exception: the error, if it is about no field.
    """
    match error:
        case ValidationError():
            # Its texts are for programs.
            return {str(each["loc"][0]): "" for each in error.errors() if each["loc"]}
        case HTTPException(status_code=422, detail=[*places]):
            return {str(place["loc"][-1]): place["msg"] for place in places}
    raise error


def _values(form: Form) -> dict[str, Any]:
    """Return what was typed as the API takes it."""
    values: dict[str, Any] = {
        name: form.text(name) or (None if name in _OPTIONAL else "") for name in _TEXTS
    }
    values |= {name: form.chosen(name) for name in _BOXES}
    if values["rate_per_second"]:
        # As half of Europe writes it.
        values["rate_per_second"] = values["rate_per_second"].replace(",", ".")
    if values["retry_schedule"]:
        values["retry_schedule"] = re.findall(r"[^\s,;]+", values["retry_schedule"])
    return values


def given_secret(form: Form) -> str | None:
    """Return the secret that was typed, exactly so, if one is to be taken.

    Raises:
        HTTPException: 422, none was typed.
    """
    if form.text("secret_choice") != "given":
        return None
    secrets = form.texts("secret")
    if not secrets or not secrets[-1]:
        raise invalid("body", "secret", message="")
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
