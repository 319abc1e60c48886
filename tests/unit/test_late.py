from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgeice.late import loaded_late, names_of, unload


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package `late_<n>` with a module that says when it is loaded."""
    name = f"late_{tmp_path.name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("loaded = []\n")
    (tmp_path / name / "inner.py").write_text(f"import {name}\n{name}.loaded.append('inner')\nvalue = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[each]


def test_a_module_is_loaded_with_its_first_use(library: str) -> None:
    with loaded_late(f"{library}.inner"):
        importlib.import_module(f"{library}.inner")
    package = sys.modules[library]
    assert package.loaded == []
    assert package.inner.value == 7
    assert package.loaded == ["inner"]


def test_the_rest_and_the_time_after_are_as_ever(library: str) -> None:
    with loaded_late("another"):
        importlib.import_module(library)
    with loaded_late(f"{library}.inner"):
        pass
    importlib.import_module(f"{library}.inner")
    assert sys.modules[library].loaded == ["inner"]


def test_a_package_loads_a_module_when_a_name_of_it_is_asked_for(library: str) -> None:
    package: ModuleType = importlib.import_module(library)
    package.__getattr__ = names_of(library, inner="value other")  # type: ignore[method-assign]
    assert package.loaded == []
    assert package.value == 7
    assert (package.loaded, vars(package)["value"]) == (["inner"], 7)


def test_a_package_has_no_other_names(library: str) -> None:
    package: ModuleType = importlib.import_module(library)
    package.__getattr__ = names_of(library, inner="value")  # type: ignore[method-assign]
    with pytest.raises(AttributeError, match=f"module '{library}' has no attribute 'nothing'"):
        _ = package.nothing


def test_a_module_is_forgotten_with_what_it_holds(library: str) -> None:
    package: ModuleType = importlib.import_module(library)
    inner = importlib.import_module(f"{library}.inner")
    inner.held = held = Held()  # type: ignore[attr-defined]
    gone = weakref.ref(held)
    del held, inner
    unload(f"{library}.inner", "late_another")
    assert f"{library}.inner" not in sys.modules
    assert "inner" not in vars(package)
    assert gone() is None
    importlib.import_module(f"{library}.inner")
    assert package.loaded == ["inner", "inner"]


class Held:
    """Something that a module holds."""
