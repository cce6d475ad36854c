"""Sabotages patch from outside, say what they break, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import types
from collections.abc import Iterator

import pytest

from stageflow.runtime import children, driver
from stageflow_lab import LabError, patched, sabotage


class Base:
    def greet(self) -> str:
        return "base"

    @staticmethod
    def fixed() -> str:
        return "fixed"

    @classmethod
    def named(cls) -> str:
        return cls.__name__


class Child(Base):
    pass


def test_a_patch_ends_with_its_block_even_when_it_raises() -> None:
    with pytest.raises(RuntimeError), patched(Base, "greet", lambda self: "bad"):
        assert Base().greet() == "bad"
        raise RuntimeError
    assert Base().greet() == "base"


@pytest.mark.parametrize("name", ["greet", "fixed", "named"])
def test_descriptors_come_back_as_they_were(name: str) -> None:
    before = vars(Base)[name]
    with patched(Base, name, lambda *given: "bad"):
        pass
    assert vars(Base)[name] is before


def test_an_inherited_attribute_is_inherited_again() -> None:
    with patched(Child, "greet", lambda self: "bad"):
        assert Base().greet() == "base"
    assert "greet" not in vars(Child) and Child().greet() == "base"


def test_modules_instances_and_dicts_can_be_patched() -> None:
    module, instance, table = types.ModuleType("m"), Base(), {"key": 1}
    module.value = 1  # type: ignore[attr-defined]
    with (
        patched(module, "value", 2),
        patched(instance, "greet", lambda: "bad"),
        patched(table, "key", 2) as original,
    ):
        assert (module.value, instance.greet(), table["key"]) == (2, "bad", 2)  # type: ignore[attr-defined]
        assert original == 1
    assert (module.value, instance.greet(), table) == (1, "base", {"key": 1})  # type: ignore[attr-defined]
    assert vars(instance) == {}


def test_a_renamed_target_is_an_error_not_a_silent_success() -> None:
    with pytest.raises(LabError) as caught, patched(Base, "gret", None):
        pass
    assert caught.value.code == "lab.patch_target" and "Base.gret" in str(caught.value)


def test_a_name_that_a_module_only_imports_is_no_target() -> None:
    """The code that used it has moved: to patch it here would change nothing."""
    with pytest.raises(LabError) as caught, patched(driver, "Caller", None):
        pass
    assert caught.value.code == "lab.patch_target" and "does not use" in str(caught.value)
    with patched(children, "Caller", None):
        pass
    with patched(asyncio, "sleep", None), patched(os, "fsync", None):
        pass


def test_a_sabotage_carries_its_name_metric_and_defect() -> None:
    @sabotage(metric="lost")
    def token_ignored() -> Iterator[None]:
        """A late token
        is accepted."""
        with patched(Base, "greet", lambda self: "bad"):
            yield

    assert (token_ignored.name, token_ignored.metric) == ("token_ignored", "lost")
    assert token_ignored.defect == "A late token is accepted."
    for _ in range(2):
        with token_ignored.apply():
            assert Base().greet() == "bad"
    assert Base().greet() == "base"


def test_a_sabotage_must_state_its_defect() -> None:
    with pytest.raises(LabError) as caught:

        @sabotage(metric="lost")
        def silent() -> Iterator[None]:
            yield

    assert caught.value.code == "lab.sabotage"
