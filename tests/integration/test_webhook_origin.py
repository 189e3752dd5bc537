"""A webhook's secret never signs requests to a receiver that it was not made for."""

import hashlib
import hmac
from typing import Any

import httpx
import psycopg
import pytest

from bridge.access.vault import Vault
from bridge.database.pool import open_database
from bridge.database.queries import SessionQueries, run_blocking
from bridge.webhooks.errors import InvalidInputError
from bridge.webhooks.model import WebhookChanges
from bridge.webhooks.operations import Webhooks
from tests.integration.calling import Bot, assert_refused, calling, create, secrets_of
from tests.integration.console_pages import add_crm, field, problem, signed_in, stored
from tests.integration.delivering import claim, delivering, delivery, enqueue
from tests.receiver import Request, answer, receiving
from tests.webhook_rows import add_webhook

OTHERS = [
    "http://example.com/webhook",
    "https://example.com:8443/webhook",
    "https://evil.example/webhook",
]


async def patched(
    client: httpx.AsyncClient, webhook: dict[str, Any], **changes: object
) -> httpx.Response:
    return await client.patch(f"/webhooks/{webhook['id']}", json=changes)


@pytest.mark.parametrize("url", OTHERS)
async def test_other_origin_needs_a_new_secret(bridge_url: str, bot: Bot, url: str) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="theirs")
        # As the contract's edit form sends it: an empty secret means unchanged.
        for more in ({}, {"secret": ""}, {"name": "Mine", "is_active": True}):
            refused = await patched(client, webhook, url=url, **more)
            assert_refused(refused, "secret")
            assert "must be new, or null" in refused.text
            shown = (await client.get(f"/webhooks/{webhook['id']}")).json()
            assert (shown["url"], shown["name"]) == (webhook["url"], webhook["name"])
        moved = await patched(client, webhook, url=url, secret="mine")
        assert (moved.status_code, moved.json()["url"]) == (200, url)
        assert secrets_of(bot, webhook["id"]) == ["mine", None]


async def test_unsigned_webhook_moves_freely(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        assert (await patched(client, webhook, url=OTHERS[0])).status_code == 200
        signed = await create(client, secret="theirs")
        assert (await patched(client, signed, url=OTHERS[0], secret=None)).status_code == 200
        assert secrets_of(bot, signed["id"]) == [None, None]


async def test_same_origin_keeps_the_secret(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="theirs")
        for url in ("https://EXAMPLE.com:443/other", "https://example.com./webhook?a=1"):
            moved = await patched(client, webhook, url=url, secret="")
            assert (moved.status_code, moved.json()["url"]) == (200, url)
    assert secrets_of(bot, webhook["id"]) == ["theirs", None]


async def test_secret_before_a_rotation_does_not_move_either(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client, secret="theirs")
        rotated = await client.post(f"/webhooks/{webhook['id']}/rotate-secret")
        assert rotated.status_code == 200
        assert_refused(await patched(client, webhook, url=OTHERS[2]), "secret")
        # The operator removed the new one; the previous one still signs.
        bot.execute("update bridge.webhooks set secret = null")
        assert_refused(await patched(client, webhook, url=OTHERS[2]), "secret")
        given = rotated.json()["secret"]
        assert (await patched(client, webhook, url=OTHERS[2], secret=given)).status_code == 200
        assert secrets_of(bot, webhook["id"]) == [given, None]


async def test_expired_previous_secret_does_not_count(bridge_url: str, bot: Bot) -> None:
    async with calling(bridge_url) as client:
        webhook = await create(client)
        bot.execute(
            "update bridge.webhooks set previous_secret = 'old',"
            " previous_secret_expires_at = now() - interval '1 second'"
        )
        assert (await patched(client, webhook, url=OTHERS[2])).status_code == 200


class _Meanwhile:
    """Queries of a session, with a change by another session just before the update."""

    def __init__(self, bot: Bot, change: str) -> None:
        self._queries = SessionQueries(bot)
        self._bot, self._change = bot, change

    async def fetch(self, name: str, *values: object) -> Any:
        if name == "update_webhook":
            self._bot.execute(self._change.encode())
        return await self._queries.fetch(name, *values)


@pytest.mark.parametrize(
    ("url", "change"),
    [
        (OTHERS[2], "update bridge.webhooks set secret = 'theirs'"),
        (
            "https://crm.example/other",
            "update bridge.webhooks set url = 'https://theirs.example', secret = 'theirs'",
        ),
    ],
    ids=["a secret is set", "the webhook moves"],
)
def test_concurrent_change_does_not_open_a_gap(bot: Bot, url: str, change: str) -> None:
    webhook_id = add_crm(bot)
    webhooks = Webhooks(_Meanwhile(bot, change), Vault())
    with pytest.raises(InvalidInputError, match="secret: must be new"):
        run_blocking(webhooks.update(webhook_id, WebhookChanges(url=url)))
    assert stored(bot, webhook_id)["url"] != url


@pytest.mark.parametrize(
    ("language", "words"), [("en", "Replace it, or choose None"), ("ru", "Замените секрет")]
)
async def test_form_explains_the_change_at_the_secret(
    bridge_url: str, bot: Bot, language: str, words: str
) -> None:
    webhook = add_crm(bot, secret="theirs")
    before = stored(bot, webhook)
    async with signed_in(bridge_url) as browser:
        browser.headers["Accept-Language"] = language
        edit = f"/console/webhooks/{webhook}/edit"
        form = {
            **{name: str(before[name]) for name in ("name", "event_type")},
            **{name: str(before[name]) for name in ("timeout_seconds", "max_concurrency")},
            "is_active": "yes",
            "url": OTHERS[2],
            "secret_choice": "keep",
            "seen": field(await browser.get(edit), "seen"),
        }
        page = await browser.post(edit, data=form)
        assert page.status_code == 422
        assert words in problem(page, "secret")
        assert field(page, "url") == OTHERS[2]
        assert stored(bot, webhook) == before
        moved = await browser.post(edit, data={**form, "secret_choice": "none"})
        assert moved.status_code == 303
    assert stored(bot, webhook)["url"] == OTHERS[2]
    assert secrets_of(bot, webhook) == [None, None]


def signed_with(request: Request, secret: str) -> bool:
    signature = hmac.new(secret.encode(), request.body, hashlib.sha256).hexdigest()
    return request.headers["x-webhook-signature"] == f"sha256={signature}"


async def test_claimed_delivery_goes_with_the_secret_of_its_url(bridge_url: str, bot: Bot) -> None:
    webhook = add_webhook(bot, "https://theirs.example/", secret="theirs")
    enqueue(bot, webhook)
    async with open_database(bridge_url) as database:
        [row] = await claim(database)
    changes = WebhookChanges(url="https://mine.example/", secret="mine")
    run_blocking(Webhooks(SessionQueries(bot), Vault()).update(webhook, changes))
    assert (row["url"], row["secret"]) == ("https://theirs.example/", "theirs")


async def test_retries_and_redeliveries_use_the_new_secret(bridge_url: str, bot: Bot) -> None:
    """Payloads of the past go to the new URL, but not with a signature of the past."""
    async with receiving() as receiver:
        receiver.behaviours["/theirs"] = answer("500 Oops")
        webhook = add_webhook(bot, receiver.url("/theirs"), secret="theirs")
        [retried] = enqueue(bot, webhook)
        async with delivering(bridge_url, schedule=(0, 0)):
            await receiver.until(lambda: len(receiver.at("/theirs")) == 2)
        assert all(signed_with(request, "theirs") for request in receiver.at("/theirs"))
        changes = WebhookChanges(url=receiver.url("/mine"), secret="mine")
        run_blocking(Webhooks(SessionQueries(bot), Vault()).update(webhook, changes))
        bot.execute("select bridge.redeliver(%s)", (retried,))
        [waiting] = enqueue(bot, webhook)
        async with delivering(bridge_url):
            await receiver.until(lambda: len(receiver.at("/mine")) == 2)
        assert all(signed_with(request, "mine") for request in receiver.at("/mine"))
        for request in receiver.at("/mine"):
            assert "x-webhook-signature-previous" not in request.headers
    assert {delivery(bot, each)["webhook_id"] for each in (retried, waiting)} == {webhook}


def test_deleted_webhook_leaves_nothing_to_a_new_one(bot: Bot) -> None:
    """Ids are never assigned again, so no delivery of one webhook can go to another."""
    webhook = add_webhook(bot, "https://theirs.example/", secret="theirs")
    enqueue(bot, webhook)
    webhooks = Webhooks(SessionQueries(bot), Vault())
    run_blocking(webhooks.delete(webhook))
    assert bot.execute("select count(*) from bridge.delivery_queue").fetchone() == (0,)
    with pytest.raises(psycopg.errors.GeneratedAlways):
        bot.execute(
            "insert into bridge.webhooks (id, name, url, event_type) values (%s, 'x', 'x', '*')",
            (webhook,),
        )
    assert add_webhook(bot, "https://mine.example/") != webhook
