"""Pseudonyms: no address is left, what tells addresses apart is."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeice.redaction import LIMIT, Pseudonyms

FINGERPRINT = ":".join(f"{number:02X}" for number in range(32))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("192.0.2.1", "ip4-private-1"),
        ("198.18.0.1", "ip4-private-1"),
        ("8.8.8.8:53", "ip4-global-1:53"),
        ("stun:8.8.8.8:3478", "stun:ip4-global-1:3478"),
        ("mqtt://127.0.0.1:1883", "mqtt://ip4-loopback-1:1883"),
        ("10.0.0.1:1->10.0.0.2:2", "ip4-private-1:1->ip4-private-2:2"),
        ("10.0.0.1 10.0.0.2 10.0.0.1", "ip4-private-1 ip4-private-2 ip4-private-1"),
        ("host [fe80::1%eth0]:9", "host [ip6-link-local-1%eth0]:9"),
        ("[2a00::1]:9 and 2A00:0::1", "[ip6-global-1]:9 and ip6-global-1"),
        ("::ffff:8.8.8.8", "ip6-global-1"),
        ("no route to 8.8.8.8.", "no route to ip4-global-1."),
        ("169.254.0.1, 100.64.0.1; 0.0.0.0 224.0.0.251", "ip4-link-local-1, ip4-shared-1; ip4-any-1 ip4-multicast-1"),
        ("fd00::1 ::1 :: ff02::fb", "ip6-private-1 ip6-loopback-1 ip6-any-1 ip6-multicast-1"),
        (
            "candidate:1 1 udp 2 8.8.8.8 4 typ srflx raddr 10.0.0.1 rport 5",
            "candidate:1 1 udp 2 ip4-global-1 4 typ srflx raddr ip4-private-1 rport 5",
        ),
    ],
)
def test_addresses_give_way_with_family_scope_and_port_kept(text: str, shown: str) -> None:
    assert Pseudonyms().text(text) == shown


@pytest.mark.parametrize(
    "text", ["12:34:56", "1.2.3", "1.2.3.4.5", "999.1.1.1", "v1.2.3.4", FINGERPRINT, "02:00:00:00:00:01", "a::b::c", ""]
)
def test_what_is_no_address_stays(text: str) -> None:
    assert Pseudonyms().text(text) == text


def test_structures_keep_their_form() -> None:
    redacted = Pseudonyms().value({"pairs": [{"local": "host 8.8.8.8:1", "rtt": 0.5}], "8.8.8.8": None, "n": (1, True)})
    assert redacted == {"pairs": [{"local": "host ip4-global-1:1", "rtt": 0.5}], "ip4-global-1": None, "n": [1, True]}


def test_a_table_is_bounded_and_what_it_knows_stays_told_apart() -> None:
    pseudonyms = Pseudonyms()
    for number in range(LIMIT):
        assert pseudonyms.text(str(ipaddress.IPv4Address("11.0.0.0") + number)) == f"ip4-global-{number + 1}"
    assert pseudonyms.text("11.99.0.1 11.99.0.2 fd00::1") == "ip4-global-more ip4-global-more ip6-private-more"
    assert pseudonyms.text("11.0.0.0") == "ip4-global-1"


@given(st.ip_addresses(), st.ip_addresses(), st.sampled_from(["{} {}", "a={}, b={}", "({})->[{}]:1", "{}\n{}"]))
def test_no_address_is_left_and_two_are_two(
    first: ipaddress.IPv4Address | ipaddress.IPv6Address,
    second: ipaddress.IPv4Address | ipaddress.IPv6Address,
    form: str,
) -> None:
    pseudonyms = Pseudonyms()
    shown = pseudonyms.text(form.format(first, second))
    assert str(first) not in shown
    assert str(second) not in shown
    assert (pseudonyms.text(str(first)) == pseudonyms.text(str(second))) is (first == second)
