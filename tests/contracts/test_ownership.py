"""Values that are kept as the validator made them: nothing of them is anybody else's.

Each case is admitted through its contract, and the same value is frozen as a whole beside it: both
must have one hash, one view and one encoding, whichever way they were kept.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    create_model,
)
from typing_extensions import TypedDict

from stageflow.contracts import contract_of
from stageflow.contracts.contract import Contract
from stageflow.contracts.validation import Validator
from stageflow.model import boxes
from stageflow.model.errors import ValueRefused
from stageflow.model.freezing import LEAVES
from stageflow.model.values import Freezer, Frozen, content_hash, thaw

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Note(BaseModel):
    text: str
    marks: list[int] = []
    more: dict[str, int] = Field(default_factory=dict)
    when: datetime.datetime | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str = ""


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    toys: list[str] = []


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    colour: Colour = Colour.RED


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    other: Cat | Dog | None = None
    notes: tuple[Note, ...] = ()
    by_name: dict[str, list[Note]] = {}


class Box(BaseModel, Generic[T]):
    item: T
    loose: Any = None


class Names(RootModel[list[str]]):
    pass


class Tree(BaseModel):
    value: int
    below: list[Tree] = []


class Secretive(BaseModel):
    a: int = 1
    _seen: list[int] = PrivateAttr(default_factory=list)


class Keyed(TypedDict):
    note: Note
    tags: set[str]


class Either(BaseModel):
    when: datetime.datetime | Colour
    what: tuple[Colour, datetime.date] | int = 0
    dates: list[datetime.date] = []
    spans: tuple[datetime.timedelta, ...] = ()
    at: dict[str, datetime.time | None] = {}
    ids: tuple[uuid.UUID, int] | None = None
    owner: Note | Cat | list[Note] | set[int] | frozenset[str] | uuid.UUID | str = ""
    words: list[datetime.date | str] = []
    pet: Colour | Annotated[Cat | Dog, Field(discriminator="kind")] = Colour.RED


class Node(BaseModel):
    value: Note | Cat
    other: Note | None = None
    pair: tuple[Cat | Dog, Cat | Dog]


@dataclasses.dataclass
class Plain:
    ids: list[uuid.UUID]
    price: Decimal


class Roomy(BaseModel):
    model_config = ConfigDict(extra="allow")
    plain: Plain
    keyed: Keyed | None = None


class Odd(BaseModel):
    default: list[int] = [1, 2]
    even: Annotated[list[int], AfterValidator(lambda value: value)] = []
    zoned: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    raw: bytes = b""


NOTE = Note(text="a", marks=[1], more={"x": 1}, when=datetime.datetime(2026, 1, 1))
UUID = uuid.UUID(int=7)
CASES: list[tuple[Any, Any]] = [
    (Note, NOTE),
    (Note, {"text": "a"}),
    (list[Note], [NOTE, NOTE]),
    (dict[str, Note], {"a": NOTE}),
    (Note | None, NOTE),
    (Open, Open.model_validate({"name": "a", "list": [1], "leaf": 2})),
    (Owner, Owner(pet=Cat(toys=["ball"]), other=Dog(), notes=(NOTE,), by_name={"a": [NOTE]})),
    (Owner, {"pet": {"kind": "dog"}}),
    (Box[Note], Box[Note](item=NOTE, loose=[[1], {"a": 2}])),
    (Box[uuid.UUID], Box[uuid.UUID](item=UUID)),
    (Names, Names(["a"])),
    (Tree, Tree(value=1, below=[Tree(value=2)])),
    (Secretive, Secretive()),
    (Keyed, {"note": NOTE, "tags": {"a"}}),
    (Plain, Plain(ids=[UUID], price=Decimal("1.50"))),
    (Either, Either(when=Colour.RED, what=(Colour.RED, datetime.date(2026, 1, 1)))),
    (
        Either,
        {
            "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
            "dates": [datetime.date(2026, 1, 1)],
            "spans": [datetime.timedelta(1)],
            "at": {"a": datetime.time(1), "b": None},
            "ids": (UUID, 1),
            "owner": [{"text": "a"}, NOTE],
            "words": [datetime.date(2026, 1, 1), "a"],
            "pet": {"kind": "cat"},
        },
    ),
    *[
        (Either, {"when": Colour.RED, "owner": owner})
        for owner in (NOTE, Cat(), {"text": "a"}, {1}, frozenset({"a"}), UUID, "a")
    ],
    (
        Node,
        {"value": {"text": "a"}, "pair": [{"kind": "cat"}, {"kind": "dog"}]},
    ),
    (Roomy, {"plain": {"ids": [UUID], "price": "1", "more": [1], "leaf": 2}}),
    (
        Roomy,
        {
            "plain": {"ids": [], "price": "1"},
            "keyed": {"note": {"text": "a"}, "tags": ["a"], "more": [[1]], "leaf": 2},
        },
    ),
    (Odd, Odd(even=[2])),
    (Odd, {}),
    (list[Colour], [Colour.RED, Colour.RED]),
    (tuple[Colour, int], (Colour.RED, 1)),
    (frozenset[str], frozenset({"a"})),
    (dict[str, int], {"a": 1}),
    (list[list[int]], [[1], [2]]),
    (tuple[list[int], str], ([1], "a")),
    (set[int], {1}),
    (Decimal, Decimal(1)),
    (datetime.datetime, datetime.datetime(2026, 1, 1)),
]


def is_kept_whole(frozen: Any) -> bool:
    return type(frozen) is Frozen and frozen[0] is boxes.owned


def changeable(value: Any) -> Iterator[int]:
    """Ids of the objects reachable from `value` that somebody could write to."""
    todo, seen = [value], set()
    while todo:
        each = todo.pop()
        if type(each) in LEAVES or isinstance(each, (enum.Enum, type)) or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            todo += [*each, *each.values()]
        elif isinstance(each, (list, tuple, set, frozenset)):
            todo += each
        todo += getattr(each, "__dict__", {}).values()
        for name in ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"):
            todo.append(getattr(each, name, None))
        if not isinstance(each, (tuple, frozenset, datetime.datetime, datetime.time)):
            yield id(each)


@pytest.mark.parametrize(("annotation", "value"), CASES, ids=lambda item: str(item)[:40])
def test_it_is_kept_as_freezing_would_have_kept_it(annotation: Any, value: Any) -> None:
    contract, freezer = contract_of(annotation), Freezer()
    frozen, whole = contract.admit(value, freezer), freezer.freeze(Validator(annotation)(value))
    assert content_hash(frozen) == content_hash(whole)
    view = thaw(frozen)
    assert view == thaw(whole) and type(view) is type(thaw(whole))
    assert content_hash(freezer.freeze(view)) == content_hash(frozen)
    assert content_hash(contract.decode(contract.encode(frozen))) == content_hash(frozen)


@pytest.mark.parametrize(("annotation", "value"), CASES, ids=lambda item: str(item)[:40])
def test_nothing_that_can_be_changed_has_two_holders(annotation: Any, value: Any) -> None:
    frozen = contract_of(annotation).admit(value, Freezer())
    given = list(changeable(value))
    kept = list(changeable(frozen[1][1])) if is_kept_whole(frozen) else []
    views = [thaw(frozen), thaw(frozen)]
    holders = [given, kept, *(list(changeable(view)) for view in views)]
    assert sum(map(len, holders)) == len(set().union(*holders))


def test_models_are_kept_whole_and_what_can_not_be_is_frozen() -> None:
    def kept(annotation: Any, value: Any) -> bool:
        return is_kept_whole(contract_of(annotation).admit(value, Freezer()))

    assert kept(Note, NOTE) and kept(Owner, {"pet": {"kind": "cat"}}) and kept(Odd, {"raw": b"x"})
    assert not kept(Tree, Tree(value=1)) and not kept(Secretive, Secretive())
    assert not kept(dict[str, int], {"a": 1})  # flat: a plain box, and its copy in C


def test_setting_a_field_of_the_given_instance_changes_nothing() -> None:
    note = Note(text="a")
    frozen = contract_of(Note).admit(note, Freezer())
    before = content_hash(frozen)
    note.marks = [9]  # adds "marks" to the set of fields that were given
    view = thaw(frozen)
    view.more = {"y": 2}
    assert content_hash(frozen) == before
    assert thaw(frozen).model_fields_set == {"text"}


def test_extra_fields_set_on_a_view_are_seen_by_nobody_else() -> None:
    frozen = contract_of(Open).admit({"name": "a"}, Freezer())
    view = thaw(frozen)
    view.more = 1
    assert thaw(frozen).model_extra == {}


def test_a_subclass_made_later_is_still_seen() -> None:
    class Base(BaseModel):
        a: int = 1

    contract = contract_of(Base)
    assert is_kept_whole(contract.admit(Base(), Freezer()))

    class Later(Base):
        b: list[int] = Field(default_factory=list)

    assert thaw(contract.admit(Later(b=[1]), Freezer())) == Later(b=[1])


def test_a_refusal_inside_a_kept_value_names_the_whole_path() -> None:
    with pytest.raises(ValueRefused) as caught:
        contract_of(Box[Note]).admit(Box[Note](item=NOTE, loose=[iter(())]), Freezer())
    assert ".loose[0]" in str(caught.value)


def test_a_validator_runs_once_for_each_output() -> None:
    calls: list[int] = []

    def counted(value: int) -> int:
        calls.append(value)
        return value

    contract: Contract = contract_of(list[Annotated[int, AfterValidator(counted)]])
    contract.admit([1, 2], Freezer())
    assert calls == [1, 2]


def test_a_dict_with_instances_in_it_is_kept_like_any_other() -> None:
    frozen = contract_of(Owner).admit({"pet": {"kind": "dog"}, "notes": (NOTE,)}, Freezer())
    NOTE.model_fields_set.discard("when")
    try:
        assert thaw(frozen).notes[0].model_fields_set == {"text", "marks", "more", "when"}
    finally:
        NOTE.model_fields_set.add("when")


def test_values_nest_deeper_than_one_function_may() -> None:
    annotation: Any = datetime.date
    value: Any = datetime.date(2026, 1, 1)
    for _ in range(40):
        annotation, value = list[annotation | None], [value, None]
    contract = contract_of(annotation)
    assert thaw(contract.admit(value, Freezer())) == value

    class Late(datetime.date):
        """A subclass, which is refused wherever it stands."""

    late: Any = Late(2026, 1, 1)
    for _ in range(40):
        late = [late]
    with pytest.raises(ValueRefused, match="Late"):
        contract.admit(late, Freezer())


def test_a_class_that_occurs_often_is_settled_by_one_function() -> None:
    class Pair(BaseModel):
        left: Note
        right: Note

    Quad = create_model("Quad", left=(Pair, ...), right=(Pair, ...))
    given = Quad.model_validate({side: {"left": NOTE, "right": NOTE} for side in ("left", "right")})
    frozen = contract_of(Quad).admit(given, Freezer())
    NOTE.model_fields_set.discard("when")
    try:
        assert all(
            note.model_fields_set == {"text", "marks", "more", "when"}
            for pair in (thaw(frozen).left, thaw(frozen).right)
            for note in (pair.left, pair.right)
        )
    finally:
        NOTE.model_fields_set.add("when")
