"""Secrets and URLs of webhooks over REST: what is shown, stored and allowed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from standardwebhooks import Webhook

from bridge.access.vault import Vault
from bridge.delivery.addresses import AddressPolicy
from bridge.delivery.resolve import url_refusal
from tests.integration.calling import (
    FORM,
    SHAPE,
    Bot,
    assert_refused,
    calling,
    create,
    moment,
    secret_of,
    secrets_of,
)
from tests.resolver import Resolver, resolving


def everything_stored(bot: Bot) -> str:
    """Return all columns of all webhooks, as text."""
    return str(bot.execute("select w::text from bridge.webhooks w").fetchall())


async def test_no_response_contains_the_secret(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="s3cret")
        path = f"/webhooks/{webhook['id']}"
        assert secret_of(bot, webhook["id"]) == "s3cret"
        answers = [
            await client.get(path),
            await client.get("/webhooks"),
            await client.patch(path, json={"secret": "s3cret-2"}),
            await client.patch(path, json={"secret": "s3cret\0"}),
            await client.post("/webhooks", json={**FORM, "secret": "s3cret\0"}),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 422, 422]
        assert not any("s3cret" in answer.text for answer in answers)


async def test_secret_is_changed_kept_and_removed(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="first")
        for sent, stored in ("second", "second"), ("", "second"), (None, None), ("", None):
            answer = await client.patch(f"/webhooks/{webhook['id']}", json={"secret": sent})
            assert answer.status_code == 200
            assert secret_of(bot, webhook["id"]) == stored


async def test_generated_secret_is_shown_once(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, generate_secret=True)
        assert set(webhook) == SHAPE | {"secret"}
        secret = webhook.pop("secret")
        Webhook(secret)
        assert secret_of(bot, webhook["id"]) == secret
        answer = await client.get(f"/webhooks/{webhook['id']}")
        assert answer.json() == webhook
        other = await create(client, generate_secret=True, secret="")
        assert other["secret"] != secret
        assert "secret" not in await create(client, generate_secret=False)


async def test_secret_cannot_be_both_given_and_generated(bridge_url: str) -> None:
    async with calling(bridge_url) as client:
        answer = await client.post(
            "/webhooks", json={**FORM, "generate_secret": True, "secret": "s3cret"}
        )
        assert_refused(answer, "generate_secret")
        assert "s3cret" not in answer.text


@pytest.mark.parametrize("body", [None, {}, {"secret": None}, {"secret": ""}])
async def test_rotation_without_a_secret_generates_one(
    bridge_url: str, bot: Bot, body: dict[str, Any] | None
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="old")
        path = f"/webhooks/{webhook['id']}"
        answer = await client.post(f"{path}/rotate-secret", json=body)
        assert answer.status_code == 200
        rotated = answer.json()
        assert set(rotated) == {"secret", "previous_secret_expires_at"}
        Webhook(rotated["secret"])
        assert secrets_of(bot, webhook["id"]) == [rotated["secret"], "old"]
        changed = (await client.get(path)).json()
        assert set(changed) == SHAPE
        overlap = moment(rotated["previous_secret_expires_at"]) - moment(changed["updated_at"])
        assert overlap == timedelta(hours=24)
        assert moment(changed["updated_at"]) > moment(webhook["updated_at"])


async def test_rotation_does_not_show_a_given_secret(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="old")
        path = f"/webhooks/{webhook['id']}/rotate-secret"
        answer = await client.post(path, json={"secret": "новый"})
        assert answer.json()["secret"] is None
        assert moment(answer.json()["previous_secret_expires_at"]) > datetime.now(UTC)
        assert secrets_of(bot, webhook["id"]) == ["новый", "old"]


async def test_second_rotation_ends_the_overlap_of_the_first(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="first")
        path = f"/webhooks/{webhook['id']}/rotate-secret"
        first = (await client.post(path, json={"secret": "second"})).json()
        second = (await client.post(path, json={"secret": "third"})).json()
        end = "previous_secret_expires_at"
        assert moment(first[end]) < moment(second[end])
        assert secrets_of(bot, webhook["id"]) == ["third", "second"]


async def test_rotation_without_a_previous_secret_has_no_overlap(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        answer = await client.post(f"/webhooks/{webhook['id']}/rotate-secret")
        assert answer.json()["previous_secret_expires_at"] is None
        assert secrets_of(bot, webhook["id"]) == [answer.json()["secret"], None]


@pytest.mark.parametrize("secret", ["whsec_tooshort", "fernet:abc", "\0", 5])
async def test_rotation_to_an_invalid_secret_changes_nothing(
    bridge_url: str, bot: Bot, secret: object
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="old")
        path = f"/webhooks/{webhook['id']}/rotate-secret"
        assert_refused(await client.post(path, json={"secret": secret}), "secret")
        assert secrets_of(bot, webhook["id"]) == ["old", None]


@pytest.mark.parametrize("secret", ["next", None])
async def test_setting_or_removing_a_secret_ends_the_overlap(
    bridge_url: str, bot: Bot, secret: str | None
) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="first")
        path = f"/webhooks/{webhook['id']}"
        await client.post(f"{path}/rotate-secret", json={"secret": "second"})
        for no_change in {"secret": ""}, {"name": "n"}:
            await client.patch(path, json=no_change)
            assert secrets_of(bot, webhook["id"]) == ["second", "first"]
        assert (await client.patch(path, json={"secret": secret})).status_code == 200
        assert secrets_of(bot, webhook["id"]) == [secret, None]


async def test_with_a_key_secrets_are_stored_encrypted(bridge_url: str, bot: Bot) -> None:
    vault = Vault([Fernet.generate_key().decode()])
    async with calling(bridge_url, vault=vault) as client:
        webhook = await create(client, secret="s3cret-1", description="seen")
        path = f"/webhooks/{webhook['id']}"

        def assert_stored(*secrets: str | None) -> None:
            assert secrets_of(bot, webhook["id"], vault) == list(secrets)
            stored = everything_stored(bot)
            assert "seen" in stored
            assert not any(secret in stored for secret in secrets if secret)

        assert_stored("s3cret-1", None)
        await client.post(f"{path}/rotate-secret", json={"secret": "s3cret-2"})
        assert_stored("s3cret-2", "s3cret-1")
        made = (await client.post(f"{path}/rotate-secret")).json()["secret"]
        assert_stored(made, "s3cret-2")
        await client.patch(path, json={"secret": "s3cret-3"})
        assert_stored("s3cret-3", None)
        await client.patch(path, json={"secret": None})
        assert_stored(None, None)
        made = await create(client, generate_secret=True)
        assert secrets_of(bot, made["id"], vault) == [made["secret"], None]
        assert made["secret"] not in everything_stored(bot)


PRIVATE = (
    "intra.example: 10.0.0.7 is a private address; "
    "to allow it, add 10.0.0.7/32 to BRIDGE_ALLOWED_NETWORKS"
)


#: The names that resolve while URLs are checked.
NAMES = {"example.com": ["198.41.0.4"], "intra.example": ["10.0.0.7"]}


@asynccontextmanager
async def checking_urls(
    url: str, *allowed: str
) -> AsyncIterator[tuple[httpx.AsyncClient, Resolver]]:
    """Build an API that checks URLs as a bridge does with these networks allowed."""
    policy = AddressPolicy([ip_network(network) for network in allowed])
    check = partial(url_refusal, policy=policy)
    with resolving(NAMES) as resolver:
        async with calling(url, url_refusal=check) as client:
            yield client, resolver


def assert_url_refused(answer: httpx.Response, msg: str) -> None:
    assert answer.status_code == 422
    assert answer.json() == {
        "detail": [{"type": "url_refused", "loc": ["body", "url"], "msg": msg}]
    }


async def test_new_webhook_must_not_lead_to_a_private_address(bridge_url: str, bot: Bot) -> None:
    async with checking_urls(bridge_url) as (client, _):
        await create(client)
        for url, msg in (
            ("https://intra.example/hook", PRIVATE),
            (
                "http://127.0.0.1:9000/hook",
                "127.0.0.1 is a loopback address; "
                "to allow it, add 127.0.0.1/32 to BRIDGE_ALLOWED_NETWORKS",
            ),
            (
                "http://[::1]/",
                "::1 is a loopback address; to allow it, add ::1/128 to BRIDGE_ALLOWED_NETWORKS",
            ),
        ):
            assert_url_refused(await client.post("/webhooks", json={**FORM, "url": url}), msg)
    assert bot.execute("select url from bridge.webhooks").fetchall() == [(FORM["url"],)]


async def test_webhook_may_lead_to_an_allowed_private_address(bridge_url: str) -> None:
    async with checking_urls(bridge_url, "10.0.0.0/8", "::1") as (client, _):
        webhook = await create(client, url="https://intra.example/hook")
        answer = await client.patch(f"/webhooks/{webhook['id']}", json={"url": "http://[::1]/"})
        assert (answer.status_code, answer.json()["url"]) == (200, "http://[::1]/")


async def test_webhook_may_lead_to_an_unresolvable_name(bridge_url: str) -> None:
    async with checking_urls(bridge_url) as (client, _):
        await create(client, url="https://not-yet.example/hook")


async def test_patched_url_must_not_lead_to_a_private_address(bridge_url: str) -> None:
    async with checking_urls(bridge_url) as (client, _):
        webhook = await create(client)
        path = f"/webhooks/{webhook['id']}"
        changes = {"name": "Other", "url": "https://intra.example/hook"}
        assert_url_refused(await client.patch(path, json=changes), PRIVATE)
        assert (await client.get(path)).json() == webhook


async def test_unchanged_url_in_a_patch_is_checked_too(
    bridge_url: str,
) -> None:
    async with calling(bridge_url) as lenient:
        webhook = await create(lenient, url="https://intra.example/hook")
    path = f"/webhooks/{webhook['id']}"
    async with checking_urls(bridge_url) as (client, _):
        assert_url_refused(await client.patch(path, json={**webhook, "name": "Other"}), PRIVATE)
        answer = await client.patch(path, json={"name": "Other", "url": None})
        assert (answer.status_code, answer.json()["name"]) == (200, "Other")


async def test_rejected_request_resolves_no_name(bridge_url: str) -> None:
    url = {"url": "https://intra.example/hook"}
    async with checking_urls(bridge_url) as (client, resolver):
        for answer in (
            await client.post("/webhooks", json={**FORM, **url, "event_type": "a..b"}),
            await client.post("/webhooks", json={**FORM, **url}, headers={"Authorization": ""}),
            await client.patch("/webhooks/0", json=url),
        ):
            assert answer.status_code in (401, 404, 422)
        assert resolver.asked == []
