"""Snapshots as streams of bytes, and back, while the event loop runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from functools import partial
from typing import Any, Final

from stageflow.contracts import Contract, contract_of
from stageflow.contracts.streaming import Labelled, StreamReader, chunks
from stageflow.graph import Plan
from stageflow.model.bag import Entry, OutputBag
from stageflow.model.errors import ContractError
from stageflow.model.identity import Identity
from stageflow.model.kinds import Kind
from stageflow.model.outputs import Allow, Block, Branch, Redact, Revise
from stageflow.model.session import PastTurn, Seen, TurnValues
from stageflow.model.snapshot import ContextSnapshot
from stageflow.model.values import Freezer, thaw

SNAPSHOT_BYTES_MAX: Final = 4 * 1024**3

_PLAIN: Final = contract_of(Any)


async def dumped(plan: Plan, snapshot: ContextSnapshot, *, bytes_max: int) -> AsyncIterator[bytes]:
    """The chunks of `snapshot`, a turn of the loop between two of them."""
    for chunk in chunks(_values(plan, snapshot), bytes_max=bytes_max):
        if chunk:
            yield chunk
        await asyncio.sleep(0)


async def loaded(
    plan: Plan, source: AsyncIterable[bytes] | Iterable[bytes], freezer: Freezer
) -> ContextSnapshot:
    """The snapshot that `source` holds, read in turns of the loop."""
    found = _Found(plan)
    reader = StreamReader(found.contract, freezer)
    async for data in _each(source):
        for step in reader.feed(data):
            if step is not None:
                found.take(*step)
            await asyncio.sleep(0)
    reader.end()
    return found.snapshot()


async def _each(source: AsyncIterable[bytes] | Iterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(source, AsyncIterable):
        async for data in source:
            yield data
    else:
        for data in source:
            yield data


def _values(plan: Plan, snapshot: ContextSnapshot) -> Iterator[Labelled]:
    inputs, entries, seen = snapshot.canonical()
    told = Freezer().freeze([list(snapshot.identity), plan.name])
    yield ["run"], _PLAIN, told
    for name, value in inputs.items():
        yield ["input", name], plan.inputs[name].contract, value
    for name, entry in entries:
        label = ["node", name, entry.revision, entry.attempt, entry.epoch, entry.token]
        yield label, _contract(plan, name), entry.value
    if seen is not None:
        yield ["session", seen.session, seen.is_whole], _PLAIN, None
        for past in seen.turns:
            values = past.values()
            yield ["turn", past.number, past.run, past.size_bytes, values.is_single], _PLAIN, None
            for kind, held in (("past input", values.inputs), ("past output", values.outputs)):
                for name, value in held.items():
                    yield [kind, name], _past_contract(plan, kind, name), value


def _past_contract(plan: Plan, kind: str, name: str) -> Contract:
    """Of a value of an earlier turn: this pipeline's, where it has the name, else plain data."""
    if kind == "past input":
        return plan.inputs[name].contract if name in plan.inputs else _PLAIN
    return _contract(plan, name) if name in plan.index else _PLAIN


def _contract(plan: Plan, name: str) -> Contract:
    """The contract of what a node leaves in a snapshot."""
    node = plan.nodes[plan.index[name]]
    if node.kind is Kind.ROUTE:
        return contract_of(Branch)
    if node.kind is Kind.GUARD:
        return contract_of(Allow | Block | Redact | Revise)
    return node.contract


class _Found:
    """What was read so far."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._identity: Identity | None = None
        self._inputs: dict[str, Any] = {}
        self._session: tuple[str, bool] | None = None
        self._turns: list[tuple[list[Any], dict[str, Any], dict[str, Any]]] = []
        """Label, inputs and outputs of each earlier turn."""
        self._bag = OutputBag(len(plan.nodes), names=plan.index)

    def contract(self, label: Any) -> Contract:
        """Of the value that comes under `label`."""
        kind, *rest = label
        if kind in ("run", "session", "turn"):
            return _PLAIN
        if kind in ("past input", "past output"):
            return _past_contract(self._plan, kind, rest[0])
        known = self._plan.inputs if kind == "input" else self._plan.index
        if rest[0] not in known:
            raise ContractError(
                "codec.mismatch",
                f"the snapshot has a value of {rest[0]!r}, which this pipeline has not",
                pipeline=self._plan.name,
                expected=", ".join(known) or "nothing",
                got=str(rest[0])[:80],
                fix="load it with the pipeline whose run it is a snapshot of",
            )
        if kind == "input":
            return self._plan.inputs[rest[0]].contract
        return _contract(self._plan, rest[0])

    def take(self, label: Any, value: Any) -> None:
        """One value, canonical."""
        kind, *rest = label
        if kind == "run":
            self._identity = Identity._make(thaw(value)[0])
        elif kind == "input":
            self._inputs[rest[0]] = value
        elif kind == "session":
            self._session = rest[0], rest[1]
        elif kind == "turn":
            self._turns.append((rest, {}, {}))
        elif kind in ("past input", "past output"):
            self._turns[-1][1 if kind == "past input" else 2][rest[0]] = value
        else:
            name, revision, attempt, epoch, token = rest
            number = self._plan.index[name]
            self._bag.accepted.append(Entry(number, revision, attempt, epoch, token, value))
            self._bag.values[number] = value

    def snapshot(self) -> ContextSnapshot:
        """All of it."""
        assert self._identity is not None, "a whole stream begins with its run"
        return ContextSnapshot(
            identity=self._identity,
            inputs=self._inputs,
            names=self._plan.index,
            bag=self._bag,
            version=len(self._bag.accepted),
            session=self._seen(),
        )

    def _seen(self) -> Seen | None:
        if self._session is None:
            return None
        turns = []
        for (number, run, size_bytes, is_single), inputs, outputs in self._turns:
            values = TurnValues(inputs, outputs, is_single)
            turns.append(PastTurn(number, run, size_bytes, partial(_same, values)))
        return Seen(self._session[0], tuple(turns), self._session[1])


def _same(values: TurnValues) -> TurnValues:
    return values
