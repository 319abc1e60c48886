"""edgeice: peer-to-peer sessions for small devices, on Trio.

Importing this package loads nothing; `edgeice.transport` is where programs begin.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
