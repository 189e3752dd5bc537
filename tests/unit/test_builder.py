"""Large request bodies are built by another process, which may fail."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil  # type: ignore[import-untyped]
import pytest
import trio
from structlog.testing import capture_logs

from bridge.delivery import builder as builder_module
from bridge.delivery.body import canonical_body
from bridge.delivery.builder import Builder
from tests.waiting import until

PAYLOADS = [
    "{}",
    '{"b": [1.50, null], "a": {"я": "ж", "\\u0001": true}}',
    json.dumps({"list": [[[[number]]] for number in range(20_000)]}),
    json.dumps({f"k{number}": "x" * 50 for number in range(20_000)}),
    '{"beyond a float": 1e999, "digits": ' + "9" * 5_000 + "}",
]


@asynccontextmanager
async def building() -> AsyncIterator[Builder]:
    builder = Builder()
    try:
        yield builder
    finally:
        await builder.close()


def own_process() -> psutil.Process:
    """Return the process that builds bodies."""
    [process] = [
        child
        for child in psutil.Process().children()
        if child.cmdline()[-2:] == ["-m", "bridge.delivery.body"]
    ]
    return process


@pytest.fixture
def only_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process build no bodies."""

    def refuse(_payload: str) -> bytes:
        raise AssertionError("built in this process")

    monkeypatch.setattr(builder_module, "canonical_body", refuse)


@pytest.mark.usefixtures("only_elsewhere")
async def test_bodies_are_those_of_small_payloads_and_built_elsewhere() -> None:
    async with building() as builder:
        assert [await builder.build(each) for each in PAYLOADS] == [
            canonical_body(each) for each in PAYLOADS
        ]


@pytest.mark.usefixtures("only_elsewhere")
async def test_bodies_for_several_tasks_are_not_mixed_up() -> None:
    bodies: dict[str, bytes] = {}

    async def build(payload: str) -> None:
        bodies[payload] = await builder.build(payload)

    async with building() as builder, trio.open_nursery() as nursery:
        for payload in PAYLOADS:
            nursery.start_soon(build, payload)
    assert bodies == {payload: canonical_body(payload) for payload in PAYLOADS}


@pytest.mark.usefixtures("only_elsewhere")
async def test_payload_nested_too_deeply_is_reported_and_the_next_one_built() -> None:
    async with building() as builder:
        with pytest.raises(RecursionError):
            await builder.build("[" * 100_000 + "]" * 100_000)
        assert await builder.build("[1]") == b"[1]"


@pytest.mark.usefixtures("only_elsewhere")
async def test_cancelled_payload_does_not_answer_for_the_next_one() -> None:
    async with building() as builder:
        await builder.build("[1]")
        own_process().send_signal(signal.SIGSTOP)  # so that it is cancelled before the answer
        with trio.move_on_after(0.05) as cancelled:
            await builder.build("[2]")
        assert cancelled.cancelled_caught
        assert await builder.build("[3]") == b"[3]"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_body_is_built_here_if_the_process_is_killed_or_frozen(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with building() as builder:
        await builder.build("[1]")
        first = own_process()
        first.send_signal(number)
        if number is signal.SIGSTOP:
            monkeypatch.setattr(builder_module, "BUILD_SECONDS", 0.1)
        else:
            await until(lambda: first.status() == psutil.STATUS_ZOMBIE)
        with capture_logs() as lines:
            assert await builder.build("[2]") == b"[2]"
        assert [line["event"] for line in lines] == ["body_process_failed"]
        monkeypatch.undo()
        assert await builder.build("[3]") == b"[3]"
        assert own_process().pid != first.pid


async def test_body_is_built_here_if_no_process_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent")
    async with building() as builder:
        assert await builder.build("[1]") == b"[1]"


@pytest.mark.usefixtures("only_elsewhere")
async def test_process_has_no_secrets_and_ends_with_its_builder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BRIDGE_SECRET_KEY", "secret")
    async with building() as builder:
        await builder.build("[1]")
        process = own_process()
        assert not any(name.startswith("BRIDGE") for name in process.environ())
    assert not psutil.pid_exists(process.pid)


@pytest.mark.usefixtures("only_elsewhere")
async def test_process_ignores_ctrl_c_and_ends_with_its_parent() -> None:
    async with building() as builder:
        await builder.build("[1]")
        os.kill(own_process().pid, signal.SIGINT)
        assert await builder.build("[2]") == b"[2]"
        # As when the bridge is killed: its end of the pipe is closed.
        process = builder._process
        assert process is not None
        assert process.stdin is not None
        await process.stdin.aclose()
        with trio.fail_after(30):
            assert await process.wait() == 0
