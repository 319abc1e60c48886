"""The verdict in a person's words."""

from __future__ import annotations

from typing import Any

import pytest

from edgeice.operator.verdict import verdict_lines

PAIR: dict[str, Any] = {
    "local": "host 10.0.0.1:1",
    "remote": "srflx 8.8.8.8:2",
    "state": "failed",
    "result": "timeout",
    "requests_sent": 7,
    "requests_received": 0,
    "responses_received": 0,
    "rtt": None,
}
SERVER: dict[str, Any] = {"server": "turn:r.example", "base": "10.0.0.1:1", "result": "timeout", "code": None}


WRONG = "does not take the user name and password: they are wrong, or have expired"


def lines(**verdict: object) -> list[str]:
    return list(verdict_lines(verdict))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "no answer to 7 checks"),
        ({"requests_sent": 1}, "no answer to 1 check"),
        ({"requests_received": 2}, "no answer to 7 checks, though the device's own came"),
        ({"result": "", "state": "waiting", "requests_sent": 0}, "not tried"),
        ({"result": "", "state": "in_progress"}, "no answer to 7 checks"),
        ({"result": "", "state": "succeeded", "rtt": 0.0123}, "works, 12.3 ms"),
        ({"result": "", "state": "succeeded"}, "works"),
        ({"result": "asymmetric"}, "answered from another address"),
        ({"result": "refused"}, "no answer, and a host on the way says that there is none"),
        ({"result": "error_400"}, "answered with error 400"),
        ({"result": "consent_expired"}, "worked, then there was no answer for 30 s"),
    ],
)
def test_what_became_of_a_pair(change: dict[str, object], said: str) -> None:
    assert lines(pairs=[PAIR | change]) == [f"tried host 10.0.0.1:1 -> srflx 8.8.8.8:2: {said}"]


@pytest.mark.parametrize(("state", "sent"), [("in_progress", 3), ("waiting", 0), ("frozen", 0)])
def test_a_pair_that_another_one_came_before_is_not_said_to_have_failed(state: str, sent: int) -> None:
    pair = PAIR | {"state": state, "result": "", "requests_sent": sent}
    path = {"local": "host 10.0.0.1:1", "remote": "host 10.0.0.2:2", "rtt": 0.001}
    assert lines(path=path, pairs=[pair])[1].endswith(": another was taken before it was known")
    assert lines(path=path, pairs=[PAIR])[1].endswith(": no answer to 7 checks")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "turn:r.example from 10.0.0.1:1: no answer"),
        (
            {"result": "unauthorized", "code": 401},
            f"turn:r.example from 10.0.0.1:1: {WRONG} (401)",
        ),
        (
            {"result": "certificate refused: Hostname mismatch"},
            "turn:r.example from 10.0.0.1:1: certificate refused: Hostname mismatch",
        ),
        (
            {"result": "redirect_loop", "code": 300},
            "turn:r.example from 10.0.0.1:1: sends from server to server in a circle (300)",
        ),
        ({"result": "name_unknown", "base": None}, "turn:r.example: its name cannot be looked up"),
        ({"result": "some_new_reason"}, "turn:r.example from 10.0.0.1:1: some new reason"),
        ({"result": "answered", "address": "8.8.8.8:9"}, "turn:r.example from 10.0.0.1:1: gives 8.8.8.8:9"),
        ({"result": "x\n\x1b[2Jy"}, "turn:r.example from 10.0.0.1:1: x??[2Jy"),
    ],
)
def test_what_a_server_said(change: dict[str, object], said: str) -> None:
    assert lines(servers=[SERVER | change]) == [said]


def test_addresses_that_could_not_be_sent_from_and_those_left_out() -> None:
    bases = [
        {"address": "10.0.0.1:1", "interface": "eth0", "relay": None, "unsent": {}},
        {"address": "10.1.0.1:1", "interface": "wwan0", "relay": None, "unsent": {"ENETUNREACH": 3, "EIO": 1}},
    ]
    left_out = [
        {"interface": "docker0", "ip": "", "why": "docker*: container bridge"},
        {"interface": "eth0", "ip": "fe80::1", "why": "link-local"},
    ]
    why = "the network cannot be reached (ENETUNREACH, 3 times), EIO (EIO, 1 time)"
    unsent = f"could not send from 10.1.0.1:1 (wwan0): {why}"
    assert lines(bases=bases, left_out=left_out) == [
        unsent,
        "left out docker0: docker*: container bridge",
        "left out eth0 fe80::1: link-local",
    ]
    path = {"local": "host 10.0.0.1:1", "remote": "host 10.0.0.2:2", "rtt": 0.001}
    # Where there is a path, nobody has to know why others were not tried.
    assert lines(bases=bases, left_out=left_out, path=path) == [
        "path host 10.0.0.1:1 -> host 10.0.0.2:2, 1.0 ms",
        unsent,
    ]


def test_the_reason_comes_first_and_the_time_last() -> None:
    assert lines(finding="silence", pairs=[PAIR], phases={"broker": 0.1, "checking": 39.512}) == [
        "nothing came from the device on any path",
        "tried host 10.0.0.1:1 -> srflx 8.8.8.8:2: no answer to 7 checks",
        "time: broker 0.10 s, checking 39.51 s",
    ]


def test_a_policy_that_narrows_the_choice_is_said() -> None:
    assert lines(policy="all", finding="no_local_candidates") == ["no address of this computer could be used"]
    assert lines(policy="relay", finding="no_local_candidates") == [
        "no address of this computer could be used",
        "only relayed addresses are used here (policy in [ice] says relay)",
    ]


def test_a_long_list_is_cut_and_says_so() -> None:
    found = lines(pairs=[PAIR] * 15)
    assert len(found) == 13
    assert found[-1] == "… 3 more pairs: --json has them"


def test_what_was_tried_for_a_path_that_got_lost() -> None:
    path = {"local": "host 10.0.0.1:1", "remote": "host 10.0.0.2:2"}
    left_out = [{"interface": "wlan0", "ip": "", "why": "no carrier"}]
    tried = {"offered": 42, "unanswered": 39, "refused": 1, "failed": 2, "no_network": 0.0}
    assert lines(path=path, left_out=left_out, recovery=tried) == [
        "path host 10.0.0.1:1 -> host 10.0.0.2:2",
        "a restart was offered 42 times, 39 times nobody answered, once the device refused it, twice no path was found",
    ]
    waited = {"offered": 0, "unanswered": 0, "refused": 0, "failed": 0, "no_network": 598.4}
    assert lines(path=path, left_out=left_out, recovery=waited) == [
        "path host 10.0.0.1:1 -> host 10.0.0.2:2",
        "no restart was offered, there was no network here for 10 min",
        "left out wlan0: no carrier",
    ]
    assert lines(recovery={}) == []
