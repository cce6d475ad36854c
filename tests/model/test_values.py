"""Freezing and viewing: what comes back equals what went in, and shares nothing mutable with it."""

import asyncio
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import pickle
import subprocess
import sys
import threading
import uuid
import zoneinfo
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow.model.errors import ValueRefused
from stageflow.model.values import (
    Adapter,
    Freezer,
    Frozen,
    content_hash,
    is_frozen_leaf,
    thaw,
)


class Point(NamedTuple):
    x: int
    y: Any


@dataclasses.dataclass
class Plain:
    name: str
    tags: list[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    name: str
    inner: Plain


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    name: str = "m"
    items: list[int] = []
    _note: str = pydantic.PrivateAttr("n")


class Shape(msgspec.Struct, frozen=True):
    name: str
    sides: list[int]


@attrs.define
class Attr:
    name: str
    inner: dict[str, int]


class Colour(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


VALUES: list[Any] = [
    None,
    True,
    7,
    10**400,
    1.5,
    -0.0,
    2 + 3j,
    "text",
    "\ud800",
    b"bytes",
    decimal.Decimal("1.10"),
    datetime.datetime(2024, 2, 3, 4, 5, 6, 7, fold=1),
    datetime.datetime(2024, 2, 3, tzinfo=datetime.UTC),
    datetime.datetime(2024, 2, 3, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
    datetime.date(2024, 2, 3),
    datetime.time(4, 5),
    datetime.timedelta(days=1, microseconds=3),
    Colour.RED,
    Access.READ | Access.WRITE,
    range(3),
    ...,
    (1, (2, "x")),
    frozenset({1, "a"}),
    Point(1, 2),
    Point(1, [2]),
    (1, [2]),
    [],
    {},
    [1, [2, {"a": [3]}]],
    {"a": {"b": {}}, 3: (1, []), (1, 2): None},
    {Slotted("k", Plain("p", [])).name: 1},
    set(),
    {1, 2},
    {pathlib.PurePosixPath("a/b")},
    frozenset({uuid.UUID(int=5)}),
    bytearray(b"xy"),
    array("d", [1.0, 2.0]),
    deque([1, [2]], maxlen=5),
    OrderedDict(a=1, b=[2]),
    Counter("hello"),
    defaultdict(list, {"a": [1]}),
    Plain("p", ["a"]),
    Slotted("s", Plain("p", ["a"])),
    Model(items=[1], more={"x": 1}),
    Shape("s", [1, 2]),
    Attr("a", {"x": 1}),
    uuid.UUID(int=9),
    fractions.Fraction(1, 3),
    pathlib.PurePosixPath("a/b"),
    pathlib.Path("c"),
    ipaddress.ip_address("10.0.0.1"),
    pydantic.SecretStr("hidden"),
    pydantic.TypeAdapter(pydantic.HttpUrl).validate_python("http://a.example/x"),
    pydantic.TypeAdapter(datetime.datetime).validate_python("2020-01-01T00:00:00+01:00"),
    np.float64(1.5),
    np.datetime64("2024-01-01"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_view_equals_the_original_and_has_its_exact_type(value: Any) -> None:
    frozen = Freezer().freeze(value)
    view = thaw(frozen)
    assert type(view) is type(value)
    assert view == value
    assert content_hash(frozen) == content_hash(Freezer().freeze(view))
    assert is_frozen_leaf(value) == (type(frozen) is not Frozen)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_two_views_share_no_mutable_object(value: Any) -> None:
    frozen = Freezer().freeze([value])
    for other in (thaw(frozen)[0], value):
        view = thaw(frozen)[0]
        is_shared = type(Freezer().freeze(value)) is not Frozen or isinstance(value, enum.Enum)
        assert (view is other) == is_shared


def test_models_keep_extra_private_and_set_fields_without_running_code() -> None:
    model = Model(items=[1], more=[2])
    model._note = "changed"
    view = thaw(Freezer().freeze(model))
    assert view._note == "changed"
    assert view.model_fields_set == {"items", "more"}
    assert view.__pydantic_extra__ == {"more": [2]}
    assert view.__pydantic_extra__["more"] is not model.__pydantic_extra__["more"]


def test_rebuilding_runs_no_code_of_the_class() -> None:
    runs: list[str] = []

    @dataclasses.dataclass
    class Loud:
        items: list[int]

        def __post_init__(self) -> None:
            runs.append("init")

    class LoudStruct(msgspec.Struct):
        items: list[int]

        def __post_init__(self) -> None:
            runs.append("struct")

    frozen = Freezer().freeze([Loud([1]), LoudStruct([2])])
    runs.clear()
    first, second = thaw(frozen)
    assert (first.items, second.items, runs) == ([1], [2], [])


def test_a_slot_that_was_never_set_stays_unset() -> None:
    value = object.__new__(Slotted)
    object.__setattr__(value, "name", "only")
    view = thaw(Freezer().freeze(value))
    assert view.name == "only"
    assert not hasattr(view, "inner")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">i4", "U3", "M8[ns]", "c16", "?", "S2"])
def test_arrays_keep_dtype_shape_and_order_and_lie_in_memory_of_their_own(
    dtype: str, order: Any
) -> None:
    value = np.zeros((2, 3), dtype, order=order)
    frozen = Freezer().freeze(value)
    value[0, 0] = 1
    view = thaw(frozen)
    assert view.dtype == value.dtype
    assert view.shape == value.shape
    assert view.flags.f_contiguous == value.flags.f_contiguous
    assert not np.array_equal(view, value)
    assert view.flags.owndata
    assert not np.shares_memory(view, thaw(frozen))
    view[...] = value
    assert not np.array_equal(thaw(frozen), value)


def test_record_arrays_keep_their_field_names_when_a_view_renames_them() -> None:
    value = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    frozen = Freezer().freeze(value)
    before = content_hash(frozen)
    thaw(frozen).dtype.names = ("x", "y")
    value.dtype.names = ("p", "q")
    assert thaw(frozen).dtype.names == ("a", "b")
    assert content_hash(frozen) == before


@pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
def test_arrays_without_items_or_axes_come_back(shape: tuple[int, ...]) -> None:
    value = np.zeros(shape)
    view = thaw(Freezer().freeze(value))
    assert view.shape == shape
    assert view.dtype == value.dtype


async def _coroutine() -> None: ...


class Handle:
    pass


class Text(str):
    pass


def _refusals() -> list[tuple[Any, str]]:
    return [
        (threading.Lock(), "deps"),
        (Handle(), "deps"),
        ((x for x in [1]), "list(value)"),
        (lambda: 1, "deps"),
        (Handle, "class's name"),
        (memoryview(b"x"), "bytes(value)"),
        (sys, "deps"),
        (Text("x"), "str(value)"),
        (np.array([object()], dtype=object), "tolist"),
        (np.zeros(1, [("a", "i4")])[0], "Adapter"),
        (ValueError("x"), "deps"),
        (sys.stdout, "deps"),
        (asyncio.Queue(), "deps"),
        (defaultdict(lambda: 1), "dict(value)"),
        (datetime.datetime(2024, 1, 1, tzinfo=type("Z", (datetime.tzinfo,), {})()), "deps"),
    ]


@pytest.mark.parametrize("place", range(len(_refusals())))
def test_what_cannot_be_kept_is_refused_with_its_path_and_a_mend(place: int) -> None:
    value, hint = _refusals()[place]
    with pytest.raises(ValueRefused) as caught:
        Freezer().freeze({"items": [1, 2, {"handle": value}]})
    error = caught.value
    assert error.code == "value.refused"
    assert error.field is not None
    assert error.field.startswith("$.items[2].handle")
    assert hint in (error.fix or "")


def test_a_coroutine_is_refused() -> None:
    running = _coroutine()
    with pytest.raises(ValueRefused, match="coroutine"):
        Freezer().freeze(running)
    running.close()


def test_the_path_leads_through_objects_keys_and_private_attributes() -> None:
    model = Model()
    model._note = threading.Lock()  # type: ignore[assignment]
    cases: list[tuple[Any, str]] = [
        (Slotted("a", Plain("b", [Handle()])), "$.inner.tags[0]"),  # type: ignore[list-item]
        (model, "$._note"),
        ({7: Handle()}, "$[7]"),
        ({"secret token!": Handle()}, "$[<str>]"),
        (Point(1, (2, Handle())), "$[1][1]"),
        (Shape("s", [Handle()]), "$.sides[0]"),  # type: ignore[list-item]
    ]
    for value, path in cases:
        with pytest.raises(ValueRefused) as caught:
            Freezer().freeze(value)
        assert caught.value.field == path


def test_cycles_are_refused_where_they_close() -> None:
    ring: dict[str, Any] = {"a": [1]}
    ring["a"].append(ring)
    with pytest.raises(ValueRefused) as caught:
        Freezer().freeze(ring)
    assert (caught.value.code, caught.value.field) == ("value.cycle", "$.a[1]")


@pytest.mark.parametrize("levels", [201, 100_000])
def test_deep_values_are_refused_and_never_exhaust_the_stack(levels: int) -> None:
    value: Any = []
    for _ in range(levels):
        value = [value]
    with pytest.raises(ValueRefused) as caught:
        Freezer().freeze(value)
    assert caught.value.code == "value.too_deep"
    with pytest.raises(ValueRefused):
        Freezer(depth_max=10**9).freeze(value) if levels > 1000 else Freezer().freeze(value)
    while value:
        value = value.pop()


def test_the_deepest_value_allowed_comes_back() -> None:
    value: Any = {}
    for _ in range(99):
        value = {"a": [value]}
    frozen = Freezer().freeze(value)
    assert thaw(frozen) == value
    content_hash(frozen)


@pytest.mark.parametrize("wrap", [lambda x: [x, x], lambda x: (x, x), lambda x: {"a": x, "b": x}])
def test_values_that_share_references_cost_linear_time(wrap: Any) -> None:
    value: Any = wrap(1)
    for _ in range(150):
        value = wrap(value)
    frozen = Freezer().freeze(value)
    content_hash(frozen)
    view = thaw(frozen)
    for _ in range(150):
        first, second = view.values() if isinstance(view, dict) else view
        assert first is second
        view = first


def test_aliasing_inside_one_value_is_kept_as_deepcopy_keeps_it() -> None:
    shared = [1]
    view = thaw(Freezer().freeze({"a": shared, "b": shared, "c": [1]}))
    view["a"].append(2)
    assert view == {"a": [1, 2], "b": [1, 2], "c": [1]}


def test_an_adapter_teaches_a_type() -> None:
    freezer = Freezer([Adapter(Handle, vars, _handle)])
    value = _handle({"x": [1]})
    frozen = freezer.freeze({"h": value})
    value.__dict__["x"].append(2)
    view = thaw(frozen)["h"]
    assert type(view) is Handle
    assert vars(view) == {"x": [1]}


def _handle(plain: dict[str, Any]) -> Handle:
    value = Handle()
    value.__dict__.update(plain)
    return value


def test_a_box_cannot_be_pickled_and_copies_to_itself() -> None:
    frozen = Freezer().freeze([1])
    assert copy.deepcopy(frozen) is frozen
    assert "1" not in repr(frozen)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(frozen)


def test_freezing_a_box_again_gives_the_box() -> None:
    freezer = Freezer()
    frozen = freezer.freeze([1])
    assert freezer.freeze(frozen) is frozen
    assert thaw(freezer.freeze({"a": frozen})) == {"a": [1]}


def test_a_freezer_forgets_classes_that_are_made_without_end() -> None:
    freezer = Freezer([Adapter(Handle, vars, _handle)])
    for number in range(5000):
        cls = dataclasses.make_dataclass(f"C{number}", ["x"])
        freezer.freeze(cls([1]))
    assert len(freezer._kinds) <= 4097
    assert type(thaw(freezer.freeze(_handle({})))) is Handle


def test_importing_values_loads_neither_pydantic_nor_msgspec_nor_numpy() -> None:
    code = (
        "import sys, stageflow.model.values as v; v.thaw(v.Freezer().freeze({'v': [1]}));"
        "sys.exit(len({'pydantic', 'msgspec', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.datetimes()
)
TREE = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.lists(inner).map(tuple)
        | st.builds(Plain, st.text(), st.lists(inner))
        | st.builds(Point, st.integers(), inner)
    ),
    max_leaves=20,
)


@given(TREE)
def test_any_tree_comes_back_equal_with_an_equal_hash(value: Any) -> None:
    freezer = Freezer()
    frozen = freezer.freeze(value)
    view = thaw(frozen)
    assert view == value
    assert content_hash(freezer.freeze(view)) == content_hash(frozen)
    assert content_hash(freezer.freeze(copy.deepcopy(value))) == content_hash(frozen)
