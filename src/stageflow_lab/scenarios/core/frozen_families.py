"""Values of every family that a snapshot takes, drawn by Hypothesis.

Families: containers, aliased containers, dataclasses, pydantic models, structs and named tuples,
NumPy arrays, buffers, custom objects kept through an adapter. Any family may hold any other.
"""

from __future__ import annotations

import datetime
import uuid
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import hypothesis
import hypothesis.strategies as st
import msgspec
import numpy as np
import pydantic
from hypothesis.configuration import set_hypothesis_home_dir

from stageflow import Adapter

Strategy = st.SearchStrategy[Any]


@dataclass(frozen=True)
class Note:
    title: str
    items: Any


@dataclass(frozen=True, slots=True)
class Slotted:
    name: str
    inner: Any


@dataclass
class Loose:
    name: str
    notes: Any = field(default_factory=list)


class Profile(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="allow")
    name: str
    nested: dict[str, Any]
    _seen: list[int] = pydantic.PrivateAttr(default_factory=lambda: [1])


class Draft(pydantic.BaseModel):
    lines: list[Any]
    tags: set[str] = set()


class Shape(msgspec.Struct, frozen=True):
    name: str
    sides: Any


class Pair(NamedTuple):
    left: Any
    right: Any


class Ledger:
    """A custom object: nothing tells a framework how to copy it, so it needs an adapter."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows


ADAPTERS: Final[tuple[Adapter[Any], ...]] = (
    Adapter(Ledger, freeze=lambda ledger: ledger.rows, thaw=Ledger),
)

_TEXTS: Final = st.text(max_size=3)
_NUMBERS: Final = st.binary(min_size=1, max_size=8)
"""Small numbers, drawn at once: a list of integers would be a choice for each."""
_INTS: Final = st.integers(-(2**70), 2**70)
_LEAVES: Final[Strategy] = st.one_of(
    st.none(),
    st.booleans(),
    _INTS,
    st.floats(),
    _TEXTS,
    st.binary(max_size=8),
    st.sampled_from(
        (
            Decimal("1.50"),
            complex(1, -0.0),
            datetime.date(2024, 2, 29),
            datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
            datetime.timedelta(seconds=3),
            range(2, 9, 3),
            np.float32(1.5),
            np.int8(-3),
            np.datetime64("2024-01-01"),
        )
    ),
    st.builds(uuid.UUID, int=st.integers(0, 2**128 - 1)),
    st.builds(Fraction, st.integers(-9, 9), st.integers(1, 9)),
    st.builds(PurePosixPath, st.sampled_from(("a/b", "/", "x"))),
)
_KEYS: Final[Strategy] = st.one_of(_TEXTS, st.integers(0, 99), st.tuples(st.integers(0, 9), _TEXTS))


def _array(dtype: str, drawn: bytes, form: str) -> Any:
    numbers = list(drawn)
    if form == "record":
        made = np.zeros(len(numbers), [("n", "i4"), ("x", dtype)])
        made["n"] = numbers
        return made
    flat = np.array(numbers, "i8").astype(dtype)
    if form == "fortran":
        return np.asfortranarray(np.stack([flat, flat]))
    if form == "slice":
        return np.concatenate([flat, flat])[::2]
    return flat.reshape(-1, 1) if form == "column" else flat


_ARRAYS: Final[Strategy] = st.builds(
    _array,
    st.sampled_from(("f8", "f4", "i8", "u1", "?", "c16", ">i4", "M8[s]", "U3")),
    _NUMBERS,
    st.sampled_from(("flat", "column", "fortran", "slice", "record")),
)
_BUFFERS: Final[Strategy] = st.one_of(
    st.builds(bytearray, st.binary(min_size=1, max_size=16)),
    st.builds(lambda n: array("i", list(n)), _NUMBERS),
    st.builds(lambda n, x: array("d", [*n, x]), _NUMBERS, st.floats()),
)


def _containers(inner: Strategy) -> Strategy:
    lists = st.lists(inner, min_size=1, max_size=4)
    dicts = st.dictionaries(_KEYS, inner, min_size=1, max_size=4)
    return st.one_of(
        lists,
        lists,
        dicts,
        st.dictionaries(_TEXTS, lists, min_size=1, max_size=3),
        st.tuples(inner, lists),
        st.sets(st.one_of(_TEXTS, st.integers(0, 99)), min_size=1, max_size=4),
        st.frozensets(st.builds(Note, _TEXTS, st.integers(0, 9)), min_size=1, max_size=2),
        st.builds(deque, lists, st.sampled_from((None, 9))),
        st.builds(OrderedDict, dicts),
        st.builds(lambda given: defaultdict(list, given), dicts),
        st.builds(Counter, st.lists(_TEXTS, min_size=1, max_size=4)),
    )


def _aliased(inner: Strategy) -> Strategy:
    return st.builds(
        lambda shared: {"first": shared, "again": [shared]},
        st.lists(inner, min_size=1, max_size=2),
    )


def _dataclasses(inner: Strategy) -> Strategy:
    lists = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(Note, _TEXTS, lists),
        st.builds(Slotted, _TEXTS, lists),
        st.builds(Loose, _TEXTS, lists),
    )


def _models(inner: Strategy) -> Strategy:
    dicts = st.dictionaries(_TEXTS, inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(
            lambda name, nested, more: Profile.model_validate(
                {"name": name, "nested": nested, "more": more}
            ),
            _TEXTS,
            dicts,
            inner,
        ),
        st.builds(
            lambda lines, tags: Draft(lines=lines, tags=tags),
            st.lists(inner, max_size=3),
            st.sets(_TEXTS, max_size=2),
        ),
    )


def _structs(inner: Strategy) -> Strategy:
    lists = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(Shape, _TEXTS, lists),
        st.builds(Pair, _INTS, lists),
        st.builds(Pair, _INTS, _TEXTS),
    )


def _objects(inner: Strategy) -> Strategy:
    return st.builds(Ledger, st.lists(inner, min_size=1, max_size=3))


_MAKERS: Final[Mapping[str, Callable[[Strategy], Strategy]]] = {
    "container": _containers,
    "aliased": _aliased,
    "dataclass": _dataclasses,
    "model": _models,
    "struct": _structs,
    "array": lambda inner: _ARRAYS,
    "buffer": lambda inner: _BUFFERS,
    "object": _objects,
}
FAMILIES: Final = tuple(_MAKERS)

_ANY: Final = st.recursive(
    st.one_of(_LEAVES, _LEAVES, _ARRAYS, _BUFFERS),
    lambda inner: st.one_of(*(make(inner) for make in _MAKERS.values())),
    max_leaves=3,
)
_ROWS_AT_ONCE: Final = 4
_ROWS: Final = st.tuples(
    *(st.tuples(*(make(_ANY) for make in _MAKERS.values())) for _ in range(_ROWS_AT_ONCE))
)


def draw(rows: int, seed: int, home: Path) -> list[tuple[Any, ...]]:
    """`rows` tuples, each with one value of every family, in the order of FAMILIES.

    Hypothesis keeps its tables in `home`.
    """
    set_hypothesis_home_dir(home)
    drawn: list[tuple[Any, ...]] = []
    turn = 0
    while len(drawn) < rows:
        simplest, *others = _examples(seed + turn)
        drawn.extend(row for example in others for row in example)
        if turn == 0:
            drawn.append(simplest[0])
        turn += 1
    return drawn[:rows]


def _examples(seed: int) -> list[tuple[tuple[Any, ...], ...]]:
    """The simplest example, which is the same for every seed, and a random one.

    Asked for more examples at once, Hypothesis makes most by changing one value of the last.
    """
    found: list[tuple[tuple[Any, ...], ...]] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=2,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.generate,),
        suppress_health_check=tuple(hypothesis.HealthCheck),
    )
    @hypothesis.given(_ROWS)
    def collect(rows: tuple[tuple[Any, ...], ...]) -> None:
        found.append(rows)

    collect()
    return found
