"""What is fuzzed: honest inputs, and a check that says what became of any input and fails where it must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs

from edgeice.errors import DecodeError

__all__ = ["TAKEN", "Target", "decoder"]

T = TypeVar("T")

#: What became of an input that was not refused.
TAKEN = "taken"


@attrs.frozen(kw_only=True)
class Target:
    """Something that takes bytes from elsewhere.

    Bytes are the form of every input, so that a finding has one: hexadecimal digits.  What takes text gets it as
    UTF-8, and what is a whole conversation gets a script of what happens to it.
    """

    name: str
    #: Honest inputs, at least one; asked for at the first use.
    seeds: Callable[[], Sequence[bytes]]
    #: Takes an input, raises whatever is a finding, and says in a word what became of it.
    check: Callable[[bytes], str]
    #: What has a meaning in inputs.
    tokens: tuple[bytes, ...] = ()
    #: How many inputs the usual test run tries.
    examples: int = 200


def decoder(
    name: str,
    seeds: Callable[[], Sequence[bytes]],
    decode: Callable[[bytes], T],
    holds: Callable[[bytes, T], None] = lambda _data, _value: None,
    *,
    refuses: type[Exception] | tuple[type[Exception], ...] = DecodeError,
    tokens: tuple[bytes, ...] = (),
    examples: int = 200,
) -> Target:
    """A target that is total: a value, of which something holds, or an exception of one kind.

    Args:
        name: The target's.
        seeds: The target's.
        decode: What is tried.
        holds: Fails where something that every value fulfills is not so.
        refuses: What may leave `decode`.
        tokens: The target's.
        examples: The target's.
    """

    def check(data: bytes) -> str:
        try:
            value = decode(data)
        except refuses as error:
            return error.reason if isinstance(error, DecodeError) else type(error).__name__
        holds(data, value)
        return TAKEN

    return Target(name=name, seeds=seeds, check=check, tokens=tokens, examples=examples)
