"""Several values as one stream of chunks, each step of writing and reading a bounded piece of work.

A value begins with [BEGIN, label, contract hash]; the messages of `splitting` follow. A chunk holds
as many messages as make it worth packing, each after its length in four bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final

from stageflow.contracts.chunks import ChunkReader, ChunkWriter
from stageflow.contracts.contract import Contract
from stageflow.contracts.joining import Joiner
from stageflow.contracts.splitting import ITEM, VALUE, Splitter
from stageflow.model.errors import ContractError, ValueRefused
from stageflow.model.refusal import attribute_step, key_step, type_label
from stageflow.model.values import Freezer

BEGIN: Final = 5
_LENGTH: Final = 4
_WRITTEN_WHILE_PACKED: Final = 2
"""How much cost of writing takes no longer than packing one byte of text."""

Labelled = tuple[Any, Contract, Any]
"""A label of plain data, the contract, and the canonical value."""


def chunks(values: Iterable[Labelled], *, bytes_max: int) -> Iterator[bytes]:
    """The chunks of one stream, some of them empty; `bytes_max` bounds it before it is packed.

    Raises ValueRefused `codec.undecodable` for what could not come back, `codec.too_large`.
    """
    import msgspec  # when first needed: importing the framework stays light

    writer, splitter = ChunkWriter(), Splitter()
    waiting: list[bytes] = []
    size = before = spent = turn = 0
    rest = iter(values)
    head = next(rest, None)  # finding the first value is no work of the first message's
    yield writer.begin()
    for label, contract, frozen in chain(() if head is None else (head,), rest):
        begins = msgspec.msgpack.encode([BEGIN, label, bytes.fromhex(contract.hash)])
        for message in _first(begins, splitter.messages(frozen, contract.place)):
            if splitter.written > bytes_max:
                raise _too_large(label, splitter, bytes_max)
            if waiting and splitter.spent - spent > splitter.target:
                if size + (splitter.spent - turn) // _WRITTEN_WHILE_PACKED > splitter.target:
                    yield b""  # packing is a turn of its own
                yield writer.chunk(b"".join(waiting))
                waiting, size, spent, turn = [], 0, before, splitter.spent
            waiting += (len(message).to_bytes(_LENGTH, "big"), message)
            size += len(message)
            before = splitter.spent
    if waiting:
        yield writer.chunk(b"".join(waiting))
    yield writer.end()


class StreamReader:
    """Reads a stream. `resolve` gives the contract of a label, or raises.

    Raises ContractError: `codec.damaged` for any byte lost or changed, `codec.mismatch` for a value
    of another contract.
    """

    def __init__(self, resolve: Callable[[Any], Contract], freezer: Freezer) -> None:
        import msgspec  # as above

        self._decode = msgspec.msgpack.decode
        self._resolve = resolve
        self._freezer = freezer
        self._chunks = ChunkReader()
        self._label: Any = None
        self._joiner: Joiner | None = None
        """Of the value that is being read; None between two."""

    def feed(self, data: bytes) -> Iterator[tuple[Any, Any] | None]:
        """One step for each chunk that `data` completes, and one for each value: its label and its
        canonical form. A step that completes none gives None."""
        for body in self._chunks.feed(data):
            at, view = 0, memoryview(body)
            while at < len(body):
                size = int.from_bytes(view[at : at + _LENGTH], "big")
                at += _LENGTH + size
                found = self._message(view[at - size : at])
                if found is not None:
                    yield found
            yield None

    def end(self) -> None:
        """There are no more bytes: the stream has to be whole."""
        self._chunks.end()

    def _message(self, message: memoryview) -> tuple[Any, Any] | None:
        joiner = self._joiner
        if joiner is None:
            _, self._label, mark = self._decode(message)
            contract = self._resolve(self._label)
            if mark.hex() != contract.hash:
                raise _mismatch(contract, "it was written through another contract", mark.hex())
            self._contract = contract
            self._joiner = Joiner(contract.place, self._freezer, self._decode)
            return None
        try:
            joiner.feed(message)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _mismatch(
                self._contract, "the classes have changed", type_label(type(error))
            ) from error
        if not joiner.is_whole:
            return None
        self._joiner = None
        return self._label, joiner.value


def _first(one: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield one
    yield from rest


def _too_large(label: Any, splitter: Splitter, bytes_max: int) -> ValueRefused:
    path = "$"
    for step in splitter.where:
        if isinstance(step, list):
            path += attribute_step(step[1])
        else:
            path += "[]" if step in (ITEM, VALUE) else key_step(step)
    return ValueRefused(
        "codec.too_large",
        f"the value of {label!r} makes the stream larger than is allowed",
        field=path,
        expected=f"at most {bytes_max:,} bytes before compression",
        got=f"{splitter.written:,} bytes and more to come",
        fix="raise bytes_max, or keep large data in a store of its own and only its key here",
    )


def _mismatch(contract: Contract, why: str, got: str) -> ContractError:
    return ContractError(
        "codec.mismatch",
        f"the stored value does not fit {contract.describe()}: {why}",
        expected=f"a value of contract {contract.hash}",
        got=got,
        fix="add an upcaster, or read it with the version of the code that wrote it",
    )
