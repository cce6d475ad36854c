"""Pipelines wired wrongly in one place, each with its rightly wired twin.

A case says the producer's type, the consumer's, and which type the consumer should have had; or it
spells a stage's name wrongly. Only surely wrong wirings are made: what could fit may be wired.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import GenericAlias
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, create_model
from typing_extensions import TypedDict

from stageflow import BuildError, Pipeline, Stage, transform

from .generated_models import Colour

T = TypeVar("T")

_TYPED_DICT: Final[Any] = TypedDict
"""Called with names that are known at run time only."""

_PRODUCERS: Final = tuple("draft evidence invoice ledger profile quote ticket verdict".split())
_CONSUMERS: Final = tuple("archive audit brief grade publish reply review settle".split())
_FIELDS: Final = tuple("amount author city kind line note sender total".split())
_SCALARS: Final[tuple[type, ...]] = (int, str, bytes, Decimal, list, Colour)


class Crate(BaseModel, Generic[T]):
    """A generic model."""

    item: T


@dataclass(frozen=True, slots=True)
class Miswiring:
    """One wrong wiring."""

    number: int
    kind: str
    producer: str
    consumer: str
    field: str
    """The consumer's parameter."""
    given: Any
    """The producer's type."""
    asked: Any
    """The consumer's type in the wrong pipeline."""
    spelled: str
    """The producer's name as the consumer writes it; right unless the kind is "name" or "bound"."""


@dataclass(frozen=True, slots=True)
class Built:
    """How building one pipeline ended."""

    refused: bool
    code: str
    names_both: bool
    """The error's text holds both stages' names and the consumer's field."""
    ran: int
    """Bodies that ran."""


def miswiring(number: int, seed: int) -> Miswiring:
    """The wrong wiring of that number; equal for equal seeds."""
    rng = random.Random(seed)
    kind = tuple(_KINDS)[number % len(_KINDS)]
    producer, consumer = rng.choice(_PRODUCERS), rng.choice(_CONSUMERS)
    given, asked = _KINDS[kind](rng, number)
    spelled = producer if kind not in ("name", "bound") else _misspelt(rng, producer)
    field = spelled if kind == "name" else rng.choice(_FIELDS)
    return Miswiring(number, kind, producer, consumer, field, given, asked, spelled)


def build(case: Miswiring, *, rightly: bool) -> Built:
    """Build the wrong pipeline, or its right twin."""
    ran: list[str] = []
    name = case.producer if rightly else case.spelled
    asked = case.given if rightly else case.asked
    try:
        Pipeline(
            f"case{case.number}",
            [_producer(case, ran), _bystander(ran), _consumer(case, name, asked, ran)],
            inputs={"text": str},
        )
    except BuildError as error:
        text = str(error)
        named = all(
            f"{part!r}" in text or f": {part}\n" in text
            for part in (case.producer, case.consumer, case.field)
        )
        return Built(True, error.code, named, len(ran))
    return Built(False, "", False, len(ran))


def _producer(case: Miswiring, ran: list[str]) -> Stage[..., Any]:
    async def produce(text: str) -> Any:
        ran.append(text)

    produce.__annotations__["return"] = case.given
    made: Stage[..., Any] = transform(produce, name=case.producer)
    return made


def _bystander(ran: list[str]) -> Stage[..., Any]:
    async def summary(text: str) -> str:
        ran.append(text)
        return text

    return transform(summary)


def _consumer(case: Miswiring, name: str, asked: Any, ran: list[str]) -> Stage[..., Any]:
    """The consumer, its parameter bound to `name` or, for a misspelt parameter, called so."""
    parameter = name if case.kind == "name" else case.field
    body = _taking(parameter, asked, ran)
    made: Stage[..., Any] = transform(body, name=case.consumer)
    return made if parameter == name else made.named(bind={parameter: name})


def _taking(parameter: str, annotation: Any, ran: list[str]) -> Any:
    """A stage's body with one parameter, as a user would have written it."""

    async def body(**taken: Any) -> None:
        ran.extend(taken)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    body.__annotations__ = {parameter: annotation}
    body.__signature__ = inspect.Signature([inspect.Parameter(parameter, kind)])  # type: ignore[attr-defined]
    return body


def _misspelt(rng: random.Random, name: str) -> str:
    at = rng.randrange(1, len(name) - 1)
    return rng.choice(
        (
            name[:at] + name[at + 1 :],
            name[:at] + name[at] + name[at:],
            name[:at] + "z" + name[at + 1 :],
        )
    )


def _model(rng: random.Random, number: int, suffix: str) -> type[BaseModel]:
    fields: dict[str, Any] = {
        name: (rng.choice((int, str, float)), ...) for name in rng.sample(_FIELDS, 3)
    }
    made: type[BaseModel] = create_model(f"Case{number}{suffix}", __module__=__name__, **fields)
    return made


def _models(rng: random.Random, number: int) -> tuple[Any, Any]:
    return _model(rng, number, "Given"), _model(rng, number, "Asked")


def _scalars(rng: random.Random, number: int) -> tuple[Any, Any]:
    first, second = rng.sample(_SCALARS, 2)
    return first, second


def _optional(rng: random.Random, number: int) -> tuple[Any, Any]:
    model = _model(rng, number, "Given")
    return model | None, model


def _within(container: Any) -> Callable[[random.Random, int], tuple[Any, Any]]:
    def types(rng: random.Random, number: int) -> tuple[Any, Any]:
        given, asked = rng.choice((_models, _scalars))(rng, number)
        return container(given), container(asked)

    return types


def _typed_dict(rng: random.Random, number: int) -> tuple[Any, Any]:
    keys = rng.sample(_FIELDS, 3)
    given = _TYPED_DICT(f"Case{number}Given", dict.fromkeys(keys[:2], int))
    return given, _TYPED_DICT(f"Case{number}Asked", dict.fromkeys(keys, int))


def _literal(rng: random.Random, number: int) -> tuple[Any, Any]:
    first, second, third = rng.sample(_FIELDS, 3)
    literal: Any = Literal
    return literal[first, second], literal[second, third]


def _lengths(rng: random.Random, number: int) -> tuple[Any, Any]:
    return tuple[int, str, int], tuple[int, str]


def _same(rng: random.Random, number: int) -> tuple[Any, Any]:
    model = _model(rng, number, "Given")
    return model, model


_KINDS: Final[Mapping[str, Callable[[random.Random, int], tuple[Any, Any]]]] = {
    "models": _models,
    "scalars": _scalars,
    "optional": _optional,
    "list": _within(lambda inner: GenericAlias(list, inner)),
    "dict": _within(lambda inner: GenericAlias(dict, (str, inner))),
    "generic": _within(Crate.__class_getitem__),
    "typed_dict": _typed_dict,
    "literal": _literal,
    "lengths": _lengths,
    "name": _same,
    "bound": _same,
}
"""By name: the types given and asked."""
