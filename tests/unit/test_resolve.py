"""A host is resolved to addresses that have all been checked, or not at all."""

import socket
import threading
from ipaddress import IPv4Network, IPv6Network
from socket import AddressFamily

import pytest
import trio.testing

from bridge.delivery.addresses import AddressPolicy
from bridge.delivery.resolve import (
    LOOKUPS_OF_HOST,
    BlockedAddressError,
    Lookups,
    UnresolvableError,
    resolve,
    url_refusal,
)
from tests.resolver import resolving
from tests.waiting import PATIENCE_SECONDS, until

PUBLIC_ONLY = AddressPolicy()
LOOPBACK = AddressPolicy([IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")])

NAMES = {
    "public.example": ["198.41.0.4", "2001:503:ba3e::2:30"],
    "intra.example": ["10.0.0.7"],
    "mixed.example": ["198.41.0.4", "10.0.0.7"],
    "six.example": ["2001:503:ba3e::2:30", "::1"],
    "slow.example": [],
    "localhost": ["127.0.0.1", "::1"],
    "xn--e1afmkfd.xn--p1ai": ["10.0.0.7"],  # пример.рф
}


# --- resolve


async def test_public_addresses_are_returned_in_order() -> None:
    with resolving(NAMES):
        assert await resolve("public.example", 443, PUBLIC_ONLY) == [
            "198.41.0.4",
            "2001:503:ba3e::2:30",
        ]


@pytest.mark.parametrize("host", ["intra.example", "mixed.example"])
async def test_one_forbidden_address_blocks_the_host(host: str) -> None:
    with resolving(NAMES), pytest.raises(BlockedAddressError) as blocked:
        await resolve(host, 443, PUBLIC_ONLY)
    assert str(blocked.value) == (
        f"{host}: 10.0.0.7 is a private address; "
        "to allow it, add 10.0.0.7/32 to BRIDGE_ALLOWED_NETWORKS"
    )


async def test_allowed_address_is_resolved() -> None:
    with resolving(NAMES):
        assert await resolve("localhost", 80, LOOPBACK) == [
            "127.0.0.1",
            "::1",
        ]


async def test_names_are_not_cached() -> None:
    with resolving({"changes.example": ["198.41.0.4"]}) as resolver:
        await resolve("changes.example", 80, PUBLIC_ONLY)
        resolver.names["changes.example"] = ["127.0.0.1"]
        with pytest.raises(BlockedAddressError):
            await resolve("changes.example", 80, PUBLIC_ONLY)


@pytest.mark.parametrize("host", ["nowhere.example", "a" * 64 + ".example", "127.0.0.1.", "a..b"])
async def test_host_without_an_address_is_unresolvable(host: str) -> None:
    with resolving({}), pytest.raises(UnresolvableError, match=f"^{host} does not resolve: ."):
        await resolve(host, 80, PUBLIC_ONLY)


async def test_link_local_address_keeps_its_zone() -> None:
    policy = AddressPolicy([IPv6Network("fe80::/10")])
    zone = socket.if_nametoindex("lo")
    assert await resolve("fe80::1%lo", 80, policy) == [f"fe80::1%{zone}"]


# --- url_refusal


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F.1", "127.0.0.1"),
        ("0177.1", "127.0.0.1"),
        ("127。0。0。1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("0.0.0.0", "0.0.0.0"),
        ("10.1", "10.0.0.1"),
        ("100.64.0.1", "100.64.0.1"),
        ("169.254.169.254", "169.254.169.254"),
        ("2852039166", "169.254.169.254"),
        ("[::]", "::"),
        ("[::1]", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[::ffff:7f00:1]", "127.0.0.1"),
        ("[::FFFF:127.0.0.1]", "127.0.0.1"),
        ("[::127.0.0.1]", "::7f00:1"),
        ("[64:ff9b::7f00:1]", "64:ff9b::7f00:1"),
        ("[2002:7f00:1::]", "2002:7f00:1::"),
        ("[fd00:ec2::254]", "fd00:ec2::254"),
        ("[fe80::1]", "fe80::1"),
        ("localhost", "127.0.0.1"),
        ("LocalHost", "127.0.0.1"),
        ("intra.example", "10.0.0.7"),
        ("mixed.example", "10.0.0.7"),
        ("six.example", "::1"),
        ("intra.example:8443", "10.0.0.7"),
        ("пример.рф", "10.0.0.7"),
        ("intra。example", "10.0.0.7"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
async def test_forbidden_address_is_refused_in_any_spelling(
    scheme: str, host: str, address: str
) -> None:
    with resolving(NAMES):
        refusal = await url_refusal(f"{scheme}://{host}/hook", PUBLIC_ONLY)
    assert refusal is not None
    assert f"{address} is " in refusal
    assert refusal.endswith(" to BRIDGE_ALLOWED_NETWORKS")


@pytest.mark.parametrize(
    "url",
    [
        "https://public.example/hook",
        "https://198.41.0.4/",
        "https://[2001:503:ba3e::2:30]:8443/",
        "http://public.example/?url=http://127.0.0.1/",
        "http://public.example/#@127.0.0.1",
        # It is checked again when it is sent to.
        "https://nowhere.example/",
    ],
)
async def test_other_urls_are_not_refused(url: str) -> None:
    with resolving(NAMES):
        assert await url_refusal(url, PUBLIC_ONLY) is None


async def test_allowed_url_is_not_refused() -> None:
    with resolving(NAMES):
        for url in ("http://localhost:9000/", "http://2130706433/", "http://[::1]/"):
            assert await url_refusal(url, LOOPBACK) is None
        assert await url_refusal("http://intra.example/", LOOPBACK) is not None


async def test_url_check_does_not_wait_for_a_silent_name_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with resolving(NAMES):
        assert await url_refusal("http://slow.example/", PUBLIC_ONLY, seconds=3.0) is None
    assert autojump_clock.current_time() == pytest.approx(3.0)


async def test_silent_name_servers_delay_no_other_names_or_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silence, asked = threading.Event(), []

    def getaddrinfo(host: str | bytes, *_: object) -> list[object]:
        if isinstance(host, str):  # trio, which takes it for an address at first
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        asked.append(host)
        if host.startswith(b"silent"):
            silence.wait(PATIENCE_SECONDS)
        return [(AddressFamily.AF_INET, 1, 6, "", ("9.9.9.9", 80))]

    monkeypatch.setattr("bridge.delivery.resolve.socket.getaddrinfo", getaddrinfo)
    trio.socket.set_custom_hostname_resolver(lookups := Lookups())
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    host = f"silent{number % 20}.example.com"
                    nursery.start_soon(resolve, host, 80, AddressPolicy())
                await until(lambda: len(asked) >= 20 * LOOKUPS_OF_HOST)
                await trio.sleep(0.05)  # time for lookups beyond the limit
                # Given up by the caller, they are still under way.
                nursery.cancel_scope.cancel()
            assert len(asked) == 20 * LOOKUPS_OF_HOST
            await resolve("other.example.com", 80, AddressPolicy())
            await trio.to_thread.run_sync(len, "")
    finally:
        silence.set()
        trio.socket.set_custom_hostname_resolver(None)
    while lookups._all.borrowed_tokens:  # noqa: ASYNC110
        await trio.sleep(0.001)
    await lookups.getaddrinfo(b"last.example.com", 80)
    assert not lookups._by_host
