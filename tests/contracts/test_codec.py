"""Values come back from the journal with an equal hash, or are refused before they go in."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import random
import subprocess
import sys
import uuid
import zoneinfo
from array import array
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from stageflow.contracts import contract_of
from stageflow.model.errors import ContractError, ValueRefused
from stageflow.model.values import Adapter, Freezer, content_hash, thaw

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


class Lax(BaseModel):
    count: int = 0
    names: list[str] = []
    ratio: float | None = None


class More(Lax):
    note: str = ""


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Lax]
    a: int = 1
    _note: list[int] = pydantic.PrivateAttr(default_factory=list)


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    colour: Colour = Colour.RED


class Owner(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]
    by_name: dict[str, Cat | Dog | None] = {}


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Box(BaseModel, Generic[T]):
    item: T


@dataclasses.dataclass(frozen=True, slots=True)
class Data:
    x: int
    box: tuple[Lax, ...] = ()


@dataclasses.dataclass
class Holder(Generic[T]):
    items: list[T]


@dataclasses.dataclass
class Part:
    n: int


class Keeping(BaseModel):
    model_config = ConfigDict(extra="allow")
    part: Part


class Pair(NamedTuple):
    left: int
    right: Lax


class Keys(TypedDict, total=False):
    a: int
    lax: Lax


class Shape(msgspec.Struct, frozen=True):
    sides: list[int]
    inner: Data | None = None

    def __post_init__(self) -> None:
        if self.sides == [13]:
            raise ValueError("thirteen")


class Root(pydantic.RootModel[list[Lax]]):
    pass


class Anything(BaseModel):
    value: Any


class Kept(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    array: np.ndarray
    path: pathlib.PurePosixPath
    secret: pydantic.SecretStr
    url: pydantic.HttpUrl
    when: datetime.datetime


PARIS = zoneinfo.ZoneInfo("Europe/Paris")
EXTRA = Extra(a=2, first=Lax(count=1))
EXTRA._note.append(4)

CASES: list[tuple[Any, Any]] = [
    (int, 5),
    (int, -(10**300)),
    (list[int], [1, 2**64, -(2**63) - 1]),
    (str, "\ud800x"),
    (dict, {"\ud800": 1, "a": ["\udfff"]}),
    (Any, {"a": [None, True, 1.5, b"x", {"b": {}}]}),
    (Any, {1: "a", (1, 2): "b", None: 3, 1.5: 4, b"k": 5}),
    (Any, {13: [1]}),
    (float, float("nan")),
    (list[float], [-0.0, float("inf")]),
    (Any, [1 + 2j, decimal.Decimal("1.10"), decimal.Decimal("-Infinity"), ..., range(1, 2**70, 3)]),
    (Any, [datetime.datetime(2024, 10, 27, 2, 30, 1, 5, tzinfo=PARIS, fold=1), PARIS]),
    (Any, [datetime.datetime.now(datetime.UTC), datetime.timezone(datetime.timedelta(hours=-3))]),
    (Any, datetime.timezone(datetime.timedelta(hours=1), "CET")),
    (Any, [datetime.date(2024, 2, 29), datetime.time(1, 2, 3), datetime.timedelta(-1, 2, 3)]),
    (Any, [uuid.UUID(int=7), fractions.Fraction(10**30, 7), pathlib.PurePosixPath("a/b")]),
    (Any, [ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8")]),
    (Any, [{1, 2}, {"b", "a"}, frozenset({(1, "x")}), (1, (2, [3])), bytearray(b"x")]),
    (Any, [collections.OrderedDict(a=[1]), collections.Counter("aab")]),
    (Any, [collections.deque([1, [2]], maxlen=3), collections.defaultdict(list, {"a": [1]})]),
    (
        Any,
        [
            array("d", [1.5]),
            np.float32(1.5),
            np.int64(3),
            np.datetime64("2024-01-01"),
            np.str_("x"),
        ],
    ),
    (np.ndarray, np.arange(6, dtype="<i2").reshape(2, 3)),
    (np.ndarray, np.asfortranarray(np.arange(6.0).reshape(2, 3))),
    (np.ndarray, np.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", ">f8")])),
    (np.ndarray, np.zeros((0, 3))),
    (Lax, Lax(count=3, names=["a"])),
    (Lax | None, None),
    (list[Lax], [Lax(), Lax(ratio=1.5)]),
    (Extra, EXTRA),
    (Owner, Owner(pets=[Cat(), Dog()], by_name={"x": Dog(), "y": None})),
    (Cat | Dog, Dog()),
    (Dog | Cat, Dog()),
    (Node, Node(value=1, children=[Node(value=2), Node(value=3, children=[Node(value=4)])])),
    (Root, Root([Lax()])),
    (Box[Lax], Box(item=Lax())),
    (pydantic.JsonValue, {"a": [1, None, {"b": 2.5}]}),
    (Box[int], Box[int](item=3)),
    (Box[Lax], Box[Lax](item=Lax())),
    (Data, Data(1, (Lax(count=2),))),
    (Holder[Lax], Holder([Lax()])),
    (Pair, Pair(1, Lax())),
    (tuple[int, Pair], (1, Pair(1, Lax()))),
    (Keys, {"lax": Lax()}),
    (Keys, {}),
    (Shape, Shape([1], Data(1))),
    (Colour, Colour.RED),
    (Level, Level.LOW | Level.HIGH),
    (Literal[Colour.RED], Colour.RED),
    (dict[Colour, Lax], {Colour.RED: Lax()}),
    (dict[Data, int], {Data(1): 2}),
    (Anything, Anything(value={"a": [1, (2,)]})),
    (
        Kept,
        Kept(
            array=np.arange(3.0),
            path=pathlib.PurePosixPath("a"),
            secret=pydantic.SecretStr("s"),
            url="http://a.example/x?y=1",
            when="2020-01-01T00:00:00.5+01:00",
        ),
    ),
]


@pytest.mark.parametrize(("annotation", "value"), CASES, ids=lambda item: str(item)[:40])
def test_what_was_encoded_comes_back_with_an_equal_hash(annotation: Any, value: Any) -> None:
    contract, freezer = contract_of(annotation), Freezer()
    frozen = contract.admit(value, freezer)
    data = contract.encode(frozen)
    back = contract.decode(data)
    assert content_hash(back) == content_hash(frozen)
    assert type(thaw(back)) is type(thaw(frozen))
    assert contract_of(annotation).encode(back) == data
    assert contract.undecodable() is None


LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.decimals()
    | st.complex_numbers()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.timedeltas()
    | st.times()
    | st.uuids()
    | st.fractions()
    | st.sampled_from(["a", "b"])
)
KEY = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.tuples(st.integers())
TREE = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(KEY, inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(lambda items: [items, items])
        | st.frozensets(KEY)
        | st.sets(KEY)
        | st.lists(inner).map(collections.deque)
    ),
    max_leaves=15,
)


@given(TREE)
def test_any_plain_value_comes_back_where_any_is_declared(value: Any) -> None:
    contract, freezer = contract_of(Any), Freezer()
    frozen = freezer.freeze(value)
    assert content_hash(contract.decode(contract.encode(frozen))) == content_hash(frozen)


def test_no_validator_and_no_initialiser_runs_on_the_way_back() -> None:
    runs: list[str] = []

    class Loud(BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def _run(cls, value: int) -> int:
            runs.append("validator")
            return value

        def model_post_init(self, context: Any) -> None:
            runs.append("post")

    Loud.__qualname__ = "Loud"
    contract = contract_of(Loud)
    data = contract.encode(contract.admit({"n": 1}, Freezer()))
    runs.clear()
    assert thaw(contract.decode(data)).n == 1
    assert runs == []


def test_aliased_parts_stay_one_object_and_cost_linear_space() -> None:
    value: Any = [0]
    for _ in range(80):
        value = [value, value]
    contract = contract_of(Any)
    data = contract.encode(Freezer().freeze(value))
    assert len(data) < 2000
    view = thaw(contract.decode(data))
    for _ in range(80):
        assert view[0] is view[1]
        view = view[0]


def test_every_flipped_byte_and_every_torn_end_is_seen() -> None:
    contract = contract_of(Owner)
    data = contract.encode(contract.admit(Owner(pets=[Cat(), Dog()]), Freezer()))
    randomness = random.Random(7)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << randomness.randrange(8)
        for broken in (data[:place], bytes(flipped)):
            with pytest.raises(ContractError) as caught:
                contract.decode(broken)
            assert caught.value.code == "codec.damaged"


def test_a_value_of_another_contract_is_a_mismatch() -> None:
    data = contract_of(Lax).encode(Freezer().freeze(Lax()))
    with pytest.raises(ContractError) as caught:
        contract_of(Cat).decode(data)
    assert caught.value.code == "codec.mismatch"


class Stranger(BaseModel):
    x: int = 1


def _local() -> tuple[Any, Any]:
    class Local(BaseModel):
        x: int = 1

    return list[Local], [Local()]


REFUSED: list[tuple[Any, Any, str]] = [
    (Lax, More(note="x"), "$"),
    (list[Lax], [Lax(), More()], "$[1]"),
    (Any, {"a": [Lax()]}, "$.a[0]"),
    (Anything, Anything(value=Lax()), "$.value"),
    (dict, {"k": Colour.RED}, "$.k"),
    (Extra, Extra(first=More()), "$.first"),
    (*_local(), "$[0]"),
]


@pytest.mark.parametrize(("annotation", "value", "path"), REFUSED, ids=lambda item: str(item)[:40])
def test_what_could_not_come_back_is_refused_with_its_path(
    annotation: Any, value: Any, path: str
) -> None:
    contract = contract_of(annotation)
    frozen = contract.admit(value, Freezer())
    with pytest.raises(ValueRefused) as caught:
        contract.encode(frozen)
    assert (caught.value.code, caught.value.field) == ("codec.undecodable", path)
    assert caught.value.fix


def test_an_attribute_that_is_no_field_comes_back_when_it_is_plain() -> None:
    value = Holder([1])
    value.added = {"n": [2]}  # type: ignore[attr-defined]
    contract = contract_of(Holder[int])
    frozen = Freezer().freeze(value)
    back = contract.decode(contract.encode(frozen))
    assert content_hash(back) == content_hash(frozen)
    assert thaw(back).added == {"n": [2]}
    value.added = Lax()  # type: ignore[attr-defined]
    with pytest.raises(ValueRefused) as caught:
        contract.encode(Freezer().freeze(value))
    assert caught.value.field == "$.added"


def test_surplus_that_a_dataclass_takes_from_its_model_is_no_reason_to_refuse() -> None:
    contract = contract_of(Keeping)
    frozen = contract.admit({"part": {"n": 1, "surplus": "s"}, "other": 2}, Freezer())
    back = contract.decode(contract.encode(frozen))
    assert content_hash(back) == content_hash(frozen)
    assert thaw(back).part.surplus == "s"


def test_local_classes_are_told_before_anything_runs() -> None:
    annotation, _ = _local()
    reason = contract_of(dict[str, annotation]).undecodable()
    assert reason is not None
    assert "Local" in reason
    assert contract_of(dict[str, Lax]).undecodable() is None
    assert contract_of(Node).undecodable() is None


def test_adapted_values_come_back_through_the_adapter() -> None:
    freezer = Freezer([Adapter(Money, lambda value: [value.cents], lambda plain: Money(plain[0]))])
    contract = contract_of(list[Money])
    frozen = contract.admit([Money(5)], freezer)
    back = contract.decode(contract.encode(frozen), freezer)
    assert content_hash(back) == content_hash(frozen)
    assert thaw(back)[0].cents == 5
    with pytest.raises(ContractError) as caught:
        contract.decode(contract.encode(frozen))
    assert caught.value.code == "codec.mismatch"


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


def test_deep_values_encode_or_are_refused_and_never_crash() -> None:
    value: Any = []
    for _ in range(99):
        value = [{"a": value}]
    contract = contract_of(Any)
    frozen = Freezer().freeze(value)
    assert content_hash(contract.decode(contract.encode(frozen))) == content_hash(frozen)
    for _ in range(300):
        frozen = Freezer().freeze([frozen])
    with pytest.raises(ValueRefused) as caught:
        contract.encode(frozen)
    assert caught.value.code == "codec.undecodable"


def test_equal_values_are_equal_bytes_in_every_process() -> None:
    code = (
        "from stageflow.contracts import contract_of; from stageflow.model.values import Freezer;"
        "from pydantic import BaseModel\n"
        "class M(BaseModel):\n    b: int; a: set[str]\n"
        "c = contract_of(M); print(c.encode(c.admit(M(b=1, a={'x', 'y', 'z'}), Freezer())).hex())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1
