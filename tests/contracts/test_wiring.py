"""Wiring refuses what surely does not fit and names both types; doubt passes."""

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Protocol

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from stageflow.contracts import assignable, why_not_assignable


class Animal(BaseModel):
    name: str


class Dog(Animal):
    tricks: int = 0


class Plant(BaseModel):
    height: float


class Colour(enum.Enum):
    RED = 1


class Speaks(Protocol):
    def speak(self) -> str: ...


class Small(TypedDict):
    a: int


class Large(TypedDict):
    a: int
    b: str


UserId = NewType("UserId", int)

FITS: list[tuple[Any, Any]] = [
    (int, int),
    (int, Any),
    (Any, int),
    (int, float),
    (bool, int),
    (int, int | None),
    (int | None, int | str | None),
    (Dog, Animal),
    (Animal, Dog),
    (list[Dog], list[Animal]),
    (list[int], Sequence[int]),
    (list[int], Iterable[float]),
    (tuple[int, ...], Sequence[int]),
    (tuple[int, str], tuple[int, str]),
    (list, list[int]),
    (list[int], list),
    (dict[str, int], Mapping[str, int]),
    (Small, dict),
    (dict, Small),
    (Large, Small),
    (Literal["a"], Literal["a", "b"]),
    (Literal["a"], str),
    (str, Literal["a"]),
    (Colour, Colour),
    (UserId, int),
    (int, UserId),
    (Annotated[int, Field(gt=1)], int),
    (Dog, Speaks),
]

MISFITS: list[tuple[Any, Any]] = [
    (int, str),
    (str, int),
    (float, int | str),
    (int | None, int),
    (None, int),
    (Animal, Plant),
    (Plant, dict),
    (list[int], list[str]),
    (list[Plant], Sequence[Animal]),
    (list[int], dict[str, int]),
    (dict[str, int], dict[str, str]),
    (dict[int, int], dict[str, int]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int, str], tuple[int, str, int]),
    (tuple[int, str], Sequence[int]),
    (Literal["a", "c"], Literal["a", "b"]),
    (Literal[1], Literal[True]),
    (int, Literal["a"]),
    (Colour, int),
    (Small, Large),
    (str, list[str]),
    (bytes, str),
    (list[int | None], list[int]),
]


@pytest.mark.parametrize(("source", "target"), FITS, ids=str)
def test_what_may_fit_is_wired(source: Any, target: Any) -> None:
    assert assignable(source, target)
    assert why_not_assignable(source, target) == ""


@pytest.mark.parametrize(("source", "target"), MISFITS, ids=str)
def test_what_surely_does_not_fit_is_refused_with_a_reason(source: Any, target: Any) -> None:
    assert not assignable(source, target)
    assert why_not_assignable(source, target)


def test_the_reason_names_both_types_and_what_differs_inside() -> None:
    reason = why_not_assignable(list[int], list[str])
    assert reason == "list[int] is not list[str]: int is not str"
    assert why_not_assignable(int | None, int) == "int | None may give None: None is not int"


class Tree(BaseModel):
    children: list["Tree"]


def test_recursive_types_are_compared_in_finite_time() -> None:
    assert assignable(Tree, Tree)
    assert assignable(list[list[list[Tree]]], list[list[list[Tree]]])
