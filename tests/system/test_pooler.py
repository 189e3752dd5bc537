"""The bridge works through the application's PgBouncer."""

import json

import psycopg
import trio

from tests.pgbouncer import pgbouncer
from tests.receiver import receiving
from tests.system.processes import as_service, listening, pgbridge, running
from tests.system.test_main_job import create_webhook
from tests.waiting import PATIENCE_SECONDS


async def test_commit_arrives_through_a_pooler(bridge_url: str, pooled_url: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS), pgbouncer(as_service(bridge_url)) as service_url:
        async with (
            receiving() as receiver,
            running(service_url, listen_url=bridge_url) as bridge,
            listening(bridge) as dashboard,
        ):
            await create_webhook(bridge, receiver.url("/hook"))
            with psycopg.connect(pooled_url) as bot:
                bot.execute("insert into users (auth_type, username) values ('telegram', 'ivan')")
                bot.commit()
            event = json.loads(await dashboard.get_message())
            assert (event["type"], event["payload"]["username"]) == ("user.created", "ivan")
            await receiver.until(lambda: len(receiver.at("/hook")) == 1)
            assert await bridge.terminate() == 0
            assert "database_task_failed" not in await trio.Path(bridge.log).read_text()


def test_commands_bypass_the_pooler_or_refuse(bridge_url: str, pooled_url: str) -> None:
    made = pgbridge("token", "create", "--name", "x", url=pooled_url, listen_url=bridge_url)
    assert made.returncode == 0, made.stderr
    for command in (("init",), ("run",)):
        refused = pgbridge(*command, url=pooled_url)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("pgbridge: ")
        assert "set BRIDGE_LISTEN_URL to PostgreSQL's own address\n" in refused.stderr
        assert refused.stderr.count("\n") == 1
