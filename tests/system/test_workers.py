"""``pgbridge run --workers``: several processes that start, serve and stop as one bridge."""

import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from psycopg.conninfo import conninfo_to_dict
from trio_websocket import ConnectionClosed, Endpoint, WebSocketConnection

from bridge.demo.postgres import EmbeddedPostgres
from tests.system.processes import Bridge, complaint, invoked, listening, pgbridge, running
from tests.waiting import PATIENCE_SECONDS, until

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
SETTINGS = {"poll_seconds": 0.2}
Bot = psycopg.Connection[tuple[object, ...]]


def pids(bridge: Bridge) -> dict[int, int]:
    """Return the newest process ID of each worker, by number."""
    return {line["number"]: line["pid"] for line in bridge.logged("worker_started")}


def worker_of(bridge: Bridge, client: WebSocketConnection) -> int:
    """Return the number of the worker that serves a client."""
    assert isinstance(client.local, Endpoint)
    [number] = [
        number for number, pid in pids(bridge).items() if client.local.port in _client_ports(pid)
    ]
    return number


def _client_ports(pid: int) -> set[int]:
    """Return the client ports of connections that a process has accepted."""
    connections = psutil.Process(pid).net_connections("tcp4")
    return {each.raddr.port for each in connections if each.raddr}


@asynccontextmanager
async def a_client_on_each(bridge: Bridge) -> AsyncIterator[dict[int, WebSocketConnection]]:
    """Connect until every worker has a client; yield one client per worker."""
    clients: dict[int, WebSocketConnection] = {}
    async with AsyncExitStack() as stack:
        while clients.keys() != pids(bridge).keys():
            client = await stack.enter_async_context(listening(bridge))
            clients[worker_of(bridge, client)] = client
        yield clients


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, perhaps as a zombie."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Freeze a process during the context."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def all_ended(workers: dict[int, int]) -> None:
    await until(lambda: all(map(has_ended, workers.values())))


def sign_up(bot: Bot, names: Sequence[str]) -> None:
    for name in names:
        bot.execute("insert into users (auth_type, username) values ('x', %s)", (name,))


async def events_until(client: WebSocketConnection, last: str) -> list[tuple[int, str]]:
    """Read a client's events up to this user; return their IDs and users."""
    taken: list[tuple[int, str]] = []
    while not taken or taken[-1][1] != last:
        event = json.loads(await client.get_message())
        taken.append((event["id"], event["payload"]["username"]))
    return taken


async def close_code(client: WebSocketConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        await client.get_message()
    assert closed.value.reason is not None
    return int(closed.value.reason.code)


async def metrics_of(bridge: Bridge, number: int) -> list[Sample]:
    """Return the metrics of all workers, as one of them reports them."""
    pid = pids(bridge)[number]
    async with AsyncExitStack() as stack:
        opened: dict[int, trio.SocketStream] = {}
        # The kernel chooses the worker of a connection.
        while not (ours := opened.keys() & _client_ports(pid)):
            stream = await trio.open_tcp_stream("127.0.0.1", bridge.port)
            opened[stream.socket.getsockname()[1]] = await stack.enter_async_context(stream)
        stream = opened[ours.pop()]
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join([chunk async for chunk in stream]).decode()
    head, _, text = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    families = list(text_string_to_metric_families(text))
    assert text.count("# TYPE") == len({family.name for family in families})
    return [sample for family in families for sample in family.samples]


async def drainer(bridge: Bridge, asked: int = 1) -> int:
    """Wait until a worker drains according to these metrics; return its number."""
    while True:
        for name, labels, value, *_ in await metrics_of(bridge, asked):
            if name == "pgbridge_draining" and value == 1:
                return int(labels["worker"])


# --- events


async def test_clients_of_all_workers_get_the_same_events_in_order(
    bridge_url: str, bot: Bot
) -> None:
    names = [f"u{number}" for number in range(100)]
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url, "--workers", "3", **SETTINGS) as bridge:
            assert bridge.announcement.endswith("/console with 3 workers\n")
            async with a_client_on_each(bridge) as clients:
                sign_up(bot, names)
                streams = [await events_until(client, names[-1]) for client in clients.values()]
    assert len(streams) == 3
    assert [name for _, name in streams[0]] == names
    assert streams[0] == streams[1] == streams[2]
    ids = [event_id for event_id, _ in streams[0]]
    assert ids == sorted(set(ids))


async def test_killed_drainer_is_replaced_while_another_drains(bridge_url: str, bot: Bot) -> None:
    names = [f"u{number}" for number in range(100)]
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url, workers=2, **SETTINGS) as bridge:
            async with a_client_on_each(bridge) as clients:
                killed = await drainer(bridge)
                killed_pid = pids(bridge)[killed]
                other = 3 - killed
                sign_up(bot, names[:50])
                os.kill(killed_pid, signal.SIGKILL)
                sign_up(bot, names[50:])
                # Events that the killed worker logged but did not publish arrive too.
                assert [name for _, name in await events_until(clients[other], "u99")] == names
                assert await drainer(bridge, other) == other
                await until(lambda: pids(bridge)[killed] != killed_pid)
            [line] = bridge.logged("worker_exited")
            assert (line["number"], line["pid"]) == (killed, killed_pid)
            assert line["exit_status"] == "signal 9"
            async with a_client_on_each(bridge) as clients:
                sign_up(bot, ["again"])
                for client in clients.values():
                    assert [name for _, name in await events_until(client, "again")] == ["again"]
            assert await bridge.terminate() == 0


async def test_worker_is_restarted_until_the_database_is_back(
    bridge_url: str, server: EmbeddedPostgres
) -> None:
    def let_in(allowed: bool) -> None:
        database = conninfo_to_dict(bridge_url)["dbname"]
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"alter database {database} allow_connections {allowed}".encode())

    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url, workers=2, **SETTINGS) as bridge:
            before = pids(bridge)
            let_in(False)
            os.kill(before[1], signal.SIGKILL)
            await until(lambda: len(bridge.logged("worker_exited")) >= 3)
            let_in(True)
            await until(lambda: pids(bridge)[1] != before[1])
            assert pids(bridge)[2] == before[2]
            assert await bridge.terminate() == 0
            killed, *refused = bridge.logged("worker_exited")
            assert killed["exit_status"] == "signal 9"
            exits = {(line["number"], line["exit_status"]) for line in refused}
            assert exits == {(1, "exit code 1")}
            assert all("cannot connect to the database" in line["reason"] for line in refused)


# --- shutdown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_stops_all_workers_cleanly(bridge_url: str, number: signal.Signals) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url, workers=2) as bridge, a_client_on_each(bridge) as clients:
            workers = pids(bridge)
            # To the whole process group, like Ctrl-C in a terminal.
            os.killpg(bridge.process.pid, number)
            assert await bridge.process.wait() == 0
            assert [await close_code(client) for client in clients.values()] == [1001, 1001]
            await all_ended(workers)
            assert "Traceback" not in bridge.log.read_text()
            stopped = [line.get("worker") for line in bridge.logged("shutdown_completed")]
            assert stopped[-1] is None
            assert set(stopped) == {1, 2, None}


async def test_hanging_worker_is_killed(bridge_url: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url, workers=2) as bridge:
            workers = pids(bridge)
            with frozen(workers[1]):
                assert await bridge.terminate() == 1
                await all_ended(workers)
            [line] = bridge.logged("worker_killed")
            assert line["pid"] == workers[1]


async def test_workers_stop_when_the_supervisor_is_killed(bridge_url: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url, workers=2) as bridge, a_client_on_each(bridge) as clients:
            workers = pids(bridge)
            await bridge.kill()
            assert [await close_code(client) for client in clients.values()] == [1001, 1001]
            await all_ended(workers)
            assert {line["worker"] for line in bridge.logged("supervisor_died")} == {1, 2}


# --- startup. Child processes keep standard error open, so a command that returns left none behind.


def test_workers_that_cannot_start_report_once(bot_url: str) -> None:
    run = ("run", "--workers", "2")
    assert "cannot connect to the database" in complaint(pgbridge(*run, url=NOWHERE, port=0), 1)
    assert "run: pgbridge init" in complaint(pgbridge(*run, url=bot_url, port=0), 1)


def test_invalid_settings_are_reported_before_any_worker() -> None:
    assert "BRIDGE_WORKERS" in complaint(invoked("run", url=NOWHERE, workers=65), 2)
    result = invoked("run", "--workers", "0", url=NOWHERE)
    assert (result.returncode, result.stdout) == (2, "")
    assert "BRIDGE_PORT" in complaint(invoked("run", "--workers", "2", url=NOWHERE, port="x"), 2)


@pytest.mark.parametrize("shared", [False, True])
def test_workers_refuse_a_port_in_use(bridge_url: str, shared: bool) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = complaint(pgbridge("run", "--workers", "2", url=bridge_url, port=port), 1)
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line


async def test_workers_listen_on_every_address_of_a_host(bridge_url: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(bridge_url, workers=2, host="localhost") as bridge:
            listening_on = [
                {
                    each.laddr
                    for each in psutil.Process(pid).net_connections("tcp")
                    if each.status == psutil.CONN_LISTEN
                }
                for pid in pids(bridge).values()
            ]
            names = {info[4][0] for info in socket.getaddrinfo("localhost", 0)}
            assert listening_on[0] == listening_on[1]
            assert {address.ip for address in listening_on[0]} == names
            assert await bridge.terminate() == 0


def test_worker_cannot_be_started_by_hand() -> None:
    assert "pgbridge run --workers" in complaint(pgbridge("worker", "1", url=NOWHERE), 2)
    assert not [
        line for line in pgbridge("--help", url=None).stdout.splitlines() if "worker" in line
    ]


# --- identification


async def test_logs_and_metrics_identify_the_worker(bridge_url: str, bot: Bot) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            running(bridge_url, workers=2, **SETTINGS) as bridge,
            a_client_on_each(bridge) as clients,
        ):
            draining = await drainer(bridge)
            sign_up(bot, ["a", "b", "c"])
            for client in clients.values():
                await events_until(client, "c")
            assert [line["worker"] for line in bridge.logged("leadership_acquired")] == [draining]
            assert not any("worker" in line for line in bridge.logged("worker_started"))
            for asked in clients:
                samples = await metrics_of(bridge, asked)
                assert {sample.labels["worker"] for sample in samples} == {"1", "2"}
                drained = {
                    int(sample.labels["worker"]): sample.value
                    for sample in samples
                    if sample.name == "pgbridge_events_drained_total"
                }
                assert drained == {draining: 3, 3 - draining: 0}
            # A worker that does not respond is left out.
            with frozen(pids(bridge)[draining]):
                samples = await metrics_of(bridge, 3 - draining)
            assert {sample.labels["worker"] for sample in samples} == {str(3 - draining)}
