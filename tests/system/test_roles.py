"""Three logins without superuser: the owner, the writer and the bridge."""

import json

import psycopg
import pytest
import trio

from bridge.demo.postgres import EmbeddedPostgres
from tests.conftest import BOT_TABLES
from tests.receiver import receiving
from tests.system.processes import as_role, complaint, listening, pgbridge, running
from tests.system.test_main_job import create_webhook
from tests.waiting import PATIENCE_SECONDS

OWNER, BOT, RUNNER = "shop_owner", "shop_bot", "shop_bridge"


@pytest.fixture
def url(own_server: EmbeddedPostgres) -> str:
    """The superuser's URL of the owner's database with the bot's tables."""
    with psycopg.connect(own_server.url(), autocommit=True) as admin:
        for role in (OWNER, BOT, RUNNER):
            admin.execute(f"create role {role} login".encode())
        admin.execute(f"create database shop owner {OWNER}".encode())
    url = own_server.url("shop")
    with psycopg.connect(as_role(url, OWNER)) as owner:
        owner.execute(BOT_TABLES.read_bytes())
        owner.execute(
            f"grant select, insert, update, delete on all tables in schema public to {BOT};"
            f"grant usage on all sequences in schema public to {BOT}".encode()
        )
    return url


def run_as(role: str, url: str, *command: str) -> str:
    """Run a command that must succeed, and return its standard error."""
    done = pgbridge(*command, url=as_role(url, role))
    assert done.returncode == 0, done.stderr
    return done.stderr


def refusal(role: str, url: str, *command: str) -> str:
    """Run a command that must fail, and return its error line."""
    return complaint(pgbridge(*command, url=as_role(url, role)), 1)


async def test_everything_works_without_a_superuser(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as admin, trio.fail_after(PATIENCE_SECONDS):
        # Without the roles, only the owner can run a bridge.
        assert "note: role bridge_service does not exist, so `pgbridge run` must connect" in run_as(
            OWNER, url, "init"
        )
        line = refusal(RUNNER, url, "run")
        assert line.startswith(
            f"pgbridge: permission denied: role {RUNNER} lacks usage on schema bridge, "
        )
        assert line.endswith(
            "; use the role that ran pgbridge init, or have it run: pgbridge init --create-roles"
        )

        # The error tells a role that may not create roles what an administrator must run.
        line = refusal(OWNER, url, "init", "--create-roles")
        assert line == (
            f"pgbridge: role {OWNER} may not create roles; have an administrator run, and then run "
            "pgbridge init again: create role bridge_service nologin; "
            "create role bridge_reader nologin;"
        )
        admin.execute(f"alter role {OWNER} createrole".encode())
        planned = pgbridge("init", "--create-roles", "--dry-run", url=as_role(url, OWNER))
        assert "create role bridge_service nologin;" in planned.stdout
        assert "grant usage on schema bridge to bridge_service;" in planned.stdout
        assert run_as(OWNER, url, "init", "--create-roles").splitlines()[:2] == [
            "create bridge_service and bridge_reader",
            "grant what bridge_service and bridge_reader need",
        ]
        assert run_as(OWNER, url, "init", "--create-roles").startswith("rules: 0 new")

        # Both a non-member and a member that does not inherit get a remedy.
        line = refusal(RUNNER, url, "run")
        assert line.endswith(f"; grant bridge_service to {RUNNER}")
        admin.execute(f"alter role {RUNNER} noinherit; grant bridge_service to {RUNNER}".encode())
        line = refusal(RUNNER, url, "run")
        assert "lacks usage on schema bridge" in line
        admin.execute(line.rpartition("; ")[2].encode())

        async with (
            receiving() as receiver,
            running(as_role(url, RUNNER)) as bridge,
            listening(bridge) as dashboard,
        ):
            await create_webhook(bridge, receiver.url("/hook"))
            with psycopg.connect(as_role(url, BOT), autocommit=True) as bot:
                bot.execute("insert into users (auth_type, username) values ('telegram', 'ivan')")
            event = json.loads(await dashboard.get_message())
            assert (event["type"], event["payload"]["username"]) == ("user.created", "ivan")
            await receiver.until(lambda: len(receiver.at("/hook")) == 1)
            for command in (
                ("status",),
                ("doctor",),
                ("token", "create", "--name", "x"),
                ("token", "list"),
                ("token", "revoke", "1"),
                ("webhooks", "list"),
                ("webhooks", "pause", "1"),
                ("webhooks", "resume", "1"),
            ):
                run_as(RUNNER, url, *command)
            assert await bridge.terminate() == 0
            assert bridge.logged("database_task_failed") == []

        # Commands for the owner only.
        for command, why in (
            (("init",), "may not create triggers on public.tickets"),
            (("capture", "pause"), "permission denied for schema bridge; docs/roles.md says"),
            (
                ("uninstall", "--yes"),
                "must be owner of function bridge.capture_note_ticket_opened; docs/roles.md says",
            ),
        ):
            assert why in refusal(RUNNER, url, *command)
        assert run_as(OWNER, url, "uninstall", "--yes").splitlines()[-1] == (
            "kept the roles bridge_service and bridge_reader, which other databases of this server "
            "may use; if none does, run: drop role bridge_service, bridge_reader"
        )
        admin.execute("drop role bridge_service, bridge_reader")
