"""A run's side of its journal: records out in order, values encoded through their contracts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from stageflow.contracts import contract_of
from stageflow.graph import Node, Plan
from stageflow.journal.journal import Journal
from stageflow.journal.store import RunHeader
from stageflow.model.bag import MISSING
from stageflow.model.kinds import Kind
from stageflow.model.labels import NONE, Labels
from stageflow.model.outputs import Allow, Block, Branch, Decision, Redact, Revise
from stageflow.model.record import Record, RecordType
from stageflow.model.values import Freezer, content_hash, thaw
from stageflow.runtime.failure import Failure
from stageflow.runtime.produced import NO_CHUNKS, Chunks
from stageflow.runtime.sealing import RunSeal, is_shredded, shredded_inputs
from stageflow.scheduler import Scheduler

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver

PLAIN = dict[str, Any]
_GONE = "(shredded with the value that a guard decided against)"


class History:
    """Appends what one run's scheduler writes. One append is under way at a time; records that
    come meanwhile go into the next, in order."""

    def __init__(
        self,
        journal: Journal,
        header: RunHeader,
        *,
        epoch: int = 1,
        seal: RunSeal | None = None,
    ) -> None:
        self.journal = journal
        self.seal = seal
        """None when nothing of the run is sealed."""
        self.header = header
        self.epoch = epoch
        self.durable_seq = 0
        """The last sequence number known to be on disk."""
        self.held: tuple[Record, ...] = ()
        """Of a turn that has not begun: what is written, and nothing before it, when it does."""
        self.sizes: dict[int, int] | None = None
        """Of a turn: bytes of each payload by its attempt's token, of the inputs by 0."""
        self._plain = contract_of(PLAIN)
        self._freezer = Freezer()
        self.is_closed = False
        """True for a run that was let go: what it still does is not written."""
        self._flushing = False
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def create(self, driver: Driver, records: tuple[Record, ...] | None = None) -> None:
        """Writes the run's first records: that it started, with its inputs, and the intents; or
        `records`, which were taken before."""
        if records is None:
            records = self.taken(driver)
        self._flushing = True
        try:
            if self.seal is not None:
                await self.seal.ready()
            first = self._with_inputs(driver, records[0])
            sealed = self._sealed(driver, (first, *records[1:]))
            self.epoch = await self.journal.create(self.header, sealed)
            self._kept()
        finally:
            self._flushed()
        driver.bag.epoch = self.epoch
        self.durable_seq = records[-1].seq

    async def first_record(self, driver: Driver) -> Record:
        """What a queued run has on record: that it started, with its inputs. Nothing was begun."""
        if self.seal is not None:
            await self.seal.ready()
        driver.start_scheduler()
        first = self._with_inputs(driver, self.taken(driver)[0])
        return self._sealed(driver, (first,))[0]

    def _with_inputs(self, driver: Driver, first: Record) -> Record:
        inputs = {
            name: driver.plan.inputs[name].contract.encode(value)
            for name, value in driver.inputs.items()
        }
        first = first._replace(payload=self.plain(inputs), labels=_listed(driver.input_labels))
        if self.sizes is not None:
            self.sizes[0] = len(first.payload or b"")
        if self.seal is not None:
            first = self.seal.sealed_inputs(first, inputs)
        if driver.deadline_in_s is not None:
            first = first._replace(data={**first.data, "deadline_in_s": driver.deadline_in_s})
        if driver.priority:
            first = first._replace(data={**first.data, "priority": driver.priority})
        return first

    async def commit(self, driver: Driver) -> None:
        """Returns when everything written so far is durable; JournalError when it can't be."""
        target = driver.scheduler.seq
        while self.durable_seq < target:
            if self.is_closed:
                raise driver.bug or AssertionError("only a run that was let go is closed")
            if self._flushing:
                waiter: asyncio.Future[None] = driver.loop.create_future()
                self._waiters.append(waiter)
                await waiter
                if driver.bug is not None:
                    raise driver.bug
                continue
            records = self.taken(driver)
            if not records:
                return
            await self._append(driver, records)

    async def write_held(self, driver: Driver, records: tuple[Record, ...]) -> None:
        """Writes what was held back, as it is in `records`; when that is refused, it is held on."""
        now_s = driver.runtime.clock.wall_s()
        await self._append(driver, tuple(record._replace(wall_s=now_s) for record in records))
        self.held = ()
        self._flushed()

    async def _append(self, driver: Driver, records: tuple[Record, ...]) -> None:
        self._flushing = True
        try:
            if self.seal is not None:
                await self.seal.ready()
            sealed = self._sealed(driver, records)
            await self.journal.append(self.header.run, self.epoch, sealed)
            self._kept()
            self.durable_seq = records[-1].seq
        finally:
            self._flushed()

    def _sealed(self, driver: Driver, records: tuple[Record, ...]) -> tuple[Record, ...]:
        return records if self.seal is None else self.seal.sealed(records, driver.scheduler)

    def _kept(self) -> None:
        if self.seal is not None:
            self.seal.written()

    def _flushed(self) -> None:
        self._flushing = False
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def taken(self, driver: Driver) -> tuple[Record, ...]:
        """What the scheduler has written and nobody has taken, stamped."""
        scheduler = driver.scheduler
        records, scheduler.records = scheduler.records, []
        now_s = driver.runtime.clock.wall_s()
        return tuple(_stamped(driver, record, now_s) for record in records)

    # -- payloads ----------------------------------------------------------------------------

    def plain(self, value: dict[str, Any]) -> bytes:
        """Bytes of a dict of plain values."""
        return self._plain.encode(self._freezer.freeze(value))

    def encode(self, driver: Driver, node: Node, frozen: Any) -> bytes | None:
        """Bytes of a node's value, through its contract."""
        if node.kind is Kind.ROUTE:
            branch: Branch = thaw(frozen)
            return self.plain(
                {"name": branch.name, "confidence": branch.confidence, "reason": branch.reason}
            )
        if node.kind is Kind.GUARD:
            return self._encode_decision(driver, node, thaw(frozen))
        return node.contract.encode(frozen)

    def _encode_decision(self, driver: Driver, node: Node, decision: Decision) -> bytes | None:
        if isinstance(decision, Block):
            return self.plain({"reason": decision.reason})
        if isinstance(decision, Revise):
            return self.plain({"feedback": decision.feedback, "score": decision.score})
        if isinstance(decision, Redact):
            target = node.gates[0] if decision.of is None else node.gate_of[decision.of]
            contract = driver.nodes[target].contract
            return contract.encode(contract.admit(decision.value, driver.runtime.freezer))
        return None

    def encode_reason(self, reason: str) -> bytes | None:
        """Bytes of what a stage said about its skip or cancellation; None when it said nothing."""
        return self.plain({"reason": reason}) if reason else None

    def encode_chunks(self, chunks: Chunks) -> bytes:
        """Bytes of what a cancelled stage had produced."""
        return self.plain({"reason": "", **self._told(chunks)})

    def _told(self, chunks: Chunks) -> dict[str, Any]:
        if not chunks.items:
            return {}
        return {"chunks": [self._plainly(one) for one in chunks.items], "more": chunks.left_out}

    def _plainly(self, item: Any) -> Any:
        """What can't be encoded is replaced by its type's name."""
        try:
            self.plain(item)
        except Exception:  # the stage's own data may be anything; the rest must be kept
            return f"<{type(item).__name__}>"
        return item

    def encode_failure(self, failure: Failure, chunks: Chunks = NO_CHUNKS) -> bytes:
        """Bytes of a failure, and of what was produced before it; data that can't be encoded is
        replaced by its type's name."""
        kept: dict[str, Any] = {
            "path": list(failure.path),
            "reason": failure.reason,
            "type": failure.type,
            "message": failure.message,
            "traceback": failure.traceback,
            "data": failure.data,
            **self._told(chunks),
        }
        if failure.retries:
            kept["retries"] = True
        if failure.final:
            kept["final"] = failure.final
        try:
            return self.plain(kept)
        except Exception:  # the stage's own data may be anything; the failure must be kept
            return self.plain({**kept, "data": f"<{type(failure.data).__name__}>"})

    def attach_step(
        self, scheduler: Scheduler, payload: bytes, contract: str, labels: Labels
    ) -> None:
        """Gives the step just written its result."""
        scheduler.records[-1] = scheduler.records[-1]._replace(
            payload=payload, contract=contract, labels=_listed(labels)
        )

    def attach(
        self,
        scheduler: Scheduler,
        token: int,
        payload: bytes | None,
        contract: str,
        labels: Labels,
    ) -> None:
        """Gives the outcome just written its payload."""
        if self.sizes is not None:
            self.sizes[token] = len(payload or b"")
        records = scheduler.records
        for place in range(len(records) - 1, -1, -1):
            record = records[place]
            if record.type is RecordType.OUTCOME and record.token == token:
                records[place] = record._replace(
                    payload=payload, contract=contract, labels=_listed(labels)
                )
                return

    def attach_late(
        self,
        scheduler: Scheduler,
        attempt: int,
        payload: bytes | None,
        contract: str,
        labels: Labels,
    ) -> None:
        """Gives the refused outcome just written its attempt, and the value that lost."""
        record = scheduler.records[-1]
        assert record.type is RecordType.LATE, "nothing is written between a refusal and this"
        scheduler.records[-1] = record._replace(
            attempt=attempt,
            payload=payload,
            contract=contract if payload is not None else "",
            labels=_listed(labels),
        )


def decode_inputs(plan: Plan, record: Record) -> dict[str, Any]:
    """Canonical inputs of a run, from its first record; without those that were shredded."""
    assert record.payload is not None
    gone = shredded_inputs(record)
    encoded: dict[str, bytes] = thaw(contract_of(PLAIN).decode(record.payload))
    return {
        name: plan.inputs[name].contract.decode(data)
        for name, data in encoded.items()
        if name in plan.inputs and name not in gone
    }


def changed_inputs(
    given: Mapping[str, Any], before: Mapping[str, Any], gone: Collection[str] = ()
) -> list[str]:
    """Names of canonical inputs that are not the same, sorted. Those in `gone` were shredded: no
    trace of them is left that could be compared."""
    return sorted(
        name
        for name in (given.keys() | before.keys()).difference(gone)
        if name not in given
        or name not in before
        or content_hash(given[name]) != content_hash(before[name])
    )


def decode_value(plan: Plan, node: Node, record: Record, freezer: Freezer) -> tuple[Any, Any]:
    """(canonical value of an accepted outcome, replaced value of the gated node or MISSING).

    The value is MISSING when it was shredded.
    """
    payload = record.payload
    if is_shredded(record):
        if record.data.get("control") != "revise":
            return MISSING, MISSING
        return freezer.freeze(Revise(_GONE, record.data["of"])), MISSING
    if node.kind is Kind.ROUTE:
        assert payload is not None
        kept = thaw(contract_of(PLAIN).decode(payload))
        branch = Branch(kept["name"], confidence=kept["confidence"], reason=kept["reason"])
        return freezer.freeze(branch), MISSING
    if node.kind is Kind.GUARD:
        return _decode_decision(plan, record, freezer)
    assert payload is not None
    return node.contract.decode(payload), MISSING


def _decode_decision(plan: Plan, record: Record, freezer: Freezer) -> tuple[Any, Any]:
    control = record.data["control"]
    if control == "block":
        assert record.payload is not None
        return freezer.freeze(Block(thaw(contract_of(PLAIN).decode(record.payload))["reason"])), (
            MISSING
        )
    if control == "revise":
        assert record.payload is not None
        kept = thaw(contract_of(PLAIN).decode(record.payload))
        return freezer.freeze(Revise(kept["feedback"], record.data["of"], kept["score"])), MISSING
    if control == "redact":
        assert record.payload is not None
        target = plan.nodes[plan.index[record.data["of"]]]
        value = target.contract.decode(record.payload)
        return freezer.freeze(Redact(thaw(value), of=target.name)), value
    return freezer.freeze(Allow()), MISSING


def decode_failure(record: Record) -> Failure | None:
    """The failure of a failed outcome; None when the record has none."""
    if record.payload is None or record.data.get("status") != "failed":
        return None
    if is_shredded(record):
        return Failure((record.node or "",), record.data.get("reason", ""), "", _GONE)
    kept = thaw(contract_of(PLAIN).decode(record.payload))
    return Failure(
        tuple(kept["path"]),
        kept["reason"],
        kept["type"],
        kept["message"],
        kept["traceback"],
        kept["data"],
        kept.get("retries", False),
        kept.get("final", ""),
    )


def decode_chunks(record: Record) -> Chunks:
    """What a stage that gave no value had produced."""
    is_ended = record.data.get("status") in ("failed", "cancelled")
    if not is_ended or record.payload is None or is_shredded(record):
        return NO_CHUNKS
    kept = thaw(contract_of(PLAIN).decode(record.payload))
    return Chunks(tuple(kept.get("chunks", ())), kept.get("more", 0))


def decode_reason(record: Record) -> str:
    """What a stage said about its skip, cancellation or block; "" when it said nothing."""
    said = record.data.get("status") in ("skip", "cancelled") or (
        record.data.get("control") == "block"
    )
    if not said or record.payload is None or is_shredded(record):
        return ""
    return str(thaw(contract_of(PLAIN).decode(record.payload))["reason"])


def _listed(labels: Labels) -> tuple[str, ...]:
    return tuple(sorted(labels)) if labels else ()


def _stamped(driver: Driver, record: Record, now_s: float) -> Record:
    if record.type is RecordType.ASKED:
        node = driver.nodes[driver.plan.index[record.node or ""]]
        assert node.shows is not None
        expires_s = record.data["expires_s"]
        shown = content_hash(driver.bag.values[node.shows])
        due = None if expires_s is None else now_s + expires_s
        return record._replace(wall_s=now_s, data={"shown": shown, "expires_wall_s": due})
    if record.type is RecordType.RETRY_DUE:
        data = {"wait_s": record.data["wait_s"], "due_wall_s": now_s + record.data["wait_s"]}
        return record._replace(wall_s=now_s, data=data)
    if driver.turn is not None and record.data.get("status") == "ok" and record.node is None:
        data = {**record.data, "turn": driver.turn.told(driver)}
        labels = _listed(driver.flow.turn(driver) if driver.flows else NONE)
        return record._replace(wall_s=now_s, data=data, labels=labels)
    return record._replace(wall_s=now_s)
