"""All that takes bytes from elsewhere."""

from __future__ import annotations

from tests.property.associations import ASSOCIATIONS
from tests.property.conversations import CONVERSATIONS
from tests.property.negotiations import NEGOTIATIONS
from tests.property.posts import POSTS
from tests.property.relaying import RELAYING
from tests.property.signed import SIGNED
from tests.property.sockets import SOCKETS
from tests.property.texts import TEXTS
from tests.property.wire import WIRE

__all__ = ["DECODERS", "TARGETS"]

#: Functions of their input.
DECODERS = (*WIRE, *TEXTS, *SIGNED)
TARGETS = (*DECODERS, *ASSOCIATIONS, *CONVERSATIONS, *NEGOTIATIONS, *RELAYING, *POSTS, *SOCKETS)
