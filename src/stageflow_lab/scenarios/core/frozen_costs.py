"""What immutability costs: reading a view against a plain dict, freezing against copy.deepcopy."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from stageflow import Pipeline, Run, Runtime, transform

from ...history import History
from ...ratio import timed_pairs
from ...world import World
from .frozen_families import ADAPTERS, FAMILIES, draw

_REPEATS: Final = 25
_FLOOR_LEAVES: Final = 60_000
"""Leaves read per measurement: some milliseconds, far above the clock's resolution."""
_FREEZINGS: Final = 200
"""Values frozen per measurement and family."""


def _flat() -> dict[str, Any]:
    return {f"key_{n}": n for n in range(1_000)}


def _records() -> dict[str, Any]:
    return {f"row_{n}": {f"field_{k}": n * k for k in range(10)} for n in range(100)}


def _settings() -> dict[str, Any]:
    def level(depth: int) -> dict[str, Any]:
        leaves: dict[str, Any] = {f"option_{n}": n for n in range(8)}
        return leaves if depth == 0 else leaves | {f"part_{n}": level(depth - 1) for n in range(2)}

    return level(5)


_SHAPES: Final[Mapping[str, Callable[[], dict[str, Any]]]] = MappingProxyType(
    {"flat": _flat, "records": _records, "settings": _settings}
)


def time_reads(world: World, history: History) -> None:
    """A consumer gets its view from the snapshot and reads every leaf once, by key."""
    values = {name: make() for name, make in _SHAPES.items()}
    run = asyncio.run(_held(values))
    for name in values:
        leaves = _read(values[name])
        times = max(1, _FLOOR_LEAVES // leaves)
        _time(
            history,
            f"read {name}",
            partial(_from_snapshot, run, name, times),
            partial(_from_plain, values, name, times),
        )
    _time(
        history,
        "one key",
        lambda: [run.snapshot["flat"]["key_500"] for _ in range(2_000)],
        lambda: [values["flat"]["key_500"] for _ in range(2_000)],
    )


def time_freezing(world: World, history: History) -> None:
    """Values of each family, frozen and deep-copied."""
    rows = draw(20, world.seed_for("costs"), world.scratch)
    freeze = Runtime(adapters=ADAPTERS).freezer.freeze
    for family, values in zip(FAMILIES, zip(*rows, strict=True), strict=True):
        rounds = _FREEZINGS // len(values)
        _time(
            history,
            f"freeze {family}",
            partial(_each, freeze, values, rounds),
            partial(_each, copy.deepcopy, values, rounds),
        )


def bait(rows: int, seed: int, home: Path) -> list[bytes]:
    """Pickled values of every family: each loading gives objects of its own, which nothing froze.

    Not copy.deepcopy, which hands out UUIDs, Fractions and paths themselves.
    """
    return [pickle.dumps(value) for row in draw(rows, seed, home) for value in row]


async def _held(values: Mapping[str, Any]) -> Run[Any]:
    def holder(name: str) -> Any:
        @transform(name=name)
        def held() -> Any:
            return values[name]

        return held

    return await Pipeline("shelf", [holder(name) for name in values]).run()


def _from_snapshot(run: Run[Any], name: str, times: int) -> None:
    snapshot = run.snapshot
    for _ in range(times):
        _read(snapshot[name])


def _from_plain(values: Mapping[str, Any], name: str, times: int) -> None:
    for _ in range(times):
        _read(values[name])


def _read(tree: dict[str, Any]) -> int:
    """Reads every leaf by its key; how many there are."""
    leaves = 0
    for key in tree:
        value = tree[key]
        leaves += _read(value) if type(value) is dict else 1
    return leaves


def _each(work: Callable[[Any], object], values: Sequence[Any], rounds: int) -> None:
    for _ in range(rounds):
        for value in values:
            work(value)


def _time(
    history: History, what: str, subject: Callable[[], object], floor: Callable[[], object]
) -> None:
    pairs = timed_pairs(subject, floor, repeats=_REPEATS)
    for subject_s, floor_s in pairs:
        history.record("timed", what=what, subject_s=subject_s, floor_s=floor_s)
