"""Values at rest: freeze once, hand out private views, and hash what is held.

Once frozen, no reference held by anybody can change a value (tests/model/test_immutability.py tries
40 mutators). Shared are only objects that are immutable in C; everything else, frozen dataclasses
and frozen models too, since `object.__setattr__` writes to them, lies in a private box and is
rebuilt for each consumer. docs/design/values.md tells why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from stageflow.model import boxes
from stageflow.model.boxes import Frozen, thaw
from stageflow.model.content import content_hash
from stageflow.model.errors import ValueRefused
from stageflow.model.freezing import ALL_LEAVES, BUILTIN, LEAVES, Handler, Walk, handler_of
from stageflow.model.refusal import Refusal, too_deep

__all__ = ["Adapter", "Freezer", "Frozen", "content_hash", "is_frozen_leaf", "is_leaf", "thaw"]

T = TypeVar("T")

_DEPTH_MAX = 200
_KINDS_MAX = 4096
"""Classes a freezer remembers; programs that make classes without end would otherwise grow it."""


@dataclass(frozen=True, slots=True)
class Adapter(Generic[T]):
    """Teaches a freezer one exact type. `freeze` gives a plain value that can itself be frozen,
    `thaw` makes a new, independent object of it."""

    type: type[T]
    freeze: Callable[[T], Any]
    thaw: Callable[[Any], T]


class Freezer:
    """Turns values into their canonical form: a leaf itself, or a private `Frozen` box.

    Safe for concurrent use. `depth_max` counts nested containers and objects.
    """

    __slots__ = ("_adapters", "_depth_max", "_given", "_kinds", "is_plain")

    def __init__(
        self, adapters: Iterable[Adapter[Any]] = (), *, depth_max: int = _DEPTH_MAX
    ) -> None:
        self._depth_max = depth_max
        self._kinds: dict[type, Handler] = dict(BUILTIN)
        self._adapters = {adapter.type: adapter for adapter in adapters}
        self._kinds |= {cls: _adapted(adapter) for cls, adapter in self._adapters.items()}
        self._given = frozenset(self._kinds)
        self.is_plain = not self._adapters and depth_max == _DEPTH_MAX
        """True when it freezes as any other without adapters does."""

    def freeze(self, value: Any, /) -> Any:
        """The canonical form of `value`; the caller keeps its own object.

        Every container is copied in one step before it is looked at, so that a thread that goes on
        changing the original cannot get between check and copy. Raises ValueRefused with the
        item's path: `value.refused`, `value.cycle`, `value.too_deep`.
        """
        kind = type(value)
        if kind in LEAVES:
            return value
        if kind is dict:
            copied = value.copy()
            if ALL_LEAVES(map(type, copied.values())) and ALL_LEAVES(map(type, copied)):
                return Frozen((dict.copy, copied))
        elif kind is list:
            copied = value.copy()
            if ALL_LEAVES(map(type, copied)):
                return Frozen((list.copy, copied))
        elif kind is Frozen:
            return value
        return self._walk(value)

    def adapter(self, cls: type) -> Adapter[Any]:
        """The adapter of an exact type. Raises KeyError when none was given."""
        return self._adapters[cls]

    def _walk(self, value: Any) -> Any:
        walk = Walk(self._kinds, self._learn, self._depth_max)
        try:
            frozen = walk.visit(value)
        except Refusal as refusal:
            raise refusal.error() from None
        except RecursionError:
            raise too_deep(self._depth_max).error() from None
        return Frozen((boxes.aliased, frozen)) if walk.is_aliased else frozen

    def _learn(self, cls: type) -> Handler:
        """Finds how to freeze a class met for the first time, and remembers it."""
        handler = handler_of(cls)
        if len(self._kinds) >= _KINDS_MAX:
            for known in [k for k in self._kinds if k not in self._given]:
                self._kinds.pop(known, None)
        self._kinds[cls] = handler
        return handler


def is_leaf(value: Any) -> bool:
    """True for exact builtins that are immutable and hold nothing else."""
    return type(value) in LEAVES


def is_frozen_leaf(value: Any) -> bool:
    """True when `value` is its own canonical form: it can be shared, nothing can change it."""
    if is_leaf(value):
        return True
    if type(value) is Frozen:
        return False
    try:
        return Freezer().freeze(value) is value
    except ValueRefused:
        return False


def _adapted(adapter: Adapter[Any]) -> Handler:
    def freeze(walk: Walk, value: Any) -> Frozen:
        return Frozen((boxes.adapted, (adapter, walk.visit(adapter.freeze(value)))))

    return freeze
