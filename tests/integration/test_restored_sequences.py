"""A dump that is replayed into its own database sets sequences back. Ids do not repeat."""

import pytest
from structlog.testing import capture_logs

from bridge.relay import drain
from tests.conftest import init
from tests.integration.doctor.conftest import diagnose
from tests.integration.relaying import Bot, relaying, sign_up
from tests.system.processes import as_service
from tests.waiting import until

EVERY_SEQUENCE = """
    select setval(oid::regclass, %s)
    from pg_class
    where relnamespace = 'bridge'::regnamespace and relkind = 'S' and relname <> 'doorbell'
"""
WEBHOOK = "insert into bridge.webhooks (name, url, event_type) values ('a', 'http://a', '*')"


@pytest.fixture(autouse=True)
def no_safety_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn off the scan that finds everything within a minute."""
    monkeypatch.setattr(drain, "FULL_SCAN_SECONDS", 1e9)


@pytest.mark.parametrize("back_to", [1, 10, 19])
async def test_ids_continue_under_running_bridges(bridge_url: str, bot: Bot, back_to: int) -> None:
    bot.execute(WEBHOOK)
    url = as_service(bridge_url)
    with capture_logs() as logs:
        async with relaying(url, poll_seconds=0.1) as leader, relaying(url) as follower:
            for number in range(20):
                sign_up(bot, str(number))
            await leader.until_count(20)
            bot.execute(EVERY_SEQUENCE.encode(), [back_to])
            for number in range(3):
                sign_up(bot, f"after {number}")
            await leader.until_count(23)
            await follower.until_count(23)
    ids = [event.id for event in leader.events]
    assert ids == list(range(1, 24))
    assert [event.id for event in follower.events] == ids
    queued = "select count(distinct id), count(*) from bridge.delivery_queue"
    assert bot.execute(queued).fetchone() == (23, 23)
    moved = {each["sequence"] for each in logs if each["event"] == "sequence_advanced"}
    assert moved
    assert diagnose(bridge_url)["sequences"].level == "ok"


async def test_applications_statements_do_not_fail_while_no_bridge_runs(
    bridge_url: str, bot: Bot
) -> None:
    for number in range(5):
        sign_up(bot, f"before {number}")
    bot.execute(EVERY_SEQUENCE.encode(), [1])
    for number in range(5):
        sign_up(bot, f"after {number}")
    async with relaying(as_service(bridge_url)) as relayed:
        await relayed.until_count(10)
        assert [event.id for event in relayed.events] == list(range(2, 12))
        sign_up(bot, "last")
        await relayed.until_count(11)


async def test_ids_in_use_do_not_stop_a_drain(bridge_url: str, bot: Bot) -> None:
    bot.execute(WEBHOOK)
    async with relaying(as_service(bridge_url)) as relayed:
        for number in range(3):
            sign_up(bot, str(number))
        await relayed.until_count(3)
        bot.execute("select setval('bridge.delivery_queue_id_seq', 1)")
        sign_up(bot, "after")
        await relayed.until_count(4)
    assert bot.execute("select count(*) from bridge.dead_letters").fetchone() == (0,)


async def test_ids_continue_after_an_empty_log(bridge_url: str, bot: Bot) -> None:
    async with relaying(as_service(bridge_url)) as relayed:
        sign_up(bot, "a")
        await relayed.until_count(1)
    bot.execute("delete from bridge.events")
    async with relaying(as_service(bridge_url)) as relayed:
        sign_up(bot, "b")
        await relayed.until_count(1)
        assert relayed.events[0].id == 2


async def test_ids_of_lost_events_are_not_given_out_again(bridge_url: str, bot: Bot) -> None:
    async with relaying(as_service(bridge_url), poll_seconds=0.1) as relayed:
        for number in range(10):
            sign_up(bot, str(number))
        await relayed.until_count(10)
        # To the bridge, this looks like a restore to an earlier time.
        bot.execute("delete from bridge.events where id > 5; select setval('bridge.event_id', 5)")
        bot.execute("select pg_terminate_backend(bridge.leader_pid())")
        sign_up(bot, "after")
        await relayed.until_count(11)
        assert relayed.events[-1].id == 11


async def test_failed_drains_use_up_no_ids(bridge_url: str, bot: Bot) -> None:
    async with relaying(as_service(bridge_url), poll_seconds=0.1) as relayed:
        sign_up(bot, "a")
        await relayed.until_count(1)
        bot.execute("alter table bridge.events add constraint mine check (payload ->> 'x' is null)")
        bot.execute("select bridge.emit('bad.one', '{\"x\": 1}'), bridge.emit('good.one', '{}')")
        await relayed.until_count(3)
        assert [event.id for event in relayed.events] == [1, 2, 3]


def test_init_moves_sequences_as_well(bridge_url: str, bot: Bot) -> None:
    bot.execute(WEBHOOK)
    bot.execute(EVERY_SEQUENCE.encode(), [1])
    assert [step.title for step in init(bridge_url).steps] == ["move sequences past the ids in use"]
    bot.execute(WEBHOOK)
    assert init(bridge_url).steps == []


@pytest.mark.parametrize(
    ("table", "sequence", "row"),
    [
        ("webhooks", "webhooks_id_seq", WEBHOOK),
        (
            "api_tokens",
            "api_tokens_id_seq",
            "insert into bridge.api_tokens (name, token_hash, prefix, scopes)"
            " values ('a', decode(repeat('00', 32), 'hex'), 'x', '{admin}')",
        ),
    ],
)
async def test_doctor_names_sequences_that_were_set_back(
    bridge_url: str, bot: Bot, table: str, sequence: str, row: str
) -> None:
    bot.execute(row)
    bot.execute(f"update bridge.{table} set id = default".encode())
    bot.execute(f"select setval('bridge.{sequence}', 1)".encode())
    found = diagnose(bridge_url)["sequences"]
    assert found.level == "warning"
    assert f"bridge.{sequence} (1, in use up to 2)" in found.message
    async with relaying(as_service(bridge_url)):
        behind = "select from bridge.sequences_behind(0, 0)"
        await until(lambda: bot.execute(behind).fetchone() is None)
