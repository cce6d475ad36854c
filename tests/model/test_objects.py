"""Classes of libraries that may not be loaded, or not yet."""

from __future__ import annotations

import sys
import types

import pytest

from stageflow.model import objects


@pytest.mark.parametrize(
    ("library", "asks"),
    [
        ("pydantic.main", objects.is_pydantic_model),
        ("msgspec", objects.is_struct),
        ("numpy", objects.is_ndarray),
    ],
)
@pytest.mark.parametrize("loaded", ["not at all", "by another thread, at this moment"])
def test_a_class_is_none_of_a_library_that_is_not_loaded(
    library: str,
    asks: types.FunctionType,
    loaded: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    1. one thread builds its first pipeline, which imports the library
    2. another builds its own: the module is in sys.modules, its classes are not there yet
    """
    monkeypatch.delitem(sys.modules, library, raising=False)
    if loaded != "not at all":
        monkeypatch.setitem(sys.modules, library, types.ModuleType(library))
    assert asks(int) is False
