"""The forms of what `Runtime(...)` is made of, before any of it is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from stageflow.journal.keys import Unsealed
from stageflow.model.errors import BuildError
from stageflow.model.values import Adapter
from stageflow.runtime.events import Subscription
from stageflow.runtime.limits import Limits

_MAPPINGS: Final = {
    "deps": ("a dict of names to factories, Deps or values", "deps={'db': connect}"),
    "pools": ("a dict of names to units or Pools", "pools={'gpu': 2}"),
    "weights": ("a dict of tenants to numbers", "weights={'acme': 2.0}"),
    "dependencies": ("a dict of names to Dependencies", "dependencies={'search': Dependency()}"),
}
_PLACES: Final = {
    "journal": ("append", "a path, an address or a Journal", "journal='runs.db'"),
    "locks": ("take", "a path, an address or a LockStore", "locks='locks.db'"),
    "keys": ("wrap", "Keys, a path or UNSEALED", "keys='runs.keys'"),
}
"""Part to the method that one of the user's own has."""
_SEALED: Final = ("guarded", "all")


def check_parts(**given: Any) -> None:
    """BuildError `runtime.option` for the first that is nothing of its kind; None is left out."""
    for name, (expected, example) in _MAPPINGS.items():
        if given[name] is not None and not isinstance(given[name], Mapping):
            raise _wrong(name, given[name], expected, example)
        for key in given[name] or ():
            if not (isinstance(key, str) and key):
                raise _wrong(name, key, expected, example)
    for name, (method, expected, example) in _PLACES.items():
        value = given[name]
        is_place = isinstance(value, (str, Path)) and value != ""
        is_unsealed = name == "keys" and isinstance(value, Unsealed)
        if not (value is None or is_place or is_unsealed or hasattr(value, method)):
            raise _wrong(name, value, expected, example)
    limits, clock, sealed = given["limits"], given["clock"], given["sealed"]
    if limits is not None and not isinstance(limits, Limits):
        raise _wrong("limits", limits, "Limits", "limits=Limits(threads=8)")
    if clock is not None and not hasattr(clock, "wall_s"):
        raise _wrong("clock", clock, "an object with wall_s()", "clock=None for this machine's")
    if sealed not in _SEALED:
        raise _wrong("sealed", sealed, " or ".join(map(repr, _SEALED)), "sealed='all'")
    _check_each("events", given["events"], Subscription, "events=[Subscription()]")
    _check_each("adapters", given["adapters"], Adapter, "adapters=[Adapter(Money, dump, load)]")


def _check_each(name: str, values: Any, kind: type, example: str) -> None:
    expected = f"a list of {kind.__name__}s"
    if not isinstance(values, Iterable):
        raise _wrong(name, values, expected, example)
    if isinstance(values, (list, tuple)):  # what can be read but once is left as it is
        for each in values:
            if not isinstance(each, kind):
                raise _wrong(name, each, expected, example)


def _wrong(name: str, value: Any, expected: str, example: str) -> BuildError:
    return BuildError(
        "runtime.option",
        f"no runtime can be made with such {name}",
        field=name,
        expected=expected,
        got=repr(value)[:80] if isinstance(value, str) else type(value).__name__,
        fix=f"Runtime({example})",
    )
