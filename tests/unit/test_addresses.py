"""Which addresses a delivery may connect to: public ones, and what was allowed."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.addresses import AddressPolicy, how_to_allow

PUBLIC_ONLY = AddressPolicy()

#: The first and the last address of each block that is closed.
BLOCKS = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/3",
    "::/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "4000::/2",
    "5f00::/16",
    "8000::/1",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]


@pytest.mark.parametrize("block", BLOCKS)
def test_special_block_is_forbidden_completely(block: str) -> None:
    network = ip_network(block)
    for address in (network[0], network[network.num_addresses // 2], network[-1]):
        assert PUBLIC_ONLY.refusal(str(address)) is not None


@pytest.mark.parametrize(
    "address",
    [
        # Beside the blocks, on either side.
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.3.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "8.8.8.8",
        "168.63.129.15",
        "168.63.129.17",
        "::ffff:8.8.8.8",
        "2000::",
        "2001:200::",
        "2001:db7:ffff::",
        "2001:db9::",
        "2001:4860:4860::8888",
        "2003::",
        "2606:4700:4700::1111",
        "3ffe:ffff::",
        "3fff:1000::",
        "3fff:ffff::",
    ],
)
def test_public_address_is_allowed(address: str) -> None:
    assert PUBLIC_ONLY.refusal(address) is None


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1", "127.0.0.1 is a loopback address"),
        ("0.0.0.0", "0.0.0.0 is the unspecified address, which means this machine"),
        ("0.1.2.3", "0.1.2.3 is an address of this network"),
        ("10.1.2.3", "10.1.2.3 is a private address"),
        ("100.64.0.1", "100.64.0.1 is a shared address behind a carrier's NAT"),
        ("169.254.169.254", "169.254.169.254 is a link-local address"),
        ("192.0.0.192", "192.0.0.192 is an address for protocol assignments"),
        ("168.63.129.16", "168.63.129.16 is Azure's address for a machine's own host"),
        ("224.0.0.1", "224.0.0.1 is a multicast address"),
        ("240.0.0.1", "240.0.0.1 is a reserved address"),
        ("255.255.255.255", "255.255.255.255 is the broadcast address"),
        ("::", ":: is the unspecified address, which means this machine"),
        ("::1", "::1 is a loopback address"),
        ("::ffff:7f00:1", "127.0.0.1 is a loopback address"),
        ("::ffff:169.254.169.254", "169.254.169.254 is a link-local address"),
        ("::127.0.0.1", "::7f00:1 is an IPv4 address written as IPv6"),
        ("::ffff:0:127.0.0.1", "::ffff:0:7f00:1 is an IPv4 address translated to IPv6"),
        ("64:ff9b::7f00:1", "64:ff9b::7f00:1 is an IPv4 address behind NAT64"),
        ("64:ff9b::8.8.8.8", "64:ff9b::808:808 is an IPv4 address behind NAT64"),
        ("64:ff9b:1::a00:1", "64:ff9b:1::a00:1 is an IPv4 address behind a local NAT64"),
        ("2001:0:1::1", "2001:0:1::1 is a Teredo address"),
        ("2002:7f00:1::", "2002:7f00:1:: is an IPv4 address behind 6to4"),
        ("fd00:ec2::254", "fd00:ec2::254 is a private address"),
        ("fe80::1%eth0", "fe80::1 is a link-local address"),
        ("fec0::1", "fec0::1 is a site-local address"),
        ("ff02::1%2", "ff02::1 is a multicast address"),
        ("1000::1", "1000::1 is a reserved address"),
        ("4000::1", "4000::1 is a reserved address"),
        ("9000::1", "9000::1 is a reserved address"),
    ],
)
def test_refusal_says_what_the_address_is(address: str, said: str) -> None:
    assert PUBLIC_ONLY.refusal(address) == said


@pytest.mark.parametrize("text", ["", "127.1", "2130706433", "0x7f.1", "localhost", "[::1]", "::g"])
def test_only_addresses_of_getaddrinfo_are_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        PUBLIC_ONLY.refusal(text)


# --- what was allowed


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1", "127.0.0.1/32"),
        ("::ffff:127.0.0.1", "127.0.0.1/32"),
        ("fd00::1", "fd00::1/128"),
        ("fe80::1%eth0", "fe80::1/128"),
    ],
)
def test_suggested_network_allows_exactly_the_address(address: str, said: str) -> None:
    assert how_to_allow(address) == f"to allow it, add {said} to BRIDGE_ALLOWED_NETWORKS"
    assert AddressPolicy([ip_network(said)]).refusal(address) is None


def test_allowed_network_includes_mapped_addresses() -> None:
    policy = AddressPolicy([IPv4Network("127.0.0.0/8")])
    assert policy.refusal("::ffff:127.0.0.1") is None
    assert policy.refusal("::ffff:10.0.0.1") == "10.0.0.1 is a private address"


@pytest.mark.parametrize(
    "address",
    ["::127.0.0.1", "::ffff:0:7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001::7f00:1"],
)
def test_embedded_address_needs_its_own_ipv6_network(
    address: str,
) -> None:
    assert AddressPolicy([IPv4Network("127.0.0.0/8")]).refusal(address) is not None
    assert AddressPolicy([IPv6Network(address)]).refusal(address) is None


def test_allowing_all_ipv6_allows_no_ipv4() -> None:
    policy = AddressPolicy([IPv6Network("::/0")])
    assert policy.refusal("fe80::1") is None
    assert policy.refusal("::ffff:10.0.0.1") is not None
    assert policy.refusal("10.0.0.1") is not None


@st.composite
def closed_networks(draw: st.DrawFn) -> IPv4Network | IPv6Network:
    """Draw a network inside one of the closed blocks."""
    block = ip_network(draw(st.sampled_from(BLOCKS)))
    prefix = draw(st.integers(block.prefixlen, block.max_prefixlen))
    address = block[draw(st.integers(0, block.num_addresses - 1))]
    return ip_network(f"{address}/{prefix}", strict=False)


@given(data=st.data(), network=closed_networks())
def test_allowed_network_allows_exactly_its_addresses(
    data: st.DataObject, network: IPv4Network | IPv6Network
) -> None:
    inside = st.integers(0, network.num_addresses - 1).map(lambda offset: network[offset])
    elsewhere = closed_networks().map(lambda other: other[0])
    address = data.draw(st.one_of(inside, elsewhere, st.ip_addresses()))
    connected = (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
    open_to_all = PUBLIC_ONLY.refusal(str(address)) is None
    opened = AddressPolicy([network]).refusal(str(address)) is None
    assert opened == (open_to_all or connected in network)


@given(st.ip_addresses(v=4).map(str))
def test_mapped_address_is_treated_as_ipv4(address: str) -> None:
    assert PUBLIC_ONLY.refusal(f"::ffff:{address}") == PUBLIC_ONLY.refusal(address)


@given(st.ip_addresses())
def test_non_global_addresses_of_python_are_forbidden(address: IPv4Address | IPv6Address) -> None:
    if not address.is_global or address.is_multicast:
        assert PUBLIC_ONLY.refusal(str(address)) is not None
