from __future__ import annotations

import pytest

from edgeice.errors import ConfigError, DecodeError
from edgeice.signaling import Party, Role, Topic, TopicKind, Topics, check_name

TOPICS = Topics("lab")
PI = Party.device("lab", "pi17")
ALICE = Party.operator("lab", "alice")


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 64, "..", "-"])
def test_allowed_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a/b", "a+b", "#", "a:b", "a b", "ä", "a\n", "a\0"])
def test_refused_names(name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 64"):
        check_name(name)


def test_parties_are_written_and_read() -> None:
    assert (str(PI), str(ALICE)) == ("lab/d/pi17", "lab/o/alice")
    assert Party.parse("lab/d/pi17") == PI
    assert Party.parse("lab/o/alice") == ALICE


@pytest.mark.parametrize(
    "text", ["", "lab", "lab/d", "lab/d/", "/d/x", "lab/x/y", "lab/d/a/b", "lab/D/a", "lab/d/a\n", "l b/d/a", "lab//a"]
)
def test_what_is_no_party(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Party.parse(text)
    assert caught.value.reason == "party"


def test_client_ids() -> None:
    assert PI.client_id() == "edgeice:lab:d:pi17"
    assert ALICE.client_id("7f3a") == "edgeice:lab:o:alice:7f3a"


def test_topics_are_those_of_the_contract() -> None:
    assert TOPICS.of(TopicKind.STATUS, PI) == "edgeice/1/lab/d/pi17/status"
    assert TOPICS.of(TopicKind.INFO, PI) == "edgeice/1/lab/d/pi17/info"
    assert TOPICS.of(TopicKind.AUDIT, PI) == "edgeice/1/lab/d/pi17/audit"
    assert TOPICS.of(TopicKind.TURN, PI) == "edgeice/1/lab/d/pi17/turn"
    assert TOPICS.of(TopicKind.TURN, ALICE) == "edgeice/1/lab/o/alice/turn"
    assert TOPICS.rx(PI, ALICE) == "edgeice/1/lab/d/pi17/rx/alice"
    assert TOPICS.rx(ALICE, PI) == "edgeice/1/lab/o/alice/rx/pi17"
    assert TOPICS.rx_filter(PI) == "edgeice/1/lab/d/pi17/rx/+"
    assert TOPICS.rx_filter(ALICE, PI) == "edgeice/1/lab/o/alice/rx/pi17"
    assert TOPICS.rx(PI, ALICE).count("/") == 6


@pytest.mark.parametrize("root", ["edgeice/1", "own"])
def test_topics_are_read_back(root: str) -> None:
    topics = Topics("lab", root)
    assert topics.parse(topics.of(TopicKind.INFO, PI)) == Topic(TopicKind.INFO, PI)
    for party in (PI, ALICE):
        assert topics.parse(topics.of(TopicKind.TURN, party)) == Topic(TopicKind.TURN, party)
    assert topics.parse(topics.rx(PI, ALICE)) == Topic(TopicKind.RX, PI, ALICE)
    assert topics.parse(topics.rx(ALICE, PI)) == Topic(TopicKind.RX, ALICE, PI)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "edgeice/1/lab",
        "edgeice/1/lab/d/pi17",
        "edgeice/1/lab/revoked",
        "edgeice/1/lab/d/pi17/turns",
        "edgeice/1/lab/d/pi17/turn/x",
        "edgeice/1/lab/o/alice/info",
        "edgeice/1/lab/d/pi17/rx",
        "edgeice/1/lab/d/pi17/rx/alice/more",
        "edgeice/1/lab/d/pi17/info/alice",
        "edgeice/1/lab/x/pi17/info",
        "edgeice/1/lab/d/+/info",
        "edgeice/1/lab/d/#",
        "edgeice/1/lab/d/pi17/rx/+",
        "edgeice/1/other/d/pi17/info",
        "edgeice/2/lab/d/pi17/info",
        "xedgeice/1/lab/d/pi17/info",
    ],
)
def test_host_24_foreign_and_wildcard_topics_are_refused(topic: str) -> None:
    with pytest.raises(DecodeError) as caught:
        TOPICS.parse(topic)
    assert caught.value.reason == "topic"


@pytest.mark.parametrize("root", ["", "/", "a/b/c", "a/", "+", "a/#", "$SYS", "a b"])
def test_refused_roots(root: str) -> None:
    with pytest.raises(ConfigError, match="topic root"):
        Topics("lab", root)


def test_roles_are_their_letters() -> None:
    assert [role.value for role in Role] == ["d", "o"]
