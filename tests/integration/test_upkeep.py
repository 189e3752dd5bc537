"""Upkeep seals stored secrets, also while they change, and deletes what has expired."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import trio
from cryptography.fernet import Fernet
from structlog.testing import capture_logs

from bridge.access.vault import Vault
from bridge.database import limits
from bridge.database.pool import open_database
from bridge.relay.upkeep import Upkeep
from tests.waiting import PATIENCE_SECONDS, until_true
from tests.webhook_rows import add_webhook

Bot = psycopg.Connection[tuple[Any, ...]]
OLD, NEW, LOST = (Fernet.generate_key().decode() for _ in range(3))


class Interrupted(Vault):
    """A vault that runs a callback after sealing a secret."""

    def __init__(self, key: str, happens: Callable[[], None]) -> None:
        super().__init__([key])
        self._happens = happens

    def reseal(self, stored: str) -> str:
        resealed = super().reseal(stored)
        self._happens()
        return resealed


def add_secrets(
    bot: Bot, secret: str | None, previous: str | None = None, *, hours: int = 1
) -> int:
    """Add a webhook with stored secrets; the previous one expires in this many hours."""
    expires_at = None if previous is None else datetime.now(UTC) + timedelta(hours=hours)
    return add_webhook(
        bot, secret=secret, previous_secret=previous, previous_secret_expires_at=expires_at
    )


def stored(bot: Bot, webhook_id: int) -> tuple[Any, ...]:
    row = bot.execute(
        "select secret, previous_secret from bridge.webhooks where id = %s", [webhook_id]
    ).fetchone()
    assert row is not None
    return row


def opened(bot: Bot, webhook_id: int, *keys: str) -> list[str | None]:
    return [text and Vault(keys).open(text) for text in stored(bot, webhook_id)]


async def seal_secrets(url: str, vault: Vault) -> None:
    async with open_database(url) as database:
        await Upkeep(database, {}, vault).seal_secrets()


async def test_plain_secrets_are_sealed_and_nothing_else_changes(bridge_url: str, bot: Bot) -> None:
    webhook = add_secrets(bot, "s3cret-1", "s3cret-2")
    unsigned = add_secrets(bot, None)
    rest = "select to_jsonb(w) - 'secret' - 'previous_secret' from bridge.webhooks w order by id"
    before = bot.execute(rest.encode()).fetchall()
    with capture_logs() as logged:
        await seal_secrets(bridge_url, Vault([NEW]))
    assert [(line["event"], line["count"]) for line in logged] == [("secrets_encrypted", 2)]
    assert opened(bot, webhook, NEW) == ["s3cret-1", "s3cret-2"]
    assert stored(bot, unsigned) == (None, None)
    assert "s3cret" not in str(bot.execute("select w::text from bridge.webhooks w").fetchall())
    assert bot.execute(rest.encode()).fetchall() == before


async def test_secret_sealed_with_an_old_key_is_sealed_again(bridge_url: str, bot: Bot) -> None:
    webhook = add_secrets(bot, Vault([OLD]).seal("s3cret-1"), Vault([OLD]).seal("s3cret-2"))
    await seal_secrets(bridge_url, Vault([NEW, OLD]))
    assert opened(bot, webhook, NEW) == ["s3cret-1", "s3cret-2"]


async def test_secret_sealed_with_the_first_key_is_left_alone(bridge_url: str, bot: Bot) -> None:
    webhook = add_secrets(bot, Vault([NEW]).seal("s3cret"))
    version = "select xmin::text, secret from bridge.webhooks where id = %s"
    before = bot.execute(version.encode(), [webhook]).fetchone()
    await seal_secrets(bridge_url, Vault([NEW, OLD]))
    assert bot.execute(version.encode(), [webhook]).fetchone() == before


async def test_secrets_are_unchanged_without_a_key(bridge_url: str, bot: Bot) -> None:
    webhook = add_secrets(bot, "s3cret", "s3cret-2")
    with capture_logs() as logged:
        await seal_secrets(bridge_url, Vault())
    assert logged == []
    assert stored(bot, webhook) == ("s3cret", "s3cret-2")


async def test_concurrently_changed_secret_is_not_overwritten(bridge_url: str, bot: Bot) -> None:
    webhook = add_secrets(bot, "s3cret", "s3cret-2")

    def change() -> None:
        bot.execute("update bridge.webhooks set secret = 'changed', previous_secret = 'changed'")

    await seal_secrets(bridge_url, Interrupted(NEW, change))
    assert stored(bot, webhook) == ("changed", "changed")
    await seal_secrets(bridge_url, Vault([NEW]))
    assert opened(bot, webhook, NEW) == ["changed", "changed"]
    assert "changed" not in stored(bot, webhook)


async def test_concurrently_rotated_secret_is_sealed_in_its_new_place(
    bridge_url: str, bot: Bot
) -> None:
    webhook = add_secrets(bot, "s3cret")

    def rotate() -> None:
        bot.execute(
            "update bridge.webhooks set secret = 'rotated', previous_secret = secret,"
            " previous_secret_expires_at = now() + interval '1 hour' where secret = 's3cret'"
        )

    await seal_secrets(bridge_url, Interrupted(NEW, rotate))
    assert opened(bot, webhook, NEW) == ["rotated", "s3cret"]
    assert stored(bot, webhook)[1] != "s3cret"


async def test_concurrently_deleted_webhook_stays_deleted(bridge_url: str, bot: Bot) -> None:
    add_secrets(bot, "s3cret")
    await seal_secrets(
        bridge_url, Interrupted(NEW, lambda: bot.execute("delete from bridge.webhooks").close())
    )
    assert bot.execute("select from bridge.webhooks").fetchall() == []


async def test_two_bridges_sealing_at_once_are_harmless(bridge_url: str, bot: Bot) -> None:
    webhooks = [add_secrets(bot, f"s3cret-{number}", f"old-{number}") for number in range(50)]
    with capture_logs() as logged:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(seal_secrets, bridge_url, Vault([NEW]))
    assert sum(line["count"] for line in logged if line["event"] == "secrets_encrypted") == 100
    for number, webhook in enumerate(webhooks):
        assert opened(bot, webhook, NEW) == [f"s3cret-{number}", f"old-{number}"]
        assert not set(stored(bot, webhook)) & {f"s3cret-{number}", f"old-{number}"}


async def test_unreadable_secret_is_left_alone_and_logged_once(bridge_url: str, bot: Bot) -> None:
    sealed = Vault([LOST]).seal("s3cret")
    lost, other = add_secrets(bot, sealed), add_secrets(bot, "s3cret")
    async with open_database(bridge_url) as database:
        upkeep = Upkeep(database, {}, Vault([NEW, OLD]))
        with capture_logs() as logged:
            await upkeep.seal_secrets()
            await upkeep.seal_secrets()
        assert [line for line in logged if line["event"] == "secret_decryption_failed"] == [
            {
                "event": "secret_decryption_failed",
                "log_level": "error",
                "webhook_id": lost,
                "reason": "no key in BRIDGE_SECRET_KEY decrypts the secret",
            }
        ]
        assert stored(bot, lost) == (sealed, None)
        assert opened(bot, other, NEW) == ["s3cret", None]
        bot.execute("update bridge.webhooks set secret = 'fernet:garbage' where id = %s", [lost])
        with capture_logs() as logged:
            await upkeep.seal_secrets()
        assert [line["event"] for line in logged] == ["secret_decryption_failed"]


async def test_sealed_secrets_without_a_key_are_logged(bridge_url: str, bot: Bot) -> None:
    add_secrets(bot, Vault([LOST]).seal("s3cret"))
    with capture_logs() as logged:
        await seal_secrets(bridge_url, Vault())
    assert [line["reason"] for line in logged] == [
        "the secret is encrypted, but BRIDGE_SECRET_KEY is not set"
    ]


async def test_expired_previous_secrets_are_deleted(bridge_url: str, bot: Bot) -> None:
    expired = add_secrets(bot, "new", "old", hours=0)
    lasting = add_secrets(bot, "new", "old", hours=1)
    async with open_database(bridge_url) as database:
        with capture_logs() as logged:
            await Upkeep(database, {}, Vault()).forget_expired_secrets()
    assert [line["webhook_ids"] for line in logged] == [[expired]]
    assert stored(bot, expired) == ("new", None)
    assert stored(bot, lasting) == ("new", "old")


async def test_bridge_seals_and_expires_secrets_at_start(bridge_url: str, bot: Bot) -> None:
    webhook = add_secrets(bot, "s3cret", "old", hours=0)
    async with open_database(bridge_url) as database, trio.open_nursery() as nursery:
        nursery.start_soon(Upkeep(database, {}, Vault([NEW])).run)
        with trio.fail_after(PATIENCE_SECONDS):
            while stored(bot, webhook)[0] == "s3cret":
                await trio.lowlevel.checkpoint()
        assert opened(bot, webhook, NEW) == ["s3cret", None]
        nursery.cancel_scope.cancel()


async def test_expired_rows_are_deleted_in_batches(bridge_url: str, bot: Bot) -> None:
    bot.execute(
        "insert into bridge.audit_log (changed_at, action, via, actor, changes)"
        " select now() - make_interval(days => 400 * (number % 2)), 'x', 'sql', 'x', '{}'"
        " from generate_series(1, 24002) as number"
    )
    bot.execute(
        "insert into bridge.transaction_notes (xact, topic, key, value)"
        " select '3', 't', number::text, '{}' from generate_series(1, 12001) as number"
    )
    bot.execute(
        "insert into bridge.activity (recorded_at, bridge, version, seconds, is_last, clients,"
        " in_flight, clients_dropped, events_drained, events_streamed, delivered, retried, failed)"
        " select now() - interval '2 days' * (number % 2), 'b' || number, '1', 1, false,"
        " 0, 0, 0, 0, 0, 0, 0, 0 from generate_series(1, 12002) as number"
    )
    [(entries,)] = bot.execute("select count(*) from bridge.audit_log").fetchall()
    assert bot.execute("select bridge.forget_audit(365)").fetchone() == (5000,)
    async with open_database(bridge_url) as database, trio.open_nursery() as nursery:
        nursery.start_soon(Upkeep(database, {}, Vault()).run)
        with trio.fail_after(PATIENCE_SECONDS):
            for table, left in [
                ("audit_log", entries - 12001),
                ("transaction_notes", 0),
                ("activity", 6001),
            ]:
                await until_true(bot, f"count(*) = {left} from bridge.{table}")
        nursery.cancel_scope.cancel()


async def test_drop_of_a_busy_day_may_take_long(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POOL", {**limits.POOL, "statement_timeout": "100ms"})
    bot.execute("select bridge.create_partitions(current_date - 50, 1)")
    # The count of its deliveries takes this long.
    bot.execute(
        """
        alter function bridge.drop_expired_partition(text, integer) rename to drop_quickly;
        create function bridge.drop_expired_partition(p_parent text, p_days integer) returns text
        language plpgsql as $$ begin
            perform pg_sleep(0.5);
            return bridge.drop_quickly(p_parent, p_days);
        end $$;
        """
    )
    with capture_logs() as logged:
        async with open_database(bridge_url) as database:
            await Upkeep(database, {"delivery_log_success": 7}, Vault()).drop_expired()
    assert [line["event"] for line in logged] == ["partition_dropped"]
