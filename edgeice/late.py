"""What is not needed yet stays out of memory: an idle device has loaded nothing that only sessions need.

- A room that only sessions need passes on its names by `names_of`, and loads each module with its first use.
- What a library imports for a case that may never come waits for that case by `loaded_late`.
- What has done its part is forgotten by `unload`.
"""

from __future__ import annotations

import gc
import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

__all__ = ["loaded_late", "names_of", "unload"]


@contextmanager
def loaded_late(*names: str) -> Iterator[None]:
    """Where a block imports these modules by `import NAME`, load each when somebody first reads an attribute of it.

    Nothing else changes for those who use them: `from NAME import …` loads at once, as does a second `import` with
    some versions of Python, and what is loaded already stays as it is.
    """
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    """Finds the named modules as `sys.path` has them, for importlib's own lazy loader."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._names:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def names_of(package: str, **modules: str) -> Callable[[str], object]:
    """The `__getattr__` of a package whose modules are loaded when a name of theirs is first asked for (PEP 562).

    Args:
        package: Its `__name__`.
        modules: Names that it passes on, separated by spaces, by the module that has them.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"{package}.{homes[name]}"), name)
        linecache.clearcache()  # attrs keeps the source of each method there that it wrote, 4 KiB a class
        setattr(sys.modules[package], name, value)
        return value

    return find


def unload(*names: str) -> None:
    """Forget modules, and what they hold as far as nothing else refers to it; whoever imports them gets them anew."""
    for name in names:
        sys.modules.pop(name, None)
        package, _, module = name.rpartition(".")
        if package in sys.modules:
            vars(sys.modules[package]).pop(module, None)
    gc.collect()
