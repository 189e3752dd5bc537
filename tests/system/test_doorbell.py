"""The doorbell of a running bridge in metrics, status and flag."""

import json
import re

import httpx
import psycopg
import trio

from tests.system.processes import Bridge, listening, pgbridge, running
from tests.waiting import PATIENCE_SECONDS, until

BURST = 200


async def metrics(bridge: Bridge) -> dict[str, float]:
    """Return the samples of /metrics by name and labels."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{bridge.rest_url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    shown = re.findall(r"^(pgbridge_\S+) (\S+)$", answer.text, re.MULTILINE)
    return {name: float(value) for name, value in shown}


def state(shown: dict[str, float]) -> list[str]:
    """Return the doorbell's state from the metrics."""
    label = 'pgbridge_doorbell_state{pgbridge_doorbell_state="'
    return [
        name.removeprefix(label).rstrip('"}')
        for name, value in shown.items()
        if name.startswith(label) and value
    ]


def flag(bot: psycopg.Connection[tuple[object, ...]]) -> str:
    [(value,)] = bot.execute("select last_value from bridge.doorbell").fetchall()
    return {0: "ring", 1: "quiet"}[int(str(value))]


async def until_state(bridge: Bridge, wanted: str) -> dict[str, float]:
    while state(shown := await metrics(bridge)) != [wanted]:  # noqa: ASYNC110 - of another process
        await trio.sleep(0.02)
    return shown


async def test_burst_silences_the_doorbell_until_it_is_over(bridge_url: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS), psycopg.connect(bridge_url, autocommit=True) as bot:
        assert flag(bot) == "quiet", "no bridge drains yet"
        async with running(bridge_url) as bridge, listening(bridge) as dashboard:
            # Once it drains; until then the metrics show the initial state.
            await until(lambda: flag(bot) == "ring")
            bot.execute(
                "insert into users (auth_type) select 'telegram' from generate_series(1, %s)",
                (BURST,),
            )
            for _ in range(BURST):
                await dashboard.get_message()
            shown = await until_state(bridge, "ringing")
            assert shown['pgbridge_doorbell_switches_total{to="quiet"}'] == 1
            assert shown['pgbridge_doorbell_switches_total{to="ring"}'] == 1
            assert shown["pgbridge_events_drained_total"] == BURST
            assert shown["pgbridge_draining"] == 1
            assert shown['pgbridge_doorbell_mode{pgbridge_doorbell_mode="adaptive"}'] == 1
            status = await trio.to_thread.run_sync(
                lambda: pgbridge("status", "--json", url=bridge_url)
            )
            doorbell = json.loads(status.stdout)["doorbell"]
            assert (doorbell["mode"], doorbell["rings"], doorbell["switches"]) == (
                "adaptive",
                True,
                2,
            )
            assert await bridge.terminate() == 0
        assert flag(bot) == "quiet", "a bridge that stops in order also stops notifications"


async def test_failing_rule_appears_in_metrics_and_doctor(bridge_url: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS), psycopg.connect(bridge_url, autocommit=True) as bot:
        bot.execute("alter table users drop column referral_code")
        async with running(bridge_url) as bridge, listening(bridge) as dashboard:
            for _ in range(3):
                bot.execute("insert into users (auth_type) values ('telegram')")
            events = [json.loads(await dashboard.get_message()) for _ in range(3)]
            assert all("_capture_error" in event["payload"] for event in events)
            shown = await metrics(bridge)
            assert shown['pgbridge_capture_errors_total{rule="user.created"}'] == 3
            doctor = await trio.to_thread.run_sync(
                lambda: pgbridge("doctor", "--json", url=bridge_url)
            )
        findings = {each["check"]: each for each in json.loads(doctor.stdout)["findings"]}
        assert doctor.returncode == 1
        assert "user.created: 3 times" in findings["capture_errors"]["message"]


async def test_poll_mode_never_notifies_and_allows_two_phase_commits(bridge_url: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS), psycopg.connect(bridge_url, autocommit=True) as bot:
        bot.execute("select setval('bridge.doorbell', 0)")
        init = pgbridge("init", url=bridge_url, doorbell="poll")
        assert init.returncode == 0
        assert "quiet the doorbell" in init.stderr
        assert flag(bot) == "quiet"
        async with running(bridge_url, doorbell="poll", poll_seconds=0.2) as bridge:
            async with listening(bridge) as dashboard:
                bot.execute("begin")
                bot.execute("insert into users (auth_type, username) values ('x', 'two-phase')")
                bot.execute("prepare transaction 'signup'")
                bot.execute("insert into users (auth_type, username) values ('x', 'plain')")
                first = json.loads(await dashboard.get_message())
                bot.execute("commit prepared 'signup'")
                second = json.loads(await dashboard.get_message())
            names = [event["payload"]["username"] for event in (first, second)]
            assert names == ["plain", "two-phase"]
            assert flag(bot) == "quiet"
            assert state(await metrics(bridge)) == ["quiet"]
