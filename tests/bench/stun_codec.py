"""What a connectivity check costs to build, and to parse and verify, beside aioice; in µs, medians.

    python tests/bench/stun_codec.py [--json] [--rounds N]

The message is a 96-byte Binding request with USERNAME, PRIORITY, ICE-CONTROLLING, USE-CANDIDATE, MESSAGE-INTEGRITY and
FINGERPRINT.  Building includes a fresh transaction id; parsing includes decoding every attribute.  Each round measures
each side once, so that both see the same machine.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from aioice import stun as aioice_stun

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeice.sansio import Entropy
from edgeice.stun import (
    Attribute,
    AuthenticatedMessage,
    MessageClass,
    Method,
    authenticate,
    decode,
    encode,
    new_transaction_id,
)

KEY = b"passwordpasswordpassword"
USERNAME = "abcd:efghijkl"
PRIORITY = 1845501695
TIE_BREAKER = 0x1122334455667788
ENTROPY = Entropy()
AIOICE_READ = ("USERNAME", "PRIORITY", "ICE-CONTROLLING", "USE-CANDIDATE")
READ = (Attribute.USERNAME, Attribute.PRIORITY, Attribute.ICE_CONTROLLING, Attribute.USE_CANDIDATE)


def build() -> bytes:
    attributes = (
        (Attribute.USERNAME, USERNAME),
        (Attribute.PRIORITY, PRIORITY),
        (Attribute.ICE_CONTROLLING, TIE_BREAKER),
        (Attribute.USE_CANDIDATE, True),
    )
    return encode(Method.BINDING, MessageClass.REQUEST, new_transaction_id(ENTROPY), attributes, key=KEY)


def parse_verify(data: bytes) -> AuthenticatedMessage:
    return authenticate(decode(data), KEY)


def aioice_build() -> bytes:
    message = aioice_stun.Message(message_method=aioice_stun.Method.BINDING, message_class=aioice_stun.Class.REQUEST)
    message.attributes["USERNAME"] = USERNAME
    message.attributes["PRIORITY"] = PRIORITY
    message.attributes["ICE-CONTROLLING"] = TIE_BREAKER
    message.attributes["USE-CANDIDATE"] = None
    message.add_message_integrity(KEY)
    return bytes(message)


def aioice_parse_verify(data: bytes) -> aioice_stun.Message:
    message = aioice_stun.parse_message(data)
    message.check_message_integrity(KEY)
    return message


def check_understanding(ours: bytes, theirs: bytes) -> None:
    """Each side reads what the other wrote."""
    expected = [USERNAME, PRIORITY, TIE_BREAKER]
    seen = parse_verify(theirs)
    assert [seen.get(attribute) for attribute in READ] == [*expected, True]
    attributes = aioice_parse_verify(ours).attributes
    assert [attributes[name] for name in AIOICE_READ] == [*expected, None]
    assert len(ours) == len(theirs) == 96


def microseconds(function: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls * 1e6


def measure(rounds: int, calls: int) -> dict[str, float]:
    ours, theirs = build(), aioice_build()
    check_understanding(ours, theirs)
    subjects: dict[str, Callable[[], object]] = {
        "parse_verify_us": lambda: parse_verify(ours),
        "build_us": build,
        "aioice_parse_verify_us": lambda: aioice_parse_verify(ours),
        "aioice_build_us": aioice_build,
    }
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            samples[name].append(microseconds(subject, calls))
    return {name: round(statistics.median(found), 2) for name, found in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--rounds", type=int, default=31, help="how often each side is measured (default 31)")
    parser.add_argument("--calls", type=int, default=1000, help="calls in each measurement (default 1000)")
    options = parser.parse_args()
    found = measure(options.rounds, options.calls)
    for name in ("build", "parse_verify"):
        ours, theirs = found[f"{name}_us"], found[f"aioice_{name}_us"]
        print(
            f"{name.replace('_', ' + '):15} {ours:6.2f} µs   aioice {theirs:6.2f} µs   {theirs / ours:.1f} times faster"
        )
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
