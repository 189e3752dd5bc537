"""The client address behind trusted proxies."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.access.proxies import client_address, is_proxy, origin

PROXIES = [ip_network("127.0.0.1/32"), ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # not a trusted proxy
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),  # sent by the client
        ("127.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),  # the same in two headers
        ("127.0.0.1", ["6.6.6.6, 198.51.100.1, 10.1.2.3"], "198.51.100.1"),
        ("10.1.2.3", ["10.4.5.6"], "10.4.5.6"),
        ("127.0.0.1", ["198.51.100.1, nonsense"], "127.0.0.1"),
        ("127.0.0.1", ["", ","], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("127.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("127.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("fd00::1%eth0", ["198.51.100.1"], "198.51.100.1"),
        ("", ["198.51.100.1"], ""),
    ],
    ids=range(16),
)
def test_only_trusted_proxies_are_believed(
    peer: str, forwarded_for: list[str], address: str
) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == address


def test_without_proxies_the_peer_is_the_client() -> None:
    assert client_address("127.0.0.1", ["198.51.100.1"], []) == "127.0.0.1"
    assert not is_proxy("127.0.0.1", [])
    assert is_proxy("10.0.0.1", PROXIES)
    assert not is_proxy("", PROXIES)


def test_endless_chain_is_cut_off() -> None:
    assert client_address("127.0.0.1", ["6.6.6.6," + "10.0.0.1," * 100_000 + "10.0.0.2"], PROXIES)


def test_ipv6_origin_is_the_network() -> None:
    assert origin("2001:db8::1") == origin("2001:db8::ffff:1") != origin("2001:db8:0:1::1")
    assert origin("198.51.100.1") == "198.51.100.1"
    assert origin("") == ""


@given(st.text(), st.lists(st.text(max_size=50), max_size=5))
def test_garbage_raises_nothing(peer: str, forwarded_for: list[str]) -> None:
    client_address(peer, forwarded_for, PROXIES)
    origin(peer)
