"""A delivery that claims or the deferral cannot process stops no other."""

import re

import pytest
from structlog.testing import capture_logs

from bridge.database import errors
from bridge.relay import drain
from tests.integration.delivering import Bot, delivering, delivery, enqueue
from tests.integration.relaying import relaying, sign_up
from tests.receiver import receiving
from tests.waiting import until, until_true
from tests.webhook_rows import add_webhook

#: Deliveries of the bad webhook, which is the first, and of the others.
BAD, OTHERS = (1, 4), (2, 3, 5, 6)


def refuse(bot: Bot, when: str, table: str, condition: str) -> None:
    """Make a table refuse some rows, as a trigger of someone else."""
    name = re.sub(r"\W", "_", f"refuse_{table}_{when}")
    row = "old" if when == "delete" else "new"
    bot.execute(
        f"""
        create function {name}() returns trigger language plpgsql as
        $$ begin if {condition} then raise 'refused'; end if; return {row}; end $$;
        create trigger {name} before {when} on bridge.{table}
            for each row execute function {name}();
        """.encode()
    )


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        "alter table bridge.delivery_queue add constraint foreign_check"
        " check (id <> 1 or leased_until is null) not valid",
        # As a payload that is too long to be sent.
        """
        create or replace function bridge.payload_text(p_event_id bigint, p_recorded_at timestamptz)
        returns text language plpgsql as $$ begin
            if p_event_id = 1 then raise 'refused' using errcode = '54000'; end if;
            return '{}';
        end $$
        """,
    ],
    ids=["constraint", "payload"],
)
async def test_delivery_that_cannot_be_claimed_is_given_up(
    bridge_url: str, bot: Bot, damage: str, ordered: bool
) -> None:
    bot.execute(damage.encode())
    async with receiving() as receiver:
        webhooks = [add_webhook(bot, receiver.url(f"/{n}"), ordered=ordered) for n in range(3)]
        for _ in range(2):
            for webhook in webhooks:
                enqueue(bot, webhook)
        with capture_logs() as logs:
            async with delivering(bridge_url):
                await until_true(bot, "count(*) = 6 from bridge.delivery_log")
    row = delivery(bot, 1)
    assert row["status"] == "failed"
    assert row["error_message"].startswith("cannot claim the delivery: ")
    assert {delivery(bot, number)["status"] for number in range(2, 7)} == {"success"}
    assert len(receiver.requests) == 5
    [aside] = [entry for entry in logs if entry["event"] == "delivery_set_aside"]
    assert (aside["delivery_id"], aside["webhook_id"]) == (1, webhooks[0])
    assert bot.execute("select failed_count from bridge.webhooks order by id").fetchall() == [
        *((1,), (0,), (0,))
    ]


async def test_delivery_that_the_log_rejects_becomes_a_dead_letter(
    bridge_url: str, bot: Bot
) -> None:
    refuse(bot, "update", "delivery_queue", "new.id in (1, 4)")
    refuse(bot, "insert", "delivery_log", "new.id in (1, 4)")
    async with receiving() as receiver:
        webhooks = [add_webhook(bot, receiver.url(f"/{n}")) for n in range(3)]
        for _ in range(2):
            for webhook in webhooks:
                enqueue(bot, webhook)
        async with delivering(bridge_url):
            await until_true(bot, "not exists (select from bridge.delivery_queue)")
    assert bot.execute(
        "select webhook_id, event_id, event_type, reason from bridge.dead_letters order by id"
    ).fetchall() == [(webhooks[0], number, "test.event", "refused") for number in BAD]
    assert {delivery(bot, number)["status"] for number in OTHERS} == {"success"}


@pytest.mark.parametrize("table", ["delivery_queue", "webhooks"])
async def test_webhook_that_rejects_everything_is_avoided(
    bridge_url: str, bot: Bot, table: str
) -> None:
    if table == "webhooks":
        refuse(bot, "update", "webhooks", "new.id = 1")
    else:
        refuse(bot, "update", "delivery_queue", "new.webhook_id = 1")
    refuse(bot, "delete", "delivery_queue", "old.webhook_id = 1")
    async with receiving() as receiver:
        for number in range(3):
            rate = 1000 if number == 0 else None
            webhook = add_webhook(bot, receiver.url(f"/{number}"), rate_per_second=rate)
            assert webhook == number + 1
        with capture_logs() as logs:
            async with delivering(bridge_url):
                for _ in range(3):
                    for webhook in (1, 2, 3):
                        enqueue(bot, webhook)
                    await until_true(
                        bot, "not exists (select from bridge.delivery_queue where webhook_id > 1)"
                    )
                await until(lambda: "webhook_avoided" in {entry["event"] for entry in logs})
    assert not receiver.at("/0")
    assert len(receiver.requests) == 6
    assert [entry["webhook_id"] for entry in logs if entry["event"] == "webhook_avoided"] == [1]
    assert bot.execute("select count(*) from bridge.delivery_queue").fetchone() == (3,)


async def test_deferred_delivery_that_the_queue_rejects_becomes_a_dead_letter(
    bridge_url: str, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "DRAIN_DELIVERIES", 0)
    webhooks = [add_webhook(bot, filter='$.username != "z"' if n == 3 else None) for n in range(5)]
    refuse(bot, "insert", "delivery_queue", f"new.webhook_id = {webhooks[1]}")
    async with relaying(bridge_url) as relayed:
        with bot.transaction():
            for number in range(3):
                sign_up(bot, str(number))
        await relayed.until_count(3)
        await until_true(bot, "not exists (select from bridge.deferred_events)")
    rest = [webhook for webhook in webhooks if webhook != webhooks[1]]
    assert bot.execute(
        "select webhook_id, array_agg(event_id order by id) from bridge.delivery_queue"
        " group by 1 order by 1"
    ).fetchall() == [(webhook, [1, 2, 3]) for webhook in rest]
    assert bot.execute(
        "select webhook_id, event_id, reason from bridge.dead_letters order by id"
    ).fetchall() == [(webhooks[1], number, "refused") for number in (1, 2, 3)]


def test_database_and_bridge_agree_on_errors_of_values(bot: Bot) -> None:
    codes = ["22P05", "23514", "P0001", "54000", "53200", "XX000", "53100", "42501", "40P01"]
    for code in codes:
        error = errors.DatabaseError.new({"C": code, "M": "no"})
        assert bot.execute("select bridge.is_of_values(%s)", (code,)).fetchone() == (
            errors.is_of_values(error),
        )
