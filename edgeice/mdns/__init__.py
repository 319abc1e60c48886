"""Multicast DNS, as far as candidates with hidden addresses need it (draft-ietf-mmusic-mdns-ice-candidates, RFC 6762).

Sans-IO.  Not supported: publishing names; browsing; a cache, since a name
is asked for when a candidate with it arrives, and then its address is a candidate's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeice.late import names_of

if TYPE_CHECKING:
    from edgeice.mdns.lookups import Lookups, NameResolved
    from edgeice.mdns.message import MESSAGE_LIMIT
else:
    __getattr__ = names_of(__name__, lookups="Lookups NameResolved", message="MESSAGE_LIMIT")

__all__ = ["MESSAGE_LIMIT", "Lookups", "NameResolved"]
