"""Instances made anew: what the written function accepts is what pydantic accepts, and gives.

Each instance is judged twice, by the contract and by pydantic's revalidation alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import itertools
import math
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NaiveDatetime,
    RootModel,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from stageflow.contracts import contract_of
from stageflow.contracts.validation import Validator
from stageflow.model.content import content_hash
from stageflow.model.errors import ContractError, ValueRefused
from stageflow.model.values import Freezer, thaw


class Colour(enum.Enum):
    RED = 1


class Text(str):
    """A subclass of a leaf."""


class Stamp(datetime.datetime):
    """Another."""


class Zone(datetime.tzinfo):
    """Anybody's, which can be changed."""

    def utcoffset(self, at: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(hours=1)

    def dst(self, at: datetime.datetime | None) -> None:
        return None

    def tzname(self, at: datetime.datetime | None) -> str:
        return "there"


class Inner(BaseModel):
    count: Annotated[int, Field(ge=0, lt=100, multiple_of=5)] = 0
    label: Annotated[str, Field(min_length=1, max_length=3)] = "a"


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["closed"] = "closed"
    n: int = 1


class Roomy(BaseModel):
    model_config = ConfigDict(extra="allow")
    kind: Literal["roomy", "open"] = "roomy"
    n: int = 1


class Trimmed(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    word: str = "a"
    words: list[str] = []


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime.datetime = datetime.datetime(2026, 1, 1)
    ids: tuple[uuid.UUID, ...] = ()
    text: str = "a"
    price: Decimal = Decimal(1)


class Zoned(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)
    here: Annotated[datetime.datetime, Field(ge=datetime.datetime(2020, 1, 1))] | None = None
    anywhere: AwareDatetime | None = None
    nowhere: NaiveDatetime | None = None
    size: float | None = None
    words: Annotated[list[Inner], Field(min_length=1)] | None = None


class Follows(BaseModel):
    """A validator that looks at the field before its own."""

    low: int = 0
    high: int = 1

    @field_validator("high")
    @classmethod
    def above(cls, value: int, told: ValidationInfo) -> int:
        if value <= told.data["low"]:
            raise ValueError("must be above low")
        return value


class Names(RootModel[list[str]]):
    pass


class Reader(BaseModel):
    """Takes any object that has these attributes."""

    model_config = ConfigDict(from_attributes=True)
    count: int = 0


CHECKED: list[int] = []


@dataclasses.dataclass
class Point:
    x: int
    y: Inner
    tag: str = "a"


@pydantic_dataclass(config=ConfigDict(extra="forbid"))
class Checked:
    n: Annotated[int, Field(ge=0)] = 0


@pydantic_dataclass(config=ConfigDict(extra="allow"))
class Wide:
    n: int = 0


class Bits(enum.Flag):
    A = 1
    B = 2


class Named(BaseModel):
    id: uuid.UUID


class Unions(BaseModel):
    number: int | float | None = None
    small: Annotated[int, Field(ge=0, lt=3)] | float | None = None
    mixed: Literal["a"] | bytes | datetime.datetime | datetime.date | None = None
    first: Annotated[int | str | None, Field(union_mode="left_to_right")] = None
    moment: AwareDatetime | datetime.time | Colour | None = None
    ids: uuid.UUID | str | None = None
    bits: Bits = Bits.A
    point: Point | None = None
    checked: Checked | None = None
    wide: Wide | None = None
    points: list[Point] = []


def even(value: int) -> int:
    CHECKED.append(value)
    if value % 2:
        raise ValueError("must be even")
    return value


class All(BaseModel):
    flag: bool = True
    number: int = 1
    part: float = 1.5
    bounded: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] = 1.0
    price: Decimal = Decimal("1.5")
    dear: Annotated[Decimal, Field(ge=1, lt=100)] = Decimal(2)
    exact: Annotated[Decimal, Field(max_digits=3, decimal_places=1)] = Decimal(2)
    text: str = "text"
    formed: Annotated[str, Field(pattern="^[a-z]+$")] = "a"
    raw: bytes = b""
    day: datetime.date = datetime.date(2026, 1, 1)
    at: datetime.datetime = datetime.datetime(2026, 1, 1)
    late: Annotated[datetime.datetime, Field(ge=datetime.datetime(2020, 1, 1))] = datetime.datetime(
        2026, 1, 1
    )
    clock: datetime.time = datetime.time(1)
    span: datetime.timedelta = datetime.timedelta(1)
    id: uuid.UUID = uuid.UUID(int=7)
    colour: Colour = Colour.RED
    word: Literal["a", "b"] = "a"
    digit: Literal[1, 2] = 1
    checked: Annotated[int, AfterValidator(even)] = 2
    maybe: Inner | None = None
    inner: Inner
    inners: Annotated[list[Inner], Field(max_length=2)] = []
    by_name: dict[str, Inner] = {}
    pair: tuple[Inner, int]
    pet: Annotated[Closed | Roomy, Field(discriminator="kind")]
    either: Closed | Inner | str | None = None
    open: Reader | Inner
    trimmed: Trimmed
    strict: Strict
    follows: Follows
    names: Names
    loose: Any = None


def full(**given: Any) -> All:
    models: dict[str, Any] = {
        "inner": Inner(),
        "pair": (Inner(), 1),
        "pet": Closed(),
        "open": Inner(),
        "trimmed": Trimmed(),
        "strict": Strict(),
        "follows": Follows(),
        "names": Names([]),
    }
    return All(**{**models, **given})


AWARE = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
NAMED = datetime.timezone(datetime.timedelta(hours=1), "here")
WRONG: Any = 1
WRONG_TEXT: Any = "1"


def strange(point: Any) -> Any:
    """With something beside its fields."""
    point.__dict__["stranger"] = 1
    return point


ODD: list[Any] = [
    None, True, 0, 1, -5, 5, 100, 2**80, 1.5, 0.0, math.nan, math.inf, -0.0, Decimal("1.5"),
    Decimal("NaN"), Decimal("Infinity"), Decimal(1000), "", "a", "c", "closed", " a ", "ä",
    "\ud800", "1", "abcd", Text("a"), b"a", b"\xff", datetime.date(2026, 1, 1), AWARE,
    datetime.datetime(2019, 1, 1), Stamp(2026, 1, 1), AWARE.replace(tzinfo=NAMED),
    AWARE.replace(tzinfo=Zone()),
    datetime.time(1), datetime.time(1, tzinfo=datetime.UTC), datetime.timedelta(2),
    uuid.UUID(int=8), str(uuid.UUID(int=8)), Colour.RED, [], {}, (), [Inner()], {"a": Inner()},
    {"count": 5}, [{"count": 5}], {1: Inner()}, {"\ud800": Inner()}, (Inner(), 2), (Inner(),),
    [Inner()] * 3, (Inner(count=5), "3"), Inner(), Closed(), Roomy(), Trimmed(), Strict(),
    Inner.model_construct(count=7), Inner.model_construct(count="5"),
    Inner.model_construct(label="ä"), Closed.model_construct(n="3"),
    Closed.model_construct(kind="roomy"), Roomy.model_construct(kind="closed"),
    Roomy.model_validate({"more": [1]}), Trimmed(word="b").model_copy(update={"word": " c "}),
    Trimmed.model_construct(words=[" d "]), Strict.model_construct(at="2026-01-01"),
    Strict.model_construct(ids=[uuid.UUID(int=1)]), Strict.model_construct(price=1),
    Follows.model_construct(low=3, high=2), Follows.model_construct(low=3, high=4), Names(["a"]),
    Bits.A | Bits.B, Bits(0), Point(1, Inner()), Point(2, Inner.model_construct(count=7)),
    Point(WRONG_TEXT, Inner()), strange(Point(3, Inner())), strange(Checked()), Checked(3),
    strange(Wide()),
    [Point(1, Inner())], {"x": 1, "y": {}}, {"n": "1"},
    Names.model_construct(["a", WRONG]), Reader(count=2), object(),
]  # fmt: skip


CLASSES: dict[type[BaseModel], Callable[[], BaseModel]] = {
    All: full,
    **{cls: cls for cls in (Inner, Closed, Roomy, Trimmed, Strict, Follows, Zoned, Unions)},
}


def changed(model: BaseModel, name: str, value: Any) -> Any:
    out = model.model_copy()
    out.__dict__[name] = value
    return out


def lacking(model: BaseModel, name: str) -> Any:
    out = model.model_copy()
    del out.__dict__[name]
    return out


def told(judge: Callable[[Any], Any], value: Any) -> tuple[str, Any]:
    """What a judge says of a value: the form that is kept, or that it is refused."""
    try:
        return "kept", judge(value)
    except (ContractError, ValidationError, AttributeError, KeyError):
        return "invalid", None
    except ValueRefused as error:
        return "refused", str(error)


def cases() -> Iterator[tuple[type[BaseModel], Any]]:
    for cls, make in CLASSES.items():
        yield cls, make()
        yield cls, changed(make(), "stranger", 1)
        for name, value in itertools.product(cls.model_fields, ODD):
            yield cls, changed(make(), name, value)
        for name in cls.model_fields:
            yield cls, lacking(make(), name)
        with_extra = make()
        object.__setattr__(with_extra, "__pydantic_extra__", {"more": [1]})
        yield cls, with_extra
        yield cls, object.__new__(cls)


class Judges:
    """The contract of a class, and pydantic with nothing of it but freezing."""

    def __init__(self, cls: type[BaseModel]) -> None:
        self._contract, self._validator, self._freezer = contract_of(cls), Validator(cls), Freezer()

    def mine(self, value: Any) -> Any:
        return self._contract.admit(value, self._freezer)

    def theirs(self, value: Any) -> Any:
        return self._freezer.freeze(self._validator(value))


def test_it_accepts_and_gives_what_pydantic_does() -> None:
    kept = refused = 0
    judges = {cls: Judges(cls) for cls in CLASSES}
    for cls, value in cases():
        mine, theirs = told(judges[cls].mine, value), told(judges[cls].theirs, value)
        assert mine[0] == theirs[0], f"{cls.__name__} {value!r}"
        if mine[0] == "kept":
            kept += 1
            view, other = thaw(mine[1]), thaw(theirs[1])
            assert content_hash(mine[1]) == content_hash(theirs[1]), repr(value)
            assert repr(view) == repr(other), "fields in order, classes of leaves"
            assert view.model_fields_set == other.model_fields_set
            assert view.__pydantic_extra__ == other.__pydantic_extra__
            assert view.__pydantic_private__ == other.__pydantic_private__
        else:
            refused += 1
    assert kept > 700 and refused > 2_000


@pytest.mark.parametrize(
    "value",
    [
        full(),
        full(inners=[Inner()], by_name={"a": Inner()}, maybe=Inner(), either=Closed(), pet=Roomy()),
        full(text="\u00e4", at=AWARE.replace(tzinfo=NAMED), names=Names(["a"]), loose=[1]),
    ],
)
def test_a_valid_instance_is_not_validated_twice(value: All) -> None:
    contract = contract_of(All)
    CHECKED.clear()
    kept = contract.admit(value, Freezer())
    assert CHECKED == [2]
    value.number = 3
    value.inner.count = 5
    made = thaw(kept)
    assert (made.number, made.inner.count) == (1, 0)
    assert "number" not in made.model_fields_set


def test_no_uuid_is_shared() -> None:
    """`object.__setattr__` writes to one."""
    given = uuid.UUID(int=7)
    for value in (Unions(ids=given), Named(id=given)):
        object.__setattr__(given, "int", 7)
        kept = contract_of(type(value)).admit(value, Freezer())
        object.__setattr__(given, "int", 8)
        assert thaw(kept) != value
