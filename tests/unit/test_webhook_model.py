"""What the API accepts and refuses, field by field."""

import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from bridge.webhooks.model import Delivery, NewWebhook, WebhookChanges

FORM = {"name": "Shop", "url": "https://example.com/webhook", "event_type": "user.created"}


def new(**fields: Any) -> NewWebhook:
    return NewWebhook.model_validate({**FORM, **fields})


def refused_field(model: type[NewWebhook | WebhookChanges], form: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as refusal:
        model.model_validate(form)
    (error,) = refusal.value.errors()
    return str(error["loc"][0])


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver",
        "http://localhost:8080/hook",
        "HTTPS://Example.com/Hook?a=b&c#d",
        "http://10.0.0.7:9000/",
        "http://[::1]:9000/hook",
        "http://my_service.internal./hook",
        "https://пример.рф/путь?ключ=значение",
        "https://example.com/@user/a:b@c",
        "https://example.com?to=a@b",
        "https://example.com/" + "a" * 2028,
    ],
)
def test_url_is_kept_unchanged(url: str) -> None:
    assert new(url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hook",
        "ftp://example.com/",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "unix:///run/receiver.sock",
        "http+unix://%2Frun%2Freceiver.sock/",
        "unix:http://example.com/",
        "ws://example.com/",
        "//example.com/",
        "http:/example.com/",
        "https:example.com",
        "https://",
        "https:///path",
        "https://?query",
        "https://:443/",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://@example.com/",
        "https://:@example.com/",
        "https://example.com@evil.example/",
        "https://[::1]@evil.example/",
        "https://example.com%40evil.example/",
        "https://example.com＠evil.example/",
        "https://example.com／evil.example/",
        "https://example.com\\@evil.example/",
        "https://example.com\\.evil.example/",
        "https:\\\\example.com/",
        "https://example.com:443\\@evil.example/",
        "https://exa mple.com/",
        "https://example.com/a b",
        "https://example.com/\n",
        "https://example.com\n.evil.example/",
        "https://exa\tmple.com/",
        "https://exa\u00a0mple.com/",
        "https://exa\u200bmple.com/",
        "https://exa\u00admple.com/",
        "https://exa\x01mple.com/",
        "https://exa\x7fmple.com/",
        "ht\ntps://example.com/",
        " https://example.com/",
        "https://example.com/\0",
        "https://example.com/\ud800",
        "https://\ud800.example/",
        "https://example..com/",
        "https://./",
        "https://%00/",
        "https://1.2.3.999/",
        "https://0177.0.0.1/",
        "https://%31%32%37.0.0.1/",
        "https://１２７.0.0.1/",
        "https://①②⑦.0.0.1/",
        "https://[::1/",
        "https://[nonsense]/",
        "https://[]/",
        "https://[127.0.0.1]/",
        "https://[v1.x:y]/",
        "https://[::1].example/",
        "https://[fe80::1%eth0]/",
        "https://[fe80::1%25eth0]/",
        "https://example.com:port/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:-1/",
        "https://example.com:" + "9" * 2000,
        "https://example.com/" + "a" * 2029,
        None,
        5,
        ["https://example.com/"],
    ],
)
def test_unusable_url_is_rejected(url: object) -> None:
    assert refused_field(NewWebhook, {**FORM, "url": url}) == "url"


@pytest.mark.parametrize("event_type", ["user.created", "a", "ticket.*", "a.b.c.*", "*", "A-b_9.c"])
def test_event_type_may_be_a_type_or_pattern(event_type: str) -> None:
    assert new(event_type=event_type).event_type == event_type


@pytest.mark.parametrize(
    "event_type",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a*",
        "*.a",
        "**",
        "a.*.b",
        "a b",
        "user.created\n",
        "\nuser.created",
        "тикет",
        "a\0",
        "\ud800",
        "a" * 256,
        None,
        1,
    ],
)
def test_invalid_event_type_is_rejected(event_type: object) -> None:
    assert refused_field(NewWebhook, {**FORM, "event_type": event_type}) == "event_type"


@pytest.mark.parametrize("field", ["name", "secret", "description"])
@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", "\udfff", 5, ["a"], {"a": 1}, math.nan])
def test_unstorable_text_is_rejected(field: str, text: object) -> None:
    assert refused_field(NewWebhook, {**FORM, field: text}) == field
    assert refused_field(WebhookChanges, {field: text}) == field


@pytest.mark.parametrize("name", ["", "n" * 256, None])
def test_name_has_1_to_255_characters(name: object) -> None:
    assert refused_field(NewWebhook, {**FORM, "name": name}) == "name"


def test_name_may_have_255_characters_of_any_script() -> None:
    assert new(name="🎫" * 255).name == "🎫" * 255


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timeout_seconds", 0),
        ("timeout_seconds", 121),
        ("timeout_seconds", 1.5),
        ("timeout_seconds", math.nan),
        ("timeout_seconds", math.inf),
        ("timeout_seconds", 10**400),
        ("timeout_seconds", "soon"),
        ("max_concurrency", 0),
        ("max_concurrency", 1001),
        ("is_active", "maybe"),
        ("is_active", 2),
        ("is_active", math.nan),
    ],
)
def test_numbers_out_of_bounds_are_rejected(field: str, value: object) -> None:
    assert refused_field(NewWebhook, {**FORM, field: value}) == field
    assert refused_field(WebhookChanges, {field: value}) == field


@pytest.mark.parametrize("field", ["name", "url", "event_type"])
def test_name_url_and_event_type_are_required(field: str) -> None:
    form = {name: value for name, value in FORM.items() if name != field}
    assert refused_field(NewWebhook, form) == field


def test_defaults_equal_those_of_the_table() -> None:
    webhook = new()
    assert (webhook.is_active, webhook.timeout_seconds, webhook.max_concurrency) == (True, 15, 4)


def test_empty_fields_of_the_create_form_are_none() -> None:
    webhook = new(secret="", description="")
    assert (webhook.secret, webhook.description) == (None, None)


def test_changes_contain_only_the_sent_columns() -> None:
    assert WebhookChanges.model_validate({}).columns() == {}
    assert WebhookChanges.model_validate({"is_active": False}).columns() == {"is_active": False}


def test_empty_secret_is_no_change_and_null_removes_it() -> None:
    assert WebhookChanges.model_validate({"secret": ""}).columns() == {}
    assert WebhookChanges.model_validate({"secret": None}).columns() == {"secret": None}
    assert WebhookChanges.model_validate({"secret": "s"}).columns() == {"secret": "s"}


@pytest.mark.parametrize("empty", ["", None])
def test_empty_description_removes_it(empty: object) -> None:
    assert WebhookChanges.model_validate({"description": empty}).columns() == {"description": None}


@pytest.mark.parametrize(
    "field", ["name", "url", "event_type", "is_active", "timeout_seconds", "max_concurrency"]
)
def test_null_keeps_a_required_field(field: str) -> None:
    assert WebhookChanges.model_validate({field: None}).columns() == {}


def test_read_only_fields_are_ignored() -> None:
    form = {"id": "x", "created_at": 1, "success_count": -5, "probe_at": {"a": [math.nan]}}
    assert WebhookChanges.model_validate(form).columns() == {}
    assert new(**form) == new()


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ('{"amount": 100.5, "big": 12345678901234567890}', None),
        ("null", None),
        ("[]", None),
        ('"text"', None),
        ("1" + "0" * 400 + ".5", "1" + "0" * 400 + ".5"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_payload_is_shown_as_logged(stored: str, shown: object) -> None:
    delivery = Delivery.model_validate(
        {
            "id": 1,
            "webhook_id": 1,
            "event_type": "a",
            "payload": stored,
            "payload_omitted": False,
            "response_status": None,
            "response_body": None,
            "status": "pending",
            "error_message": None,
            "attempt_number": 0,
            "created_at": "2024-01-15T10:30:00Z",
            "delivered_at": None,
            "next_retry_at": None,
        }
    )
    assert delivery.payload == (json.loads(stored) if shown is None else shown)
