"""All targets."""

from __future__ import annotations

from tests.property.associations import ASSOCIATIONS
from tests.property.conversations import CONVERSATIONS
from tests.property.posts import POSTS
from tests.property.signed import SIGNED
from tests.property.texts import TEXTS
from tests.property.wire import WIRE

__all__ = ["TARGETS"]

TARGETS = (*WIRE, *TEXTS, *SIGNED, *ASSOCIATIONS, *CONVERSATIONS, *POSTS)
