"""Once frozen, no reference held by anybody can change a value (CORE-008).

Each mutator attacks an object it can reach: the caller's original, or a view. Whether it raises or
works, the content hash and every later view stay what they were.
"""

import contextlib
import copy
import ctypes
import dataclasses
import datetime
import enum
import operator
import pickle
import threading
import types
import uuid
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pydantic
import pytest

from stageflow.model.bag import OutputBag
from stageflow.model.errors import ValueRefused
from stageflow.model.identity import Identity
from stageflow.model.snapshot import ContextSnapshot
from stageflow.model.values import Freezer, content_hash, thaw


@dataclasses.dataclass(frozen=True)
class Cold:
    name: str
    items: list[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    name: str
    inner: Cold


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    name: str
    nested: dict[str, list[int]]


class Shape(msgspec.Struct, frozen=True):
    name: str
    sides: list[int]


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    left: int
    right: list[int]


def _values() -> list[Any]:
    return [
        {"a": [1, {"b": [2]}], "t": ([1], 2)},
        [1, "x", [2]],
        {1, 2},
        {Cold("key", ()): 1, "k": 2},  # type: ignore[arg-type]
        {(1, 2): [Cold("n", [1])]},
        Cold("n", [1]),
        Slotted("n", Cold("m", [1])),
        Model(name="n", nested={"a": [1]}),
        Shape("n", [1]),
        Pair(1, [2]),
        bytearray(b"abc"),
        array("i", [1, 2]),
        deque([1, [2]]),
        OrderedDict(a=[1]),
        Counter("ab"),
        defaultdict(list, a=[1]),
        np.arange(6.0).reshape(2, 3),
        np.zeros(2, [("a", "i4")]),
        uuid.UUID(int=1),
        Fraction(1, 3),
        PurePosixPath("a/b"),
        (1, (2, "x")),
        frozenset({Cold("n", ())}),  # type: ignore[arg-type]
    ]


def _set_everything(value: Any) -> None:
    for name in (*getattr(value, "__dict__", {}), *_slots(value), "added"):
        with contextlib.suppress(Exception):
            object.__setattr__(value, name, "changed")


def _slots(value: Any) -> list[str]:
    return [
        name
        for base in type(value).__mro__
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    ]


def _set_by_member(value: Any) -> None:
    for base in type(value).__mro__:
        for member in vars(base).values():
            if isinstance(member, types.MemberDescriptorType):
                with contextlib.suppress(Exception):
                    member.__set__(value, "changed")


def _into_dict(value: Any) -> None:
    value.__dict__.update(dict.fromkeys(value.__dict__, "changed"))


def _swap_dict(value: Any) -> None:
    object.__setattr__(value, "__dict__", {"name": "changed"})


def _set_state(value: Any) -> None:
    value.__setstate__({"name": "changed", "__dict__": {"name": "changed"}})


def _rerun_init(value: Any) -> None:
    value.__init__(*["changed"] * 2)


def _through_pickle(value: Any) -> None:
    other = pickle.loads(pickle.dumps(value))
    _set_everything(other)
    _clear(other)


def _through_reduce(value: Any) -> None:
    # Not the first part: the function of a module is everybody's, and no view of a value.
    for part in value.__reduce_ex__(4)[1:]:
        for mutate in (_clear, _set_everything):
            with contextlib.suppress(Exception):
                mutate(part)


def _through_copy(value: Any) -> None:
    other = copy.copy(value)
    for inner in list(_inside(other))[1:]:
        with contextlib.suppress(Exception):
            _clear(inner)


def _clear(value: Any) -> None:
    value.clear()


def _overwrite_buffer(value: Any) -> None:
    with memoryview(value) as view:
        view.cast("B")[0] = 99


def _by_ctypes(value: Any) -> None:
    (ctypes.c_char * len(value)).from_buffer(value)[0] = b"z"


def _unlock_array(value: Any) -> None:
    value.setflags(write=True)
    value[...] = 7


def _write_base(value: Any) -> None:
    value.base[0] = 7


def _reinterpret(value: Any) -> None:
    value.dtype = "u1"


def _rename(value: Any) -> None:
    value.dtype.names = ("z",)


def _item(value: Any) -> None:
    for key in list(value):
        value[key] = "changed"


MUTATORS: list[Callable[[Any], Any]] = [
    _set_everything,
    _set_by_member,
    _into_dict,
    _swap_dict,
    _set_state,
    _rerun_init,
    _through_pickle,
    _through_reduce,
    _through_copy,
    _clear,
    _overwrite_buffer,
    _by_ctypes,
    _unlock_array,
    _write_base,
    _reinterpret,
    _rename,
    _item,
    lambda value: operator.setitem(value, 0, "changed"),
    lambda value: operator.delitem(value, 0),
    lambda value: operator.iadd(value, value),
    lambda value: operator.imul(value, 2),
    lambda value: operator.ior(value, {9: 9}),
    lambda value: operator.ior(value, {9}),
    lambda value: operator.iand(value, {9}),
    lambda value: operator.ixor(value, {9}),
    lambda value: operator.isub(value, {1}),
    lambda value: operator.iadd(value, 1),
    lambda value: value.append(9),
    lambda value: value.extend([9]),
    lambda value: value.insert(0, 9),
    lambda value: value.pop(),
    lambda value: value.popitem(),
    lambda value: value.popleft(),
    lambda value: value.rotate(1),
    lambda value: value.reverse(),
    lambda value: value.sort(),
    lambda value: value.add(9),
    lambda value: value.update({9: 9}),
    lambda value: value.setdefault("new", 9),
    lambda value: value.move_to_end(next(iter(value)), last=False),
    lambda value: value.subtract("ab"),
    lambda value: value["missing"],
    lambda value: value.resize((1,), refcheck=False),
    lambda value: value.byteswap(inplace=True),
    lambda value: value.byteswap(),
    # Writes into read-only arrays too, as of NumPy 2.4.
    lambda value: np.add.at(value, 0, 1) if type(value) is np.ndarray else None,
    lambda value: delattr(value, "name"),
    lambda value: object.__delattr__(value, "name"),
    lambda value: setattr(value, "__class__", Model),
    lambda value: object.__setattr__(value, "__class__", Cold),
    lambda value: value.model_fields_set.clear(),
    lambda value: list.append(value, 9),
    dict.clear,
    set.clear,
]


def _inside(value: Any) -> Iterator[Any]:
    """Everything that can be reached from a value by ordinary means."""
    stack, seen = [value], set()
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, (str, int, type, enum.Enum)):
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset, deque)):
            stack += list(item)
        elif isinstance(item, np.ndarray):
            stack.append(item.base)
        stack += [getattr(item, name, None) for name in _slots(item)]
        stack += list(getattr(item, "__dict__", {}).values())


@pytest.mark.parametrize("place", range(len(_values())))
def test_no_mutator_changes_what_was_frozen(place: int) -> None:
    for mutate in MUTATORS:
        original = _values()[place]
        frozen = Freezer().freeze(original)
        before, shown = content_hash(frozen), repr(thaw(frozen))
        for victim in (original, thaw(frozen)):
            for item in list(_inside(victim)):
                with contextlib.suppress(Exception):
                    mutate(item)
        assert content_hash(frozen) == before
        assert repr(thaw(frozen)) == shown


def test_every_mutator_changes_at_least_one_unfrozen_value() -> None:
    """Otherwise a mutator would prove nothing. Repr shows the changes, type swaps included."""
    idle = []
    for number, mutate in enumerate(MUTATORS):
        changed = False
        for value in _values():
            before = _shown(value)
            for item in list(_inside(value)):
                with contextlib.suppress(Exception):
                    mutate(item)
            changed = changed or _shown(value) != before
        if not changed:
            idle.append(number)
    names = {getattr(MUTATORS[number], "__name__", "") for number in idle}
    # These work on copies or on memory that is never writable; they are here to find new holes.
    assert names <= {"_through_pickle", "_write_base", "_set_state", "<lambda>"}
    assert len(MUTATORS) - len(idle) >= 40


def _shown(value: Any) -> str:
    try:
        return repr(value) + repr(getattr(value, "__dict__", "")) + _set_fields(value)
    except Exception:
        return "broken"


def _set_fields(value: Any) -> str:
    return repr(getattr(value, "model_fields_set", ""))


def test_readers_see_whole_views_while_the_original_and_views_are_mutated() -> None:
    """1 freeze, 2 a writer changes the original, 3 readers change their views, 4 all compare."""
    original: dict[str, Any] = {"rows": [{"n": n, "tags": ["t"] * 5} for n in range(20)]}
    frozen = Freezer().freeze(original)
    expected = copy.deepcopy(original)
    torn: list[Any] = []

    def write() -> None:
        for _ in range(200):
            original["rows"].append({"n": -1})
            original["rows"].pop(0)

    def read() -> None:
        for _ in range(20):
            view = thaw(frozen)
            if view != expected:
                torn.append(view)
            view["rows"][0]["tags"].clear()

    threads = [threading.Thread(target=write), *(threading.Thread(target=read) for _ in range(64))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torn == []
    assert thaw(frozen) == expected


def test_freezing_while_another_thread_changes_the_value_keeps_one_moment_of_each_container() -> (
    None
):
    value: dict[str, Any] = {"a": 1}
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            value[f"k{turn % 50}"] = [turn]
            value.pop(f"k{(turn + 25) % 50}", None)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(300):
            view = thaw(Freezer().freeze(value))
            assert all(type(item) in (int, list) for item in view.values())
    finally:
        stop.set()
        thread.join()


def test_an_enum_member_is_held_by_class_and_name_whatever_is_done_to_the_member() -> None:
    """A member is one object for the whole program, so views share it; what is held does not."""
    frozen = Freezer().freeze([Colour.RED])
    before = content_hash(frozen)
    try:
        object.__setattr__(Colour.RED, "_value_", 2)
        object.__setattr__(Colour.RED, "_name_", "BLUE")
        object.__setattr__(Colour.RED, "__class__", Cold)
        assert content_hash(frozen) == before
    finally:
        object.__setattr__(Colour.RED, "__class__", Colour)
        object.__setattr__(Colour.RED, "_value_", 1)
        object.__setattr__(Colour.RED, "_name_", "RED")
    assert thaw(frozen) == [Colour.RED]


class _Hours(datetime.timedelta):
    """Carries state that can be changed, and shows it."""

    note = 0

    def __repr__(self) -> str:
        return f"Hours({self.note})"


class _Word(str):
    """A name with state of its own."""


def test_a_zone_made_of_a_subclass_of_timedelta_is_refused_since_it_hands_that_object_out() -> None:
    zone = datetime.timezone(_Hours(hours=1))
    with pytest.raises(ValueRefused) as refused:
        Freezer().freeze({"at": [datetime.datetime(2024, 1, 1, tzinfo=zone)]})
    assert refused.value.field == "$.at[0].tzinfo"


def test_an_attribute_named_by_a_subclass_of_str_is_refused_since_views_would_share_the_name() -> (
    None
):
    value = Cold("n", [])
    value.__dict__[_Word("added")] = 1
    with pytest.raises(ValueRefused) as refused:
        Freezer().freeze([value])
    assert refused.value.field == "$[0][<attribute name>]"


class _Elsewhere(Identity):
    __slots__ = ()


def test_no_reference_to_an_identity_moves_a_run_to_another_tenant() -> None:
    """Every view is a copy: not even its class, which Python lets anybody exchange, is shared."""
    snapshot = ContextSnapshot(
        identity=Identity("r", "ours"), inputs={}, names={}, bag=OutputBag(0), version=0
    )
    view = snapshot.identity
    with pytest.raises(AttributeError):
        object.__setattr__(view, "tenant", "theirs")
    object.__setattr__(view, "__class__", _Elsewhere)
    assert type(snapshot.identity) is Identity
    assert snapshot.identity == ("r", "ours", None, None, None)


class Point(NamedTuple):
    x: int
    y: int


class _OtherPoint(Point):
    __slots__ = ()


def test_exchanging_the_class_of_a_named_tuple_of_leaves_changes_only_that_view() -> None:
    original = Point(1, 2)
    frozen = Freezer().freeze([original])
    for victim in (original, thaw(frozen)[0]):
        object.__setattr__(victim, "__class__", _OtherPoint)
    assert type(thaw(frozen)[0]) is Point
