"""All targets."""

from __future__ import annotations

from tests.property.wire import WIRE

__all__ = ["TARGETS"]

TARGETS = (*WIRE,)
