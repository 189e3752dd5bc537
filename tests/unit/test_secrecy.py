"""Objects with secrets do not show them when printed."""

import pickle
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from cryptography.fernet import Fernet
from pydantic import ValidationError

from bridge.access.authenticator import Authenticator
from bridge.access.tokens import Grant
from bridge.access.vault import Vault
from bridge.database.parameters import for_asyncpg
from bridge.database.pool import Database
from bridge.delivery.attempt import Delivery, Event
from bridge.live.handshake import read_opening
from bridge.settings import Settings, load_settings
from bridge.tail.address import Address
from bridge.tail.follower import Follower
from bridge.webhooks.model import (
    CreatedWebhook,
    NewWebhook,
    RotatedSecret,
    SecretRotation,
    WebhookChanges,
)

SECRET = "s3cret-that-nobody-may-see"
KEY = Fernet.generate_key().decode()
FORM: dict[str, Any] = {"name": "n", "url": "https://example.com/", "event_type": "*"}


def settings() -> Settings:
    return load_settings(
        database_url=f"postgresql://u:{SECRET}@h/d",
        listen_url=f"postgresql://u:{SECRET}@h/d",
        token=SECRET,
        secret_key=KEY,
    )


def created() -> CreatedWebhook:
    now = datetime.now(UTC)
    return CreatedWebhook(
        **FORM,
        id=1,
        is_active=True,
        description=None,
        disabled_reason=None,
        timeout_seconds=15,
        max_concurrency=4,
        filter=None,
        rate_per_second=None,
        ordered=False,
        retry_schedule=None,
        paused_at=None,
        failing_since=None,
        probe_at=None,
        created_at=now,
        updated_at=now,
        last_triggered_at=None,
        failure_count=0,
        success_count=0,
        secret=SECRET,
    )


def delivery() -> Delivery:
    return Delivery(
        id=1,
        lease_token=UUID(int=1),
        event=Event(1, "a.b", "{}"),
        committed_at=None,
        attempt_number=1,
        attempt_of_schedule=1,
        webhook_id=1,
        is_failing=False,
        is_probe=False,
        url=f"https://hooks.example/{SECRET}",
        secret=SECRET,
        previous_secret=SECRET,
        timeout_seconds=15,
        schedule=(0.0,),
    )


def vault() -> Vault:
    opened = Vault([KEY])
    assert opened.open(opened.seal(SECRET)) == SECRET  # it stores the token
    return opened


PARAMETERS = for_asyncpg("postgresql://")
HOLDERS = {
    "settings": settings,
    "vault": vault,
    "a store of tokens": lambda: Authenticator(
        Database(for_asyncpg("postgresql://"), None, key=1), SECRET
    ),
    "a grant": lambda: Grant(1, "n", frozenset(["admin"])),
    "a request that opens a connection": lambda: read_opening(f"/ws?token={SECRET}", []),
    "one with a header": lambda: read_opening("/ws", [(b"X-API-Key", SECRET.encode())]),
    "a follower": lambda: Follower(Address("h", 1), SECRET, patterns=[], since=None),
    "a webhook to create": lambda: NewWebhook(**FORM, secret=SECRET),
    "a webhook that was created": created,
    "changes": lambda: WebhookChanges(secret=SECRET),
    "a rotation": lambda: SecretRotation(secret=SECRET),
    "what a rotation answers": lambda: RotatedSecret(
        secret=SECRET, previous_secret_expires_at=None
    ),
    "a delivery": delivery,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_objects_do_not_show_their_secrets(holder: str) -> None:
    held = HOLDERS[holder]()
    for shown in repr(held), str(held), f"{[held]}":
        assert SECRET not in shown
        assert KEY not in shown


def test_hidden_secrets_are_still_readable() -> None:
    assert read_opening(f"/ws?token={SECRET}", []).token == SECRET
    assert NewWebhook(**FORM, secret=SECRET).secret == SECRET
    assert created().model_dump()["secret"] == SECRET
    assert SecretRotation(secret=SECRET).secret == SECRET
    assert WebhookChanges(secret=SECRET).columns() == {"secret": SECRET}
    assert delivery().secret == SECRET
    copied: Settings = pickle.loads(pickle.dumps(settings()))
    assert copied.token is not None
    assert copied.token.get_secret_value() == SECRET


@pytest.mark.parametrize("model", [NewWebhook, WebhookChanges, SecretRotation, Settings])
def test_errors_about_a_secret_do_not_show_it(
    model: type[NewWebhook | WebhookChanges | SecretRotation | Settings],
) -> None:
    wrong = {
        **FORM,
        "secret": f"whsec_{SECRET}",
        "database_url": f"mysql://u:{SECRET}@h/d",
        "token": [SECRET],
        "secret_key": SECRET,
    }
    with pytest.raises(ValidationError) as error:
        model.model_validate(wrong)
    assert SECRET not in str(error.value)
    assert SECRET not in repr(error.value)
