"""Defects seeded from outside into shipped components, to prove that a scenario can fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
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
    is no such attribute: a sabotage whose target was renamed must say so, not change nothing.
    """
    if isinstance(owner, dict):
        original = owner.get(attribute, _ABSENT)
    else:
        original = getattr(owner, attribute, _ABSENT)
    if original is _ABSENT:
        raise _no_target(owner, attribute)
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


def _no_target(owner: Any, attribute: str) -> LabError:
    shown = getattr(owner, "__qualname__", None) or getattr(owner, "__name__", type(owner).__name__)
    return LabError(
        "lab.patch_target",
        f"a sabotage patches {shown}.{attribute}, which does not exist.",
        expected=f"an attribute of {shown}",
        got=repr(attribute),
        fix="point the sabotage at the component's present name",
    )
