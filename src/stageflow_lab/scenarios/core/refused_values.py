"""Values that no snapshot can keep, planted at a known path, offered at every boundary of a run."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from stageflow import (
    Context,
    Decision,
    Pipeline,
    Redact,
    Stage,
    StageFailed,
    ValueRefused,
    enrich,
    guard,
    transform,
)

from .frozen_families import Loose, Note, Pair, Profile


class Sealed:
    """A custom object without an adapter."""

    def __init__(self) -> None:
        self.state = [1]


class Shelf(list[Any]):
    """A subclass of a builtin: a copy would lose whatever the subclass adds."""


_MADE: Final[Mapping[str, Callable[[], Any]]] = MappingProxyType(
    {
        "Sealed": Sealed,
        "Shelf": Shelf,
        "generator": lambda: (number for number in range(3)),
        "lock": threading.Lock,
        "memoryview": lambda: memoryview(bytearray(b"ab")),
        "class": lambda: Sealed,
        "function": lambda: len,
        "objects": lambda: np.array([[1], None], dtype=object),
    }
)
_NEEDS_ADAPTER: Final = frozenset({"Sealed", "Shelf"})
_HOLDERS: Final[tuple[tuple[str, Callable[[Any], Any]], ...]] = (
    ("[1]", lambda inner: [0, inner]),
    (".k", lambda inner: {"a": 1, "k": inner}),
    ("[2]", lambda inner: (1, 2, inner)),
    (".items", lambda inner: Note("n", inner)),
    (".notes[0]", lambda inner: Loose("n", [inner])),
    ("[1]", lambda inner: Pair(0, inner)),
    (".nested.k", lambda inner: Profile(name="p", nested={"k": inner})),
)
_ROOTS: Final[Mapping[str, str]] = MappingProxyType(
    {"input": "given", "child": "value", "item": "$[0]"}
)
"""Where the path of a value begins: an input is told by its name, an item by its place."""
BOUNDARIES: Final = ("return", "input", "item", "redaction", "child")


def planted(rng: random.Random) -> tuple[str, Any, str]:
    """(kind, value, path of what cannot be kept): one to four holders deep."""
    kind = rng.choice(tuple(_MADE))
    value, path = _MADE[kind](), ""
    for _ in range(rng.randint(1, 4)):
        step, hold = rng.choice(_HOLDERS)
        value, path = hold(value), step + path
    return kind, value, path


async def refused(rng: random.Random, boundary: str) -> dict[str, Any]:
    """Offers a planted value at `boundary`; what was said about it, as plain data."""
    kind, value, path = planted(rng)
    pipeline, before, node = _offering(boundary, value)
    given = value if boundary == "input" else 0
    error: BaseException | None = None
    readable = True
    try:
        run = await pipeline.run(given=given)
    except ValueRefused as raised:
        error = raised
    else:
        readable = run[before] == "done"
        try:
            run.value_or_raise()
        except StageFailed as failed:
            error = failed.original
            node = node if failed.failure.node == node else f"not {failed.failure.node}"
    told = isinstance(error, ValueRefused) and error.code == "value.refused"
    field = error.field or "" if isinstance(error, ValueRefused) else ""
    fix = error.fix or "" if isinstance(error, ValueRefused) else ""
    place = _ROOTS.get(boundary, "$")
    return {
        "boundary": boundary,
        "value_kind": kind,
        "refused": told,
        "located": field == place + path and not node.startswith("not "),
        "hinted": f"Adapter({kind}" in fix if kind in _NEEDS_ADAPTER else fix != "",
        "readable": readable,
        "said": f"{type(error).__name__}: {field}"[:200],
        "path": place + path,
    }


def _offering(boundary: str, value: Any) -> tuple[Pipeline[Any], Stage[..., Any], str]:
    """A pipeline in which node `offer` brings the value to the boundary, after `before`."""

    if boundary == "redaction":

        @transform
        def first(given: Any) -> Any:
            return "done"

        @transform
        def shown(first: Any) -> Any:
            return "done"

        @guard
        def mask(shown: Any) -> Decision:
            return Redact(value)

        masked = [first, shown, mask]
        return Pipeline("offer", masked, inputs={"given": Any}, outputs=shown), first, "mask"

    @transform
    def before(given: Any) -> Any:
        return "done"

    offer = _offers(boundary, value)
    stages = [before, offer]
    return Pipeline("offer", stages, inputs={"given": Any}, outputs=offer), before, "offer"


def _offers(boundary: str, value: Any) -> Stage[..., Any]:
    if boundary == "item":

        @transform(name="offer")
        async def items(before: Any) -> AsyncIterator[Any]:
            yield value

        return items
    if boundary == "child":

        @transform
        def echo(value: Any) -> Any:
            return 0

        child = Pipeline("echo", [echo], inputs={"value": Any}, outputs=echo)

        @enrich(name="offer")
        async def nested(ctx: Context, before: Any) -> Any:
            return await ctx.run(child, key="child", value=value)

        return nested

    @transform(name="offer")
    def returned(before: Any) -> Any:
        return value

    return returned
