"""edgeice: peer-to-peer sessions for small devices, on Trio.

Importing this package loads nothing heavy; the public names below come from their modules on first use.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
