"""Model shapes made from a seed: each a declared type, and a Hypothesis strategy of its inputs.

A shape draws its fields from bounded scalars, Decimals, datetimes, enums, containers, optional and
nested models, discriminated unions, generics, typed dicts, dataclasses and root models, under
configurations that are strict or lax and forbid, keep or drop extra fields.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import random
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, create_model
from pydantic.types import AwareDatetime, NaiveDatetime
from typing_extensions import TypedDict

T = TypeVar("T")
L = TypeVar("L")
R = TypeVar("R")

FEATURES: Final = ("discriminated", "generic", "decimal", "datetime", "constraint")
"""What the catalogue asks of the shapes; each shape has at least one of them, in turn."""

DEPTH_MAX: Final = 2
_TYPED_DICT: Final[Any] = TypedDict
"""Called with names that are known at run time only."""
_NAMES: Final = tuple("amount city code count day label level mass note owner rate size".split())
_WORDS: Final = "abcdefghijklmnopqrstuvwxyz"
_ZONES: Final = (datetime.UTC, datetime.timezone(datetime.timedelta(hours=5, minutes=30)))


class Box(BaseModel, Generic[T]):
    """One item and more of its type."""

    item: T
    more: list[T] = []


class Pair(BaseModel, Generic[L, R]):
    """Two values of different types."""

    model_config = ConfigDict(extra="forbid")
    left: L
    right: R | None = None


class Colour(enum.Enum):
    """A choice by name."""

    RED = "red"
    GREEN = "green"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """A type, and inputs that it admits. They are plain: dicts where it has models."""

    annotation: Any
    inputs: SearchStrategy[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One generated type. `model` is set when it is a model whose instances are given by name."""

    number: int
    annotation: Any
    inputs: SearchStrategy[Any]
    model: type[BaseModel] | None
    features: tuple[str, ...]


def shape(number: int, seed: int) -> Shape:
    """The shape of that number; equal for equal seeds."""
    maker = _Maker(random.Random(seed), f"Shape{number}")
    forced = FEATURES[number % len(FEATURES)]
    model = maker.model(0, forced)
    declared, wrapped = model, maker.rng.randrange(20)
    if wrapped == 0:
        declared = maker.listed(model)
    elif wrapped == 1:
        declared = maker.mapped(model)
    elif wrapped == 2:
        declared = Declared(model.annotation | None, st.none() | model.inputs)
    elif wrapped == 3:
        declared = maker.discriminated(1)
    by_name = declared is model and not maker.has_alias
    return Shape(
        number,
        declared.annotation,
        declared.inputs,
        model.annotation if by_name else None,
        tuple(sorted(maker.features)),
    )


def drawn(inputs: SearchStrategy[Any], count: int, seed: int) -> list[Any]:
    """At least one and at most `count` inputs, made by Hypothesis; fewer when there are no more."""
    found: list[Any] = []

    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.seed(seed)
    @hypothesis.given(inputs)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("an odd number")
    return value


class _Maker:
    """Makes the types of one shape."""

    def __init__(self, rng: random.Random, name: str) -> None:
        self.rng = rng
        self.features: set[str] = set()
        self.has_alias = False
        self._name = name
        self._classes = 0

    def model(self, depth: int, forced: str | None = None) -> Declared:
        """A model of one to six fields, the first of them with the feature asked for."""
        rng = self.rng
        names = rng.sample(_NAMES, rng.randint(2, 6) if depth == 0 else rng.randint(1, 3))
        strict = rng.random() < 0.25
        aliased = depth == 0 and rng.random() < 0.1
        self.has_alias = self.has_alias or aliased
        config = ConfigDict(
            strict=strict,
            extra=rng.choice(("ignore", "forbid", "allow")),
            frozen=rng.random() < 0.2,
        )
        fields: dict[str, Any] = {}
        always: dict[str, SearchStrategy[Any]] = {}
        sometimes: dict[str, SearchStrategy[Any]] = {}
        for place, name in enumerate(names):
            declared = self.field(depth, forced if place == 0 else None)
            alias = f"{name}_given" if aliased else None
            key = name if alias is None else alias
            if place > 0 and rng.random() < 0.3:
                fields[name] = (declared.annotation | None, Field(None, alias=alias))
                sometimes[key] = declared.inputs
            else:
                fields[name] = (declared.annotation, Field(alias=alias))
                always[key] = declared.inputs
        made: type[BaseModel] = create_model(
            self._next_name(), __config__=config, __module__=__name__, **fields
        )
        return Declared(made, st.fixed_dictionaries(always, optional=sometimes))

    def field(self, depth: int, forced: str | None) -> Declared:
        """The type of one field."""
        if forced == "discriminated":
            return self.discriminated(depth + 1)
        if forced == "generic":
            return self.generic(depth + 1)
        if forced == "decimal":
            return self.decimal()
        if forced == "datetime":
            return self.moment()
        if forced == "constraint":
            return self.constrained()
        if depth < DEPTH_MAX and self.rng.random() < 0.45:
            return self.rng.choice(
                (
                    self.listed_field, self.mapped_field, self.fixed, self.collected,
                    self.nested, self.discriminated, self.generic, self.keyed, self.stored,
                    self.rooted, self.either,
                )
            )(depth + 1)  # fmt: skip
        return self.leaf()

    # -- scalars -----------------------------------------------------------------------------

    def leaf(self) -> Declared:
        return self.rng.choice((self.constrained, self.decimal, self.moment, self.plain))()

    def plain(self) -> Declared:
        return self.rng.choice(
            (
                Declared(int, st.integers()),
                Declared(str, st.text(max_size=8)),
                Declared(bool, st.booleans()),
                Declared(float, st.floats()),
                Declared(bytes, st.binary(max_size=8)),
                Declared(uuid.UUID, st.uuids()),
                Declared(Colour, st.sampled_from(Colour)),
                Declared(Literal["low", "high"], st.sampled_from(["low", "high"])),
            )
        )

    def constrained(self) -> Declared:
        self.features.add("constraint")
        low = self.rng.randint(-5, 5)
        high = low + self.rng.randint(1, 40)
        return self.rng.choice(
            (
                Declared(Annotated[int, Field(ge=low, le=high)], st.integers(low, high)),
                Declared(
                    Annotated[int, Field(strict=True, gt=low)], st.integers(low + 1, low + 1000)
                ),
                Declared(
                    Annotated[int, Field(multiple_of=5)], st.integers(-9, 9).map(lambda n: n * 5)
                ),
                Declared(Annotated[int, AfterValidator(_even)], st.integers().map(lambda n: n * 2)),
                Declared(
                    Annotated[float, Field(gt=low, lt=high, allow_inf_nan=False)],
                    st.floats(low, high, exclude_min=True, exclude_max=True),
                ),
                Declared(
                    Annotated[str, Field(min_length=2, max_length=6)],
                    st.text(min_size=2, max_size=6),
                ),
                Declared(
                    Annotated[str, Field(pattern="^[a-z]{2,8}$")],
                    st.text(_WORDS, min_size=2, max_size=8),
                ),
                Declared(Annotated[bytes, Field(max_length=4)], st.binary(max_size=4)),
                Declared(
                    Annotated[list[int], Field(min_length=1, max_length=3)],
                    st.lists(st.integers(), min_size=1, max_size=3),
                ),
            )
        )

    def decimal(self) -> Declared:
        self.features.add("decimal")
        return self.rng.choice(
            (
                Declared(Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
                Declared(
                    Annotated[Decimal, Field(max_digits=7, decimal_places=2)],
                    st.decimals(-9_999, 9_999, places=2),
                ),
                Declared(Annotated[Decimal, Field(ge=0, lt=100)], st.decimals(0, 99, places=3)),
            )
        )

    def moment(self) -> Declared:
        self.features.add("datetime")
        year = datetime.datetime(2020, 1, 1)
        return self.rng.choice(
            (
                Declared(datetime.datetime, st.datetimes()),
                Declared(AwareDatetime, st.datetimes(timezones=st.sampled_from(_ZONES))),
                Declared(NaiveDatetime, st.datetimes()),
                Declared(
                    Annotated[datetime.datetime, Field(ge=year)], st.datetimes(min_value=year)
                ),
                Declared(datetime.date, st.dates()),
                Declared(datetime.time, st.times()),
                Declared(datetime.timedelta, st.timedeltas()),
            )
        )

    # -- compositions ------------------------------------------------------------------------

    def listed(self, inner: Declared) -> Declared:
        annotation: Any = list[inner.annotation]  # type: ignore[name-defined]
        return Declared(annotation, st.lists(inner.inputs, max_size=4))

    def mapped(self, inner: Declared) -> Declared:
        annotation: Any = dict[str, inner.annotation]  # type: ignore[name-defined]
        keys = st.text(_WORDS, min_size=1, max_size=4)
        return Declared(annotation, st.dictionaries(keys, inner.inputs, max_size=3))

    def listed_field(self, depth: int) -> Declared:
        return self.listed(self.field(depth, None))

    def mapped_field(self, depth: int) -> Declared:
        return self.mapped(self.field(depth, None))

    def fixed(self, depth: int) -> Declared:
        left, right = self.field(depth, None), self.leaf()
        annotation: Any = tuple[left.annotation, right.annotation]  # type: ignore[name-defined]
        return Declared(annotation, st.tuples(left.inputs, right.inputs))

    def collected(self, _depth: int) -> Declared:
        if self.rng.random() < 0.5:
            return Declared(set[int], st.sets(st.integers(), max_size=4))
        return Declared(frozenset[str], st.frozensets(st.text(max_size=4), max_size=4))

    def nested(self, depth: int) -> Declared:
        return self.model(depth)

    def discriminated(self, depth: int) -> Declared:
        """Two or three models told apart by a field."""
        self.features.add("discriminated")
        members: list[Any] = []
        inputs = []
        for tag in ("cat", "dog", "emu")[: self.rng.randint(2, 3)]:
            inner = self.field(depth, None)
            fields: dict[str, Any] = {"kind": (Literal[tag], ...), "value": (inner.annotation, ...)}
            members.append(create_model(self._next_name(), __module__=__name__, **fields))
            inputs.append(st.fixed_dictionaries({"kind": st.just(tag), "value": inner.inputs}))
        union = members[0]
        for member in members[1:]:
            union = union | member
        return Declared(Annotated[union, Field(discriminator="kind")], st.one_of(inputs))

    def generic(self, depth: int) -> Declared:
        self.features.add("generic")
        inner = self.field(depth, None)
        if self.rng.random() < 0.5:
            annotation: Any = Box[inner.annotation]  # type: ignore[name-defined]
            more = {"more": st.lists(inner.inputs, max_size=2)}
            return Declared(
                annotation, st.fixed_dictionaries({"item": inner.inputs}, optional=more)
            )
        other = self.leaf()
        annotation = Pair[inner.annotation, other.annotation]  # type: ignore[name-defined]
        right = {"right": st.none() | other.inputs}
        return Declared(annotation, st.fixed_dictionaries({"left": inner.inputs}, optional=right))

    def keyed(self, depth: int) -> Declared:
        first, second = self.field(depth, None), self.leaf()
        made = _TYPED_DICT(
            self._next_name(), {"first": first.annotation, "second": second.annotation}
        )
        fields = {"first": first.inputs, "second": second.inputs}
        return Declared(made, st.fixed_dictionaries(fields))

    def stored(self, depth: int) -> Declared:
        first, second = self.leaf(), self.field(depth, None)
        made = dataclasses.make_dataclass(
            self._next_name(), [("first", first.annotation), ("second", second.annotation)]
        )
        made.__module__ = __name__
        fields = {"first": first.inputs, "second": second.inputs}
        return Declared(made, st.fixed_dictionaries(fields))

    def rooted(self, depth: int) -> Declared:
        inner = self.listed_field(depth)
        made: Any = create_model(
            self._next_name(),
            __base__=RootModel[inner.annotation],  # type: ignore[name-defined]
            __module__=__name__,
        )
        return Declared(made, inner.inputs)

    def either(self, depth: int) -> Declared:
        """A union without tags: pydantic's smart mode decides."""
        first, second = self.leaf(), self.field(depth, None)
        return Declared(first.annotation | second.annotation, first.inputs | second.inputs)

    def _next_name(self) -> str:
        self._classes += 1
        return f"{self._name}Part{self._classes}"
