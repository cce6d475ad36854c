"""Large values as streams of chunks: equal hashes, small steps, no damaged byte that decodes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from stageflow.contracts import contract_of
from stageflow.contracts.chunks import ChunkReader, ChunkWriter
from stageflow.contracts.contract import Contract
from stageflow.contracts.joining import Joiner
from stageflow.contracts.splitting import TARGET_MIN, Splitter
from stageflow.model.errors import ContractError, ValueRefused
from stageflow.model.values import Freezer, content_hash

BIG = 10**10_000


class Page(BaseModel):
    text: str
    marks: list[int] = []


class Book(BaseModel):
    title: str
    pages: list[Page]
    index: dict[str, Page]
    raw: bytes = b""


@dataclasses.dataclass
class Shelf:
    books: dict[int, Book]
    note: str = ""


def messages(contract: Contract, value: Any) -> list[bytes]:
    frozen = contract.admit(value, Freezer())
    return list(Splitter().messages(frozen, contract.place))


def joined(contract: Contract, parts: Iterable[bytes]) -> Any:
    joiner = Joiner(contract.place, Freezer(), msgspec.msgpack.decode)
    for each in parts:
        joiner.feed(each)
    assert joiner.is_whole
    return joiner.value


def pages(count: int) -> list[Page]:
    return [Page(text=f"page {number} " * 20, marks=[number] * 5) for number in range(count)]


def values() -> Iterator[tuple[str, Any, Any]]:
    rng = random.Random(7)
    yield "nothing", Any, None
    yield "text", str, "ä" * 300_000
    yield "bytes", bytes, rng.randbytes(300_000)
    yield "surrogates", Any, {"odd": "\ud800" * 200_000, "pair": ["\udc00x"] * 5_000}
    yield "huge integers", Any, [BIG + number for number in range(200)]
    yield "floats", Any, [float("nan"), float("inf"), -0.0, 0.1] * 20_000
    yield "many keys", Any, {f"key {number}": number for number in range(60_000)}
    yield "integers as keys", Any, {number: str(number) for number in range(60_000)}
    yield "nested", Any, {"a": [{"b": ["x" * 1_000] * 200, "c": number} for number in range(9)]}
    yield "one large among small", Any, ["x", "y" * 500_000, "z", {"k": b"q" * 400_000}] * 3
    yield "large under odd keys", Any, {1: "x" * 99_000, ("t", 1): ["y" * 50_000] * 3, None: 1}
    yield "tuples and sets", Any, {"t": tuple(range(50_000)), "s": set(range(20_000)), "e": ()}
    yield "empty things", Any, {"a": [], "b": {}, "c": "", "d": ["x" * 90_000, [], {}]}
    yield "models", list[Page], pages(2_000)
    yield (
        "a large model",
        Book,
        Book(
            title="t" * 100_000,
            pages=pages(800),
            index={str(n): p for n, p in enumerate(pages(500))},
            raw=b"r" * 200_000,
        ),
    )
    yield (
        "a dataclass",
        Shelf,
        Shelf({1: Book(title="t", pages=pages(500), index={})}, "n" * 90_000),
    )
    yield "either", Page | Book | str, Page(text="p" * 200_000)


CASES = [pytest.param(annotation, value, id=name) for name, annotation, value in values()]


@pytest.mark.parametrize(("annotation", "value"), CASES)
def test_what_comes_back_has_the_same_hash(annotation: Any, value: Any) -> None:
    contract = contract_of(annotation)
    frozen = contract.admit(value, Freezer())
    back = joined(contract, messages(contract, value))
    assert content_hash(back) == content_hash(frozen)
    assert contract.encode(back) == contract.encode(frozen)


@pytest.mark.parametrize(
    "name", ["text", "bytes", "many keys", "nested", "models", "a large model"]
)
def test_no_message_is_large(name: str) -> None:
    annotation, value = next((a, v) for n, a, v in values() if n == name)
    sizes = [len(each) for each in messages(contract_of(annotation), value)]
    assert max(sizes) < 4 * TARGET_MIN
    assert len(sizes) < 20 + 10 * sum(sizes) // TARGET_MIN, "nor are there many small ones"


def test_an_object_that_occurs_twice_stays_one() -> None:
    shared = ["x" * 1_000]
    contract = contract_of(Any)
    frozen = Freezer().freeze({"a": [shared] * 50, "b": shared})
    back = joined(contract, Splitter().messages(frozen, contract.place))
    assert contract.encode(back) == contract.encode(frozen)


def test_what_could_not_come_back_is_refused_with_its_path() -> None:
    contract = contract_of(Any)
    frozen = Freezer().freeze({"deep": [{"n": 1}] * 3_000 + [{"page": Page(text="x")}]})
    with pytest.raises(ValueRefused) as refused:
        list(Splitter().messages(frozen, contract.place))
    assert refused.value.code == "codec.undecodable"
    assert "page" in str(refused.value.field) and "[3000]" in str(refused.value.field)


def stream(bodies: list[bytes]) -> bytes:
    writer = ChunkWriter()
    return b"".join([writer.begin(), *map(writer.chunk, bodies), writer.end()])


def read(data: bytes, step: int) -> list[bytes]:
    reader = ChunkReader()
    found = []
    for at in range(0, len(data), step):
        found += reader.feed(data[at : at + step])
    reader.end()
    return found


BODIES = [b"a" * 1_000, b"", random.Random(1).randbytes(500), b"the same", b"the same"]


@pytest.mark.parametrize("step", [1, 7, 4_096])
def test_chunks_come_back_however_they_are_cut(step: int) -> None:
    assert read(stream(BODIES), step) == BODIES


def test_every_changed_byte_and_every_cut_is_found() -> None:
    whole = stream(BODIES)
    for at in range(len(whole)):
        for bits in (1, 0x80):
            changed = bytearray(whole)
            changed[at] ^= bits
            with pytest.raises(ContractError) as refused:
                read(bytes(changed), 4_096)
            assert refused.value.code == "codec.damaged"
        with pytest.raises(ContractError):
            read(whole[:at], 4_096)
    with pytest.raises(ContractError):
        read(whole + b"\0", 4_096)


def test_chunks_that_change_places_are_found() -> None:
    writer = ChunkWriter()
    first, *middle, last = [writer.begin(), *map(writer.chunk, BODIES), writer.end()]
    for order in (middle[::-1], middle[1:], [*middle, middle[-1]]):
        with pytest.raises(ContractError):
            read(b"".join([first, *order, last]), 4_096)
