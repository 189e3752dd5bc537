"""The unchanged nginx and Caddy configurations of examples/ in front of a bridge.

Tests of a proxy that is not installed are skipped. tests/unit/test_proxies.py tests how the bridge
reads a proxy's headers.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from bridge.settings import Settings
from tests.receiver import Receiver, receiving
from tests.system.processes import TOKEN, Bridge, lasting_port, running
from tests.system.writers import SIGN_UP, logged
from tests.waiting import PATIENCE_SECONDS

EXAMPLES = Path(__file__).parents[2] / "examples"
Bot = psycopg.Connection[tuple[object, ...]]
#: The address of the clients, which must differ from the proxy's.
CLIENT = "127.0.0.2"


@dataclass
class Proxy:
    """A running proxy, with an application besides the bridge."""

    port: int
    directory: Path
    application: Receiver

    def client(self) -> httpx.AsyncClient:
        """Return an HTTP client for the proxy."""
        transport = httpx.AsyncHTTPTransport(local_address=CLIENT)
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", transport=transport)

    def logs(self) -> str:
        """Return the proxy's logs so far."""
        return _all_logs(self.directory)


#: Runs a proxy in front of a bridge during the context.
Run = Callable[[Bridge], AbstractAsyncContextManager[Proxy]]


def nginx(directory: Path, port: int, bridge_port: int, application: str) -> list[str]:
    """Write nginx's configuration around the example; return its command."""
    example = (EXAMPLES / "nginx.conf").read_text("utf-8")
    assert example.count("127.0.0.1:8090;") == 2
    (directory / "pgbridge.conf").write_text(
        example.replace("127.0.0.1:8090;", f"127.0.0.1:{bridge_port};"), "utf-8"
    )
    (directory / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {directory}/nginx.pid;
        error_log {directory}/error.log;
        events {{}}
        http {{
            access_log {directory}/access.log;
            client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
            fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
            scgi_temp_path {directory}/scgi;
            server {{
                listen 127.0.0.1:{port};
                include {directory}/pgbridge.conf;
                location / {{ proxy_pass {application}; }}
            }}
        }}
        """,
        "utf-8",
    )
    start = f"{directory}/start.log"
    return ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", start]


def caddy(directory: Path, port: int, bridge_port: int, application: str) -> list[str]:
    """Write the example for this machine; return Caddy's command."""
    config = (EXAMPLES / "Caddyfile").read_text("utf-8")
    for written, here in (
        ("\nexample.org {", f"\nhttp://127.0.0.1:{port} {{"),
        ("reverse_proxy @bridge 127.0.0.1:8090", f"reverse_proxy @bridge 127.0.0.1:{bridge_port}"),
        ("reverse_proxy 127.0.0.1:8080", f"reverse_proxy {application.removeprefix('http://')}"),
        # Avoid conflicts with another Caddy, and log to a file.
        ("\n{\n\t#", "\n{\n\tadmin off\n\t#"),
        ("log {\n\t\timport", f"log {{\n\t\toutput file {directory}/caddy.log\n\t\timport"),
    ):
        assert written in config, written
        config = config.replace(written, here)
    (directory / "Caddyfile").write_text(config, "utf-8")
    path = str(directory / "Caddyfile")
    return ["caddy", "run", "--config", path, "--adapter", "caddyfile"]


@asynccontextmanager
async def started(command: list[str], directory: Path, port: int) -> AsyncIterator[None]:
    """Run a proxy during the context; yield when it listens."""
    homes = {name: str(directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    with (directory / "output.log").open("wb") as output:
        process = await trio.lowlevel.open_process(
            command, env={**os.environ, **homes}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            while not await _listens(port):
                assert process.poll() is None, _all_logs(directory)
                await trio.sleep(0.02)
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _listens(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


def _all_logs(directory: Path) -> str:
    return "".join(path.read_text() for path in sorted(directory.glob("*.log")))


@pytest.fixture(params=["nginx", "caddy"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run each proxy in turn."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    write = {"nginx": nginx, "caddy": caddy}[name]

    @asynccontextmanager
    async def run(bridge: Bridge) -> AsyncIterator[Proxy]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        async with receiving() as application:
            command = write(tmp_path, port, bridge.port, application.url("").rstrip("/"))
            async with started(command, tmp_path, port):
                yield Proxy(port, tmp_path, application)

    return run


@asynccontextmanager
async def streaming(proxy: Proxy, query: str) -> AsyncIterator[WebSocketConnection]:
    """Connect to the stream through a proxy, from the clients' address."""
    with trio.fail_after(PATIENCE_SECONDS):
        stream = await trio.open_tcp_stream("127.0.0.1", proxy.port, local_address=CLIENT)
        async with stream, trio.open_nursery() as nursery:
            client = await wrap_client_stream(
                nursery, stream, f"127.0.0.1:{proxy.port}", f"/ws?{query}"
            )
            yield client
            nursery.cancel_scope.cancel()


async def test_proxy_routes_only_the_bridges_paths_to_the_bridge(
    bridge_url: str, proxied: Run
) -> None:
    async with (
        running(bridge_url, trusted_proxies="127.0.0.1") as bridge,
        proxied(bridge) as proxy,
        proxy.client() as http,
    ):
        headers = {"X-API-Key": TOKEN}
        for path in (
            "/webhooks",
            "/webhooks/stats",
            "/webhooks?limit=1",
            "/deliveries/1",
            "/dead-letters",
            "/dead-letters/1",
            "/events?since=0",
            "/ws/tickets",
            "/console",
            "/console/",
            "/console/webhooks",
        ):
            await http.get(path, headers=headers)
            assert proxy.application.requests == [], path
        assert (await http.get("/webhooks", headers=headers)).json()["items"] == []
        created = {"name": "w", "url": "http://127.0.0.1:1/", "event_type": "*"}
        answered = await http.post("/webhooks", headers=headers, json=created)
        assert answered.status_code == 201
        assert (await http.delete("/webhooks/1", headers=headers)).status_code == 204
        assert "<form" in (await http.get("/console/sign-in")).text
        ticket = (await http.post("/ws/tickets", headers=headers)).json()["ticket"]
        async with streaming(proxy, f"ticket={ticket}") as client:
            assert '"connected"' in await client.get_message()
        inside = ["/metrics", "/readyz", "/healthz", "/docs", "/openapi.json", "/tokens", "/audit"]
        others = ["/", "/login", "/webhooksfoo", "/eventsource", "/wsx"]
        for path in [*inside, *others]:
            answered = await http.get(path)
            assert answered.text == "ok", path
        assert [request.target for request in proxy.application.requests] == [*inside, *others]


async def test_stream_resumes_through_a_proxy(bridge_url: str, bot: Bot, proxied: Run) -> None:
    port = lasting_port()
    async with (
        running(bridge_url, port=port, ws_ping_seconds=0.2) as bridge,
        proxied(bridge) as proxy,
    ):
        bot.execute(SIGN_UP, ("first",))
        bot.execute(SIGN_UP, ("second",))
        await logged(bot, 2)
        async with streaming(proxy, f"token={TOKEN}&since=0") as client:
            seen = [await client.get_message() for _ in range(4)]
            assert '"connected"' in seen[0]
            assert [re.findall(r'"username": "(\w+)"', str(each)) for each in seen[1:3]] == [
                ["first"],
                ["second"],
            ]
            assert '"resumed"' in seen[3]
            # Events, client messages and pings pass through the proxy.
            await client.send_message('{"type": "ping"}')
            assert await client.get_message() == '{"type": "pong"}'
            bot.execute(SIGN_UP, ("third",))
            assert '"third"' in await client.get_message()
        await bridge.terminate()
        bot.execute(SIGN_UP, ("meanwhile",))
        async with running(bridge_url, port=port):
            await logged(bot, 4)
            async with streaming(proxy, f"token={TOKEN}&since=3") as client:
                await client.get_message()
                assert '"meanwhile"' in str(await client.get_message())


async def test_client_address_comes_from_the_proxy_alone(bridge_url: str, proxied: Run) -> None:
    forged = {"X-API-Key": "wrong", "X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6"}
    async with running(bridge_url, trusted_proxies="127.0.0.1", access_log="on") as bridge:
        async with proxied(bridge) as proxy, proxy.client() as http:
            assert (await http.get("/webhooks", headers=forged)).status_code == 401
            direct = f"{bridge.rest_url}/webhooks"
            assert (await http.get(direct, headers=forged)).status_code == 401
            async with streaming(proxy, f"token={TOKEN}"):
                pass
        # The proxy's header, and for direct clients only their own address.
        assert await bridge.terminate() == 0
        assert [line["address"] for line in bridge.logged("request_completed")] == [CLIENT, CLIENT]
        assert {line["address"] for line in bridge.logged("client_connected")} == {CLIENT}


async def test_proxy_logs_contain_no_token(bridge_url: str, proxied: Run) -> None:
    async with (
        running(bridge_url) as bridge,
        proxied(bridge) as proxy,
        proxy.client() as http,
    ):
        secret = {"X-API-Key": "secret-in-a-header"}
        bearer = {"Authorization": "Bearer secret-in-a-header", "Cookie": "s=secret-in-a-header"}
        for query in (f"token={TOKEN}", f"api_key={TOKEN}", "ticket=secret-ticket"):
            async with streaming(proxy, query) as client:
                await client.send_message("{}")
        await http.get("/webhooks", headers=secret)
        await http.get("/console", headers=bearer)
        await bridge.kill()
        for parameter in ("token", "api_key", "ticket"):
            gone = await http.get("/ws", params={parameter: "secret-lost"}, headers=secret)
            assert gone.status_code == 502
        assert (await http.get("/webhooks", headers=bearer)).status_code == 502
        # The proxy does log requests.
        with trio.fail_after(PATIENCE_SECONDS):
            while not ("/webhooks" in proxy.logs() and "502" in proxy.logs()):
                await trio.lowlevel.checkpoint()
        assert TOKEN not in proxy.logs()
        assert "secret" not in proxy.logs()


def test_idle_stream_outlives_the_timeout_of_nginx() -> None:
    """The bridge pings, so comparing two settings is enough."""
    example = (EXAMPLES / "nginx.conf").read_text("utf-8")
    stream = example.partition("location = /ws {")[2].partition("}")[0]
    waits = [int(found) for found in re.findall(r"proxy_(?:read|send)_timeout (\d+)s;", stream)]
    ping_seconds = Settings.model_fields["ws_ping_seconds"].default
    assert len(waits) == 2
    assert min(waits) > 2.5 * ping_seconds
    # The proxy waits for a webhook test longer than the bridge does.
    assert max(int(found) for found in re.findall(r"_timeout (\d+)s;", example)) > 120
