"""Defects seeded from outside into shipped components, to prove that a scenario can fail."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Final

from .errors import LabError

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One defect: while `apply()` is entered, the shipped component has it.

    `metric` names the metric that must fail under it; `defect` says what is wrong with the
    component then, in the words of the function's docstring.
    """

    name: str
    metric: str
    defect: str
    apply: Callable[[], AbstractContextManager[None]]


def sabotage(*, metric: str) -> Callable[[Callable[[], Iterator[None]]], Sabotage]:
    """Make a Sabotage of a generator function that patches, yields once, and restores.

    It is named after the function; the docstring states the defect. Raises LabError
    `lab.sabotage` when there is no docstring.
    """

    def decorate(function: Callable[[], Iterator[None]]) -> Sabotage:
        name = getattr(function, "__name__", "sabotage")
        defect = " ".join((inspect.getdoc(function) or "").split())
        if not defect:
            raise LabError(
                "lab.sabotage",
                f"sabotage {name!r} does not say which defect it seeds.",
                fix="give the function a docstring that states the defect",
            )
        return Sabotage(name, metric, defect, contextmanager(function))

    return decorate


@contextmanager
def patched(owner: Any, attribute: str, replacement: Any) -> Iterator[Any]:
    """Replace `owner.attribute` (`owner[attribute]` of a dict) for a while; yields the original.

    Owners are modules, classes, instances and dicts. Raises LabError `lab.patch_target` when there
    is no such attribute, or when it is a name that a module imports and does not use: a sabotage
    whose target was renamed or moved must say so, not change nothing.
    """
    if isinstance(owner, dict):
        original = owner.get(attribute, _ABSENT)
    else:
        original = getattr(owner, attribute, _ABSENT)
    if original is _ABSENT:
        raise _no_target(owner, attribute, "which does not exist")
    if isinstance(owner, ModuleType) and attribute in _imported_in_vain(owner):
        raise _no_target(owner, attribute, "which that module imports and does not use")
    own = _stored(owner, attribute)
    _put(owner, attribute, replacement)
    try:
        yield original
    finally:
        if own is _ABSENT:
            delattr(owner, attribute)  # it was inherited or computed, and is so again
        else:
            _put(owner, attribute, own)


def _stored(owner: Any, attribute: str) -> Any:
    """The value as stored on the owner itself, descriptor and all, or _ABSENT if inherited."""
    if isinstance(owner, dict):
        return owner[attribute]
    try:
        stored = vars(owner)
    except TypeError:  # a slotted instance: the attribute is its own
        return getattr(owner, attribute)
    return stored.get(attribute, _ABSENT)


def _put(owner: Any, attribute: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[attribute] = value
    else:
        setattr(owner, attribute, value)


@cache
def _imported_in_vain(module: ModuleType) -> frozenset[str]:
    """Names that a module takes from others and never looks up. Of a package, which takes them for
    those that look them up in it, none; nor where there is no source."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):
        return frozenset()
    if hasattr(module, "__path__"):
        return frozenset()
    taken = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):  # annotations do nothing
        for field in ("annotation", "returns"):
            if hasattr(node, field):
                setattr(node, field, None)
    used = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return frozenset(taken - used)


def _no_target(owner: Any, attribute: str, why: str) -> LabError:
    shown = getattr(owner, "__qualname__", None) or getattr(owner, "__name__", type(owner).__name__)
    return LabError(
        "lab.patch_target",
        f"a sabotage patches {shown}.{attribute}, {why}.",
        expected=f"an attribute of {shown} that takes part in what it does",
        got=repr(attribute),
        fix="point the sabotage at the component's present name and place",
    )
