"""Payloads changed in one place, the ways in which real producers get outputs wrong.

A mutation need not make a payload invalid: whether it did is for pydantic to say.
"""

from __future__ import annotations

import copy
import datetime
import enum
import math
import random
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

CANARY: Final = "canary-"
"""Begins every text that a type swap puts in: what of it turns up elsewhere was leaked."""

Place = tuple[Any, Any]
"""A dict or list, and the key or index in it."""


_MOMENTS: Final = (datetime.datetime, datetime.date, datetime.time)


def mutated(payload: Any, kind: str, rng: random.Random) -> list[Any] | None:
    """`[copy]` of the payload with one mutation, or None when there is no place for it.

    Tuples and sets count as one value, as do instances.
    """
    holder = [copy.deepcopy(payload)]
    wants, change = MUTATIONS[kind]
    places = [place for place in _places(holder) if wants(place)]
    if not places:
        return None
    change(rng.choice(places), rng)
    return holder


def _places(container: Any) -> Iterator[Place]:
    keys = list(container) if isinstance(container, dict) else range(len(container))
    for key in keys:
        yield container, key
        if isinstance(container[key], (dict, list)):
            yield from _places(container[key])


def _value(place: Place) -> Any:
    return place[0][place[1]]


def _put(place: Place, value: Any) -> None:
    place[0][place[1]] = value


def _is(*types: type) -> Callable[[Place], bool]:
    return lambda place: type(_value(place)) in types


def _anything(place: Place) -> bool:
    return True


def _swap(place: Place, rng: random.Random) -> None:
    canary = f"{CANARY}{rng.getrandbits(32):08x}"
    other: tuple[Any, ...] = (
        canary,
        canary,
        canary,
        rng.randint(-9, 9),
        rng.random() * 100,
        [],
        {},
        ["x", 1],
        {"first": None},
        b"\x00",
        (1, 2),
        datetime.date(2024, 2, 29),
        Decimal("1.5"),
        object,
    )
    _put(place, rng.choice([value for value in other if type(value) is not type(_value(place))]))


def _null(place: Place, rng: random.Random) -> None:
    _put(place, None)


def _extra(place: Place, rng: random.Random) -> None:
    _value(place)[rng.choice(("surplus", "kind_", "Value", "id"))] = rng.choice((1, "x", None))


def _missing(place: Place, rng: random.Random) -> None:
    del _value(place)[rng.choice(list(_value(place)))]


def _bound(place: Place, rng: random.Random) -> None:
    value = _value(place)
    if isinstance(value, (int, float, Decimal)):
        step: Any = type(value)(rng.choice((1, -1, 50, -50, 10**9, -(10**9), 10**30)))
        _put(place, value + step if math.isfinite(value) else step)
    elif isinstance(value, (str, bytes)):
        _put(place, rng.choice((value[:0], value[:1], value * 9, value.upper())))
    elif isinstance(value, list):
        _put(place, rng.choice(([], value * 4)))
    elif isinstance(value, datetime.datetime):
        zone = None if value.tzinfo else datetime.UTC
        _put(place, rng.choice((value.replace(year=1960), value.replace(tzinfo=zone))))


def _nan(place: Place, rng: random.Random) -> None:
    _put(place, rng.choice((math.nan, math.inf, -math.inf, Decimal("NaN"), Decimal("Infinity"))))


def _boolean(place: Place, rng: random.Random) -> None:
    _put(place, rng.random() < 0.5)


def _surrogate(place: Place, rng: random.Random) -> None:
    value = _value(place)
    at = rng.randint(0, len(value))
    _put(place, value[:at] + rng.choice(("\ud800", "\udfff")) + value[at:])


def _spelling(place: Place, rng: random.Random) -> None:
    value = _value(place)
    if isinstance(value, (datetime.date, datetime.time)):
        _put(place, value.isoformat())
    elif isinstance(value, enum.Enum):
        _put(place, value.value)
    else:
        _put(place, str(value))


MUTATIONS: Final[
    dict[str, tuple[Callable[[Place], bool], Callable[[Place, random.Random], None]]]
] = {
    "type_swap": (_anything, _swap),
    "null": (_anything, _null),
    "extra": (_is(dict), _extra),
    "missing": (lambda place: type(_value(place)) is dict and bool(_value(place)), _missing),
    "bound": (_is(int, float, Decimal, str, bytes, list, datetime.datetime), _bound),
    "nan": (_is(int, float, Decimal), _nan),
    "bool_for_int": (_is(int), _boolean),
    "lone_surrogate": (_is(str), _surrogate),
    "spelling": (_is(int, float, Decimal, bool, uuid.UUID, *_MOMENTS), _spelling),
}
"""By name: the places it fits, and the change there."""
