"""Admission agrees with pydantic, trusts no instance, tells faults and never values."""

import copy
import dataclasses
import datetime
import decimal
import enum
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from stageflow.contracts import ContractViolated, contract_of
from stageflow.model.errors import BuildError, ContractError, ValueRefused
from stageflow.model.values import Adapter, Freezer, content_hash, thaw

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    count: int
    name: str


class Lax(BaseModel):
    count: int = 0
    names: list[str] = []
    ratio: float | None = None


class Aliased(BaseModel):
    first: int = Field(alias="second")
    second: int = Field(alias="first", default=7)


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int
    _note: list[int] = pydantic.PrivateAttr(default_factory=list)


class Bounded(BaseModel):
    n: Annotated[int, Field(ge=0, lt=10)]
    s: Annotated[str, Field(min_length=1, max_length=3, pattern="^[a-z]+$")]
    d: Annotated[decimal.Decimal, Field(max_digits=4, decimal_places=2)]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    other: Cat | Dog | None = None


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Box(BaseModel, Generic[T]):
    item: T


class Inside(BaseModel):
    lax: Lax
    strict: Strict | None = None
    table: dict[str, Lax] = {}


class Checked(BaseModel):
    low: int
    high: int

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> "Checked":
        if self.low > self.high:
            raise ValueError("low is above high: secret-canary")
        return self


class OwnInit(BaseModel):
    value: int

    def __init__(self, text: str) -> None:
        super().__init__(value=int(text))


class Root(pydantic.RootModel[list[int]]):
    pass


@dataclasses.dataclass
class Data:
    x: int
    items: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Partial:
    given: dataclasses.InitVar[int]
    stored: int = 0
    late: int = dataclasses.field(init=False, default=3)

    def __post_init__(self, given: int) -> None:
        self.stored = given


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Keys(TypedDict, total=False):
    a: int
    b: list[str]


class Shape(msgspec.Struct):
    sides: list[int]


@attrs.define
class Attr:
    name: str


ANNOTATIONS: list[Any] = [
    int,
    float,
    str,
    bool,
    bytes,
    None,
    int | None,
    str | int,
    Any,
    list,
    dict,
    list[int],
    dict[str, int],
    dict[int, list[str]],
    tuple[int, str],
    tuple[int, ...],
    set[int],
    frozenset[str],
    Sequence[int],
    Literal["a", 1, True],
    Colour,
    decimal.Decimal,
    datetime.datetime,
    datetime.date,
    datetime.timedelta,
    uuid.UUID,
    Annotated[int, Field(gt=3)],
    Annotated[list[int], Field(min_length=2)],
    Strict,
    Lax,
    Aliased,
    Extra,
    Bounded,
    Owner,
    Node,
    Box[int],
    Box[list[Lax]],
    Inside,
    Checked,
    Root,
    Data,
    Pair,
    Keys,
    list[Lax | Strict],
    dict[str, Box[int] | None],
]

SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-20, 20),
    st.integers(),
    st.floats(allow_nan=False),
    st.sampled_from(["", "a", "abc", "cat", "dog", "red", "1", "true", "\ud800", "2020-01-01"]),
    st.binary(max_size=3),
    st.decimals(-100, 100, places=2),
    st.just(uuid.UUID(int=3)),
    st.just(datetime.date(2020, 1, 1)),
    st.just(Colour.RED),
)
NAMES = st.sampled_from(
    "count name names ratio first second a b n s d kind lives tricks pet other value children item "
    "lax strict table x low high items left right".split()
)
INPUT = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES, inner, max_size=4)
        | st.lists(inner, max_size=2).map(tuple)
        | st.builds(Cat, kind=st.just("cat"), lives=st.integers())
        | st.builds(Lax, count=st.integers())
    ),
    max_leaves=6,
)


def _own(annotation: Any) -> st.SearchStrategy[Any]:
    """Valid values of the type itself, instances among them."""
    if annotation in (Any, Root, Bounded, Aliased):
        return INPUT
    if annotation is Checked:
        return st.builds(Checked, low=st.integers(0, 5), high=st.integers(5, 9))
    return st.from_type(type(None) if annotation is None else annotation)


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_admission_agrees_with_pydantic(annotation: Any, data: st.DataObject) -> None:
    value = data.draw(INPUT | _own(annotation))
    contract, freezer = contract_of(annotation), Freezer()
    try:
        oracle = pydantic.TypeAdapter(annotation).validate_python(value)
        accepted = True
    except pydantic.ValidationError:
        accepted = False
    try:
        admitted = thaw(contract.admit(value, freezer))
    except ContractViolated as error:
        assert not accepted, str(error)
        assert len(str(error).splitlines()) <= 25
        return
    assert accepted
    assert type(admitted) is type(oracle)
    # By hash, which tells 1 from True and finds NaN equal to itself.
    assert content_hash(freezer.freeze(admitted)) == content_hash(freezer.freeze(oracle))


INSTANCES: list[tuple[Any, Any, str]] = [
    (Lax, Lax(count=1), "count"),
    (Strict, Strict(count=1, name="a"), "count"),
    (Aliased, Aliased(second=1), "first"),
    (Extra, Extra(a=1, more=[2]), "a"),
    (OwnInit, OwnInit("5"), "value"),
    (Node, Node(value=1, children=[Node(value=2)]), "value"),
    (Box[int], Box[int](item=3), "item"),
    (Data, Data(1, [2]), "x"),
    (Partial, Partial(4), "stored"),
    (Checked, Checked(low=1, high=2), "low"),
    (Root, Root([1]), "root"),
]


@pytest.mark.parametrize(("annotation", "value", "field"), INSTANCES, ids=lambda v: str(v)[:30])
@pytest.mark.parametrize("wrap", ["", "list", "dict"])
def test_valid_instances_pass_unchanged_and_changed_ones_are_refused(
    annotation: Any, value: Any, field: str, wrap: str
) -> None:
    declared: Any = {"": annotation, "list": list[annotation], "dict": dict[str, annotation]}[wrap]
    place: Any = {"": lambda x: x, "list": lambda x: [x], "dict": lambda x: {"k": x}}[wrap]
    contract, freezer = contract_of(declared), Freezer()
    frozen = contract.admit(place(value), freezer)
    assert thaw(frozen) == place(value)
    assert content_hash(frozen) == content_hash(freezer.freeze(place(value)))
    broken = copy.deepcopy(value)
    object.__setattr__(broken, field, object())
    with pytest.raises(ContractViolated):
        contract.admit(place(broken), freezer)


def test_private_attributes_and_late_fields_survive_checking() -> None:
    extra = Extra(a=1)
    extra._note.append(5)
    assert thaw(contract_of(Extra).admit(extra, Freezer()))._note == [5]
    partial = Partial(4)
    partial.late = 9
    assert thaw(contract_of(Partial).admit(partial, Freezer())).late == 9
    partial.late = "no"  # type: ignore[assignment]
    with pytest.raises(ContractViolated, match="late"):
        contract_of(Partial).admit(partial, Freezer())


def test_instances_of_subclasses_stay_what_they_are_and_are_checked_as_such() -> None:
    contract = contract_of(list[Lax])

    class More(Lax):
        note: int = 1

    value = [More(count=2, note=3)]
    admitted = thaw(contract.admit(value, Freezer()))
    assert type(admitted[0]) is More
    assert admitted == value
    with pytest.raises(ContractViolated) as caught:
        contract.admit([More.model_construct(count=2, note="x")], Freezer())
    assert caught.value.problems[0][0] == "$[0].note"


def test_the_validated_value_is_what_is_stored() -> None:
    assert thaw(contract_of(Lax).admit({"count": "5"}, Freezer())) == Lax(count=5)
    assert contract_of(int).admit("5", Freezer()) == 5
    assert contract_of(float).admit(5, Freezer()) == 5.0
    assert contract_of(bool | None).admit(None, Freezer()) is None


def test_a_validator_runs_once_a_value() -> None:
    runs: list[int] = []

    class Counted(BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def _count(cls, value: int) -> int:
            runs.append(value)
            return value

    contract = contract_of(Counted)
    contract.admit({"n": 1}, Freezer())
    contract.admit(Counted.model_construct(n=2), Freezer())
    assert runs == [1, 2]


PATHS: list[tuple[Any, Any, list[str]]] = [
    (Lax, {"count": "x"}, ["$.count"]),
    (Lax, {"names": ["a", 3]}, ["$.names[1]"]),
    (Strict, {"count": 1}, ["$.name"]),
    (Inside, {"lax": {}, "table": {"k": {"count": "q"}}}, ["$.table.k.count"]),
    (Owner, {"pet": {"kind": "cat", "lives": "q"}}, ["$.pet.lives"]),
    (Owner, {"pet": {"kind": "cow"}}, ["$.pet"]),
    (
        Owner,
        {"pet": {"kind": "cat", "lives": 1}, "other": {"kind": "cat", "lives": "q"}},
        ["$.other.lives", "$.other.kind", "$.other.tricks"],
    ),
    (dict[str, int | bool], {"a": []}, ["$.a", "$.a"]),
    (list[int | str], [1, []], ["$[1]", "$[1]"]),
    (Node, {"value": 1, "children": [{"value": 1, "children": [{}]}]},
     ["$.children[0].children[0].value"]),
    (dict[int, int], {"x": 1}, ["$.x(key)"]),
    (Pair, (1, 2), ["$[1]"]),
    (Data, Data("q"), ["$.x"]),  # type: ignore[arg-type]
    (Extra, Extra.model_construct(a="q"), ["$.a"]),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "paths"), PATHS, ids=lambda v: str(v)[:40])
def test_paths_lead_through_the_value(annotation: Any, value: Any, paths: list[str]) -> None:
    with pytest.raises(ContractViolated) as caught:
        contract_of(annotation).admit(value, Freezer())
    assert [problem[0] for problem in caught.value.problems] == paths
    assert caught.value.node is None
    assert caught.value.field is None


CANARY = "canary-8f2c"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, CANARY),
        (Strict, {"count": CANARY, "name": [CANARY], CANARY: 1}),
        (Owner, {"pet": {"kind": CANARY}}),
        (Checked, {"low": 5, "high": 1}),
        (Bounded, {"n": CANARY, "s": CANARY, "d": CANARY}),
        (datetime.datetime, CANARY),
        (pydantic.HttpUrl, f"http://[{CANARY}"),
        (uuid.UUID, CANARY),
        (pydantic.Json[int], CANARY),
        (Colour, CANARY),
        (Literal["a"], CANARY),
        (list[int], {CANARY: 1}),
        (dict[str, int], {CANARY + " !": "x"}),
    ],
    ids=str,
)
def test_no_error_echoes_a_value(annotation: Any, value: Any) -> None:
    with pytest.raises(ContractViolated) as caught:
        contract_of(annotation).admit(value, Freezer())
    error = caught.value
    told = f"{error} {error.rejected} {error.problems} {error!r}"
    assert CANARY not in told.replace(f".{CANARY}", "")
    assert "secret-canary" not in told


def test_what_was_rejected_is_kept_as_its_shape() -> None:
    with pytest.raises(ContractViolated) as caught:
        contract_of(Strict).admit({"name": "four", "age": None}, Freezer())
    assert caught.value.rejected == "{'name': <str len 4>, 'age': <NoneType>}"


def test_a_thousand_faults_make_a_short_message() -> None:
    with pytest.raises(ContractViolated) as caught:
        contract_of(list[int]).admit(["x"] * 1000, Freezer())
    assert len(caught.value.problems) == 1000
    assert len(str(caught.value).splitlines()) <= 25


def test_a_validator_that_crashes_is_a_contract_error_without_its_text() -> None:
    class Crashing(BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def _crash(cls, value: int) -> int:
            raise RuntimeError(CANARY)

    with pytest.raises(ContractError) as caught:
        contract_of(Crashing).admit({"n": 1}, Freezer())
    assert caught.value.code == "contract.validator"
    assert "RuntimeError" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_types_that_pydantic_does_not_know_are_checked_by_instance() -> None:
    freezer = Freezer()
    array = np.arange(3.0)
    assert np.array_equal(thaw(contract_of(np.ndarray).admit(array, freezer)), array)
    assert np.array_equal(thaw(contract_of(list[np.ndarray]).admit([array], freezer))[0], array)
    assert thaw(contract_of(Shape).admit(Shape([1]), freezer)) == Shape([1])
    assert thaw(contract_of(Attr | None).admit(Attr("a"), freezer)) == Attr("a")
    for annotation in (np.ndarray, Shape, Attr):
        with pytest.raises(ContractViolated):
            contract_of(annotation).admit({"sides": [1]}, freezer)


def test_adapters_serve_declared_types() -> None:
    class Money:
        def __init__(self, cents: int) -> None:
            self.cents = cents

    freezer = Freezer([Adapter(Money, lambda value: value.cents, Money)])
    assert thaw(contract_of(Money).admit(Money(5), freezer)).cents == 5
    with pytest.raises(ValueRefused):
        contract_of(Money).admit(Money(5), Freezer())


def test_handles_in_any_are_refused_with_their_path() -> None:
    with pytest.raises(ValueRefused) as caught:
        contract_of(dict[str, Any]).admit({"db": threading.Lock()}, Freezer())
    assert caught.value.field == "$.db"


def test_a_type_that_cannot_be_checked_is_a_build_error() -> None:
    with pytest.raises(BuildError) as caught:
        contract_of(list["Nowhere"])  # type: ignore[name-defined]  # noqa: F821
    assert caught.value.code == "contract.unsupported"


@pytest.mark.parametrize("levels", [100, 10_000])
def test_recursive_models_end_in_an_error_or_a_value_and_never_in_a_crash(levels: int) -> None:
    value: Any = {"value": 1}
    for _ in range(levels):
        value = {"value": 1, "children": [value]}
    contract = contract_of(Node)
    with pytest.raises(ContractError):
        contract.admit(value, Freezer(depth_max=90))
    while value:
        value = value.get("children", [None])[0]


def test_hashes_tell_structures_apart() -> None:
    class Same(BaseModel):
        count: int
        name: str

    hashes = [contract_of(annotation).hash for annotation in ANNOTATIONS]
    assert len(set(hashes)) == len(hashes)
    low, high = Annotated[int, Field(gt=3)], Annotated[int, Field(gt=4)]
    assert contract_of(low).hash != contract_of(high).hash
    assert contract_of(int | str).hash != contract_of(str | int).hash
    assert contract_of(Lax).hash == contract_of(Lax).hash
    assert contract_of(Same).hash != contract_of(Strict).hash


def test_hashes_are_equal_in_processes_with_other_hash_seeds() -> None:
    code = (
        "from stageflow.contracts import contract_of; from typing import *;"
        "from pydantic import BaseModel, Field, AfterValidator; import enum\n"
        "def check(v): return v\n"
        "class E(enum.Enum): A = 1\n"
        "class M(BaseModel):\n"
        "    a: Annotated[int, Field(gt=1), AfterValidator(check)]; b: set[str] | None = None\n"
        "    c: Literal['x', 'y'] = 'x'; e: E = E.A\n"
        "print(contract_of(dict[str, M]).hash)"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (list[str], "list[str]"),
        (int | None, "int | None"),
        (dict[str, Lax], "dict[str, Lax]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Annotated[int, Field(gt=1)], "int"),
        (Any, "Any"),
        (Box[int], "Box[int]"),
        (None, "None"),
    ],
)
def test_types_are_described_shortly(annotation: Any, name: str) -> None:
    assert contract_of(annotation).describe() == name


def test_a_contract_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        contract_of(int).hash = "x"


def test_plain_contracts_load_neither_pydantic_nor_msgspec_nor_numpy() -> None:
    code = (
        "import sys; from stageflow.contracts import contract_of;"
        "from stageflow.model.values import Freezer;"
        "contract_of(int | None).admit(3, Freezer());"
        "contract_of(dict).admit({'a': [1]}, Freezer());"
        "sys.exit(len({'pydantic', 'msgspec', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_types_of_built_in_ones_have_one_contract_each_and_no_others() -> None:
    for annotation in (int, list[int], dict[str, Any], tuple[list[int], ...]):
        assert contract_of(annotation) is contract_of(annotation)
    for fresh in (
        lambda: int | str,
        lambda: list[int | str],
        lambda: Annotated[int, Field(gt=1)],
        lambda: list[Annotated[int, Field(gt=1)]],
        lambda: Literal[1],
        lambda: Strict,
        lambda: list[Strict],
    ):
        assert contract_of(fresh()) is not contract_of(fresh())
    assert contract_of(list[int | str]).describe() == "list[int | str]"
    assert contract_of(list[str | int]).describe() == "list[str | int]"


@pytest.mark.parametrize(
    ("annotation", "mend"),
    [
        ([int], "write list[int]"),
        ((int, str), "write tuple[int, str]"),
        ({str: int}, "write dict[str, int]"),
        (list[[int]], "write list[int]"),  # type: ignore[misc]
        (Annotated[list[[int]], 1], "write list[int]"),  # type: ignore[misc]
        ({}, "write the type"),
        ({"a": int}, "write the type"),
        (5, "write the type"),
        (..., "write the type"),
        (list[...], "write the type"),  # type: ignore[misc]
    ],
)
def test_what_is_no_type_is_refused_each_time(annotation: Any, mend: str) -> None:
    for _ in range(2):
        with pytest.raises(BuildError, match=r"contract\.unsupported") as raised:
            contract_of(annotation)
        assert raised.value.fix == mend


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (tuple[int, ...], (1, 2)),
        (Literal[5, b"a"], 5),
        (tuple[()], ()),
        (Annotated[int, [1], {}, ...], 1),
        (list[Literal[1]], [1]),
    ],
)
def test_what_is_written_inside_types_is_no_such_thing(annotation: Any, value: Any) -> None:
    contract = contract_of(annotation)
    assert thaw(contract.admit(value, Freezer())) == value
