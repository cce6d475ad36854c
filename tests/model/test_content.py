"""The content hash tells apart what Python's equality mixes up, and depends on nothing else."""

import dataclasses
import datetime
import decimal
import enum
import subprocess
import sys
import unicodedata
import zoneinfo
from typing import Any

import numpy as np
import pytest

from stageflow.model.values import Freezer, content_hash


class Number(enum.IntEnum):
    ONE = 1


class Digit(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class A:
    x: int = 1


@dataclasses.dataclass
class B:
    x: int = 1


def _hash(value: Any) -> str:
    return content_hash(Freezer().freeze(value))


GROUPS: list[list[Any]] = [
    [1, True, 1.0, "1", b"1", decimal.Decimal(1), 1 + 0j, Number.ONE, Digit.ONE, np.int64(1)],
    [0.0, -0.0, 0, False, None, "", b"", [], {}, (), set(), frozenset(), bytearray()],
    [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}, [("a", 1), ("b", 2)]],
    [unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")],
    [[1, 2], (1, 2), [[1], 2], [1, [2]], [[1, 2]], [12], {1, 2}, frozenset({1, 2})],
    [["ab", "c"], ["a", "bc"], ["abc"], "abc"],
    [decimal.Decimal("1.0"), decimal.Decimal("1.00"), decimal.Decimal("NaN")],
    [
        datetime.datetime(2024, 10, 27, 2, 30),
        datetime.datetime(2024, 10, 27, 2, 30, fold=1),
        datetime.datetime(2024, 10, 27, 2, 30, tzinfo=datetime.UTC),
        datetime.datetime(2024, 10, 27, 2, 30, tzinfo=zoneinfo.ZoneInfo("UTC")),
        datetime.datetime(2024, 10, 27, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
    ],
    [A(), B(), {"x": 1}, A(2)],
    [
        np.zeros(2, "<f4"),
        np.zeros(2, ">f4"),
        np.zeros(2, "<f8"),
        np.zeros((1, 2), "<f4"),
        np.zeros((2, 1), "<f4"),
        bytes(8),
    ],
    [10**30, -(10**30), 10**30 + 1, 2**64, 2**63, str(10**30)],
    ["\ud800", "\udc00", b"\xed\xa0\x80"],
    [{1: "a"}, {True: "a"}, {1.0: "a"}, {"1": "a"}],
]


@pytest.mark.parametrize("group", GROUPS, ids=range(len(GROUPS)))
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"k": (x, [x])}])
def test_different_values_have_different_hashes(group: list[Any], wrap: Any) -> None:
    hashes = [_hash(wrap(value)) for value in group]
    assert len(set(hashes)) == len(group)


def test_aliased_and_separate_items_hash_alike() -> None:
    shared = [1, [2]]
    assert _hash([shared, shared]) == _hash([[1, [2]], [1, [2]]])


def test_sets_hash_by_content_and_not_by_the_order_they_iterate_in() -> None:
    assert _hash({8, 0, 16, "a"}) == _hash({"a", 16, 8, 0})
    assert _hash(frozenset({8, 0})) == _hash(frozenset([0, 8]))


def test_an_enum_member_hashes_by_name_also_when_its_attributes_were_overwritten() -> None:
    before = _hash([Number.ONE])
    Number.ONE._name_ = "TWO"
    try:
        assert _hash([Number.ONE]) == before
    finally:
        Number.ONE._name_ = "ONE"


def test_the_hash_is_equal_in_processes_with_other_hash_seeds() -> None:
    code = (
        "from stageflow.model.values import *; import uuid, pathlib;"
        "print(content_hash(Freezer().freeze({'a': {'x', 'y', 'z', 1.5},"
        " 'b': frozenset(['p', 'q']), 'c': [uuid.UUID(int=1), pathlib.PurePosixPath('a')]})))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64
