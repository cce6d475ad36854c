"""What guards look at lies sealed in the journal, and is shredded when they block or redact it.

Each guarded node of a run has a key of its own; the run has one that wraps these, and is wrapped by
`Keys`. So a key service is asked once a run, and a value is shredded by deleting one row. A child
of a guarded stage has its run's key wrapped by that stage's key: it is shredded with it.

The associated data of a sealed value names its tenant, run, record, node, revision and attempt: in
another place it does not open.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from stageflow.contracts import contract_of
from stageflow.graph import Node, Plan
from stageflow.journal.keys import (
    KEY_BYTES,
    OVERHEAD_BYTES,
    BringsKeys,
    Keys,
    Random,
    Unsealed,
    check_installed,
    cipher,
    opened,
    sealed,
)
from stageflow.journal.shredding import SHREDS
from stageflow.journal.store import LoadedRun, RunHeader
from stageflow.model.errors import BuildError, JournalError, RunError, StageflowError
from stageflow.model.record import Record, RecordType
from stageflow.model.values import Freezer, thaw
from stageflow.runtime.simulated import is_simulated
from stageflow.scheduler import NodeState, Scheduler

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SHREDDED = "<shredded>"
"""Stands for the id of a key that is gone, in records that were read."""
SEALED = "sealed"
"""In the data of a run's first record: id of the key of each input that is sealed."""
RUN_KEY = "run"
"""Id of the key that wraps the others of its run."""
_REST = ""
"""Name of the key for what is sealed and never shredded by a guard."""
_BY_KEYS, _ALL_BY_KEYS, _ALL_BY_PARENT = b"\0", b"\1", b"\2"
"""Before a run's wrapped key: what wraps it, and whether all of the run is sealed whatever the
runtime says, because it is the child of a guarded stage."""

_PLAIN = dict[str, Any]

Ciphers = dict[str, "AESGCM"]
Wrap = Callable[[bytes, bytes], Awaitable[bytes]]
"""Wraps a key (first) for a purpose (second)."""


class Outer(NamedTuple):
    """What a run has for a child all of which is to be sealed."""

    wrap: Wrap | None
    """Wraps the child's key; None when that is for the runtime's keys to do."""


class RunSeal:
    """The keys of one run while it is driven: seals what it writes. Used by its History only."""

    def __init__(
        self,
        plan: Plan,
        header: RunHeader,
        *,
        wrap: Wrap,
        everything: bool,
        random: Random,
        known: Mapping[str, AESGCM],
    ) -> None:
        self._plan = plan
        self._header = header
        self._wrap = wrap
        self._random = random
        self._everything = everything
        self._ciphers: Ciphers = dict(known)
        self._ids = {_name_in(key_id): key_id for key_id in known if key_id != RUN_KEY}
        """Name of a guarded node to the id of its key."""
        self._gone: set[str] = set()
        """Names of nodes whose value was shredded."""
        self._new: list[tuple[str, bytes]] = []
        """Ids and wrapped keys that the journal does not have yet."""
        self._shredding: list[str] = []
        """Ids that the append under way destroys."""

    async def ready(self) -> None:
        """Makes the keys that are missing. JournalError "seal.keys_failed"."""
        if RUN_KEY not in self._ciphers:
            key = self._random(KEY_BYTES)
            wrapped = await self._wrap(key, _bound_key(self._header, RUN_KEY))
            self._ciphers[RUN_KEY] = cipher(key)
            self._new.append((RUN_KEY, wrapped))
        for name in (_REST, *(node.name for node in self._plan.nodes if node.guards)):
            if name not in self._ids and name not in self._gone:
                self._make(name)

    def _make(self, name: str) -> None:
        key, key_id = self._random(KEY_BYTES), f"{name}#{self._random(4).hex()}"
        bound = _bound_key(self._header, key_id)
        wrapped = sealed(self._ciphers[RUN_KEY], key, bound=bound, random=self._random)
        self._ciphers[key_id], self._ids[name] = cipher(key), key_id
        self._new.append((key_id, wrapped))

    def sealed_inputs(self, first: Record, inputs: dict[str, bytes]) -> Record:
        """The run's first record with its encoded inputs, those sealed that are to be."""
        ids = {}
        for name in inputs:
            number = self._plan.inputs[name].node
            if number is not None:
                ids[name] = self._ids[self._plan.nodes[number].name]
            elif self._everything:
                ids[name] = self._ids[_REST]
        kept = {
            name: self._sealed(value, ids[name], _bound(self._header, first, name))
            if name in ids
            else value
            for name, value in inputs.items()
        }
        data = {**first.data, SEALED: ids} if ids else first.data
        return first._replace(payload=contract_of(_PLAIN).encode(Freezer().freeze(kept)), data=data)

    def sealed(self, records: tuple[Record, ...], scheduler: Scheduler) -> tuple[Record, ...]:
        """`records` as they go to the journal, with new keys, and the order to destroy those of
        values that guards have decided against. What it changes counts once `written` is called."""
        kept = [self._sealed_record(record) for record in records]
        names = [self._plan.nodes[number].name for number in decided_against(scheduler)]
        self._shredding = [self._ids[name] for name in names if name in self._ids]
        if self._new:
            kept[0] = kept[0]._replace(keys=tuple(self._new))
        if self._shredding:
            data = {**kept[-1].data, SHREDS: self._shredding}
            kept[-1] = kept[-1]._replace(data=data)
        return tuple(kept)

    def written(self) -> None:
        """What `sealed` gave last is in the journal."""
        self._new = []
        for key_id in self._shredding:
            del self._ciphers[key_id]
            name = _name_in(key_id)
            del self._ids[name]
            self._gone.add(name)
        self._shredding = []

    def outer_for(self, caller: str) -> Outer | None:
        """For a child that the stage `caller` starts (with "#" and its revision, after the first);
        None when the child's values are as open as those of any run."""
        index = self._plan.index
        number = index[caller] if caller in index else index[caller.rpartition("#")[0]]
        name = self._owner(self._plan.nodes[number])
        if name is None:
            return None
        key_id = self._ids.get(name)
        if key_id is None or any(new == key_id for new, _ in self._new):
            return Outer(None)  # a key that a crash may still take is none to depend on
        return Outer(self._wrapping(key_id))

    def _wrapping(self, key_id: str) -> Wrap:
        with_ = self._ciphers[key_id]

        async def wrap(key: bytes, bound: bytes) -> bytes:
            text = key_id.encode("utf-8", "surrogatepass")
            by_parent = sealed(with_, key, bound=bound, random=self._random)
            return b"".join((_ALL_BY_PARENT, len(text).to_bytes(4, "big"), text, by_parent))

        return wrap

    def _sealed_record(self, record: Record) -> Record:
        name = None if record.payload is None else self._name_for(record)
        if name is None or record.type is RecordType.RUN_STARTED:
            return record
        assert record.payload is not None
        if name in self._gone:  # it came too late: its node's values are shredded
            return record._replace(payload=None, contract="")
        key_id = self._ids[name]
        payload = self._sealed(record.payload, key_id, _bound(self._header, record))
        return record._replace(payload=payload, key_id=key_id)

    def _name_for(self, record: Record) -> str | None:
        """Whose key seals the record; None for one that is not sealed."""
        number = -1 if record.node is None else self._plan.index.get(record.node, -1)
        node = None if number == -1 else self._plan.nodes[number]
        if node is not None and not (node.gates and record.is_accepted):
            return self._owner(node)
        # What a guard decided is for others to see: a replacement is what they get, and the words
        # of a block or a wish, which may quote what it saw, outlive the value.
        says = node is not None and record.data.get("control") in ("block", "revise")
        return _REST if says or self._everything else None

    def _owner(self, node: Node) -> str | None:
        """Whose key seals what the stage of `node` sees and makes."""
        nodes = self._plan.nodes
        if node.guards:
            return node.name
        if node.gates:
            return nodes[node.gates[0]].name
        if node.undoes is not None and nodes[node.undoes].guards:
            return nodes[node.undoes].name
        if node.stands_for is not None and nodes[node.stands_for].guards:
            return _REST  # it may have consumers of its own, who need it when that one is shredded
        return _REST if self._everything else None

    def _sealed(self, value: bytes, key_id: str, bound: bytes) -> bytes:
        return sealed(self._ciphers[key_id], value, bound=bound, random=self._random)


class Seals:
    """A runtime's way to seal and open: which keys it has, and what is sealed."""

    def __init__(self, keys: Keys | Unsealed | None, journal: Any, *, everything: bool) -> None:
        self.is_on = journal is not None and not isinstance(keys, Unsealed)
        self._keys: Keys | None = None if isinstance(keys, Unsealed) else keys
        if self._keys is None and isinstance(journal, BringsKeys):
            self._keys = journal.keys()
        self._journal = journal
        self._everything = everything

    def new(
        self,
        plan: Plan,
        header: RunHeader,
        *,
        outer: Outer | None = None,
    ) -> RunSeal | None:
        """What seals a new run; None for one of which nothing is sealed. BuildError
        "seal.missing_package", "seal.no_keys"."""
        everything = self._everything or outer is not None
        if not self.is_on or not (everything or plan.guarded):
            return None
        self._check(plan.name)
        wrap = None if outer is None else outer.wrap
        if wrap is None:
            wrap = self._wrapping(_BY_KEYS if outer is None else _ALL_BY_KEYS)
        random = _random(header.run)
        return RunSeal(plan, header, wrap=wrap, everything=everything, random=random, known={})

    async def reopened(self, plan: Plan, loaded: LoadedRun) -> RunSeal | None:
        """What seals a run that is taken up, with the keys that it has."""
        wrapped = loaded.keys.get(RUN_KEY, _BY_KEYS)
        everything = self._everything or wrapped[:1] in (_ALL_BY_KEYS, _ALL_BY_PARENT)
        if not self.is_on or not (everything or plan.guarded):
            return None
        self._check(plan.name)
        return RunSeal(
            plan,
            loaded.header,
            wrap=self._wrapping(_ALL_BY_KEYS if everything else _BY_KEYS),
            everything=everything,
            random=_random(f"{loaded.epoch} {loaded.header.run}"),
            known=await self.ciphers(loaded),
        )

    async def opened(self, loaded: LoadedRun) -> LoadedRun:
        """The run with its sealed values open; those whose key is gone are blank and marked.

        JournalError "seal.wrong_key", "seal.damaged", "seal.no_keys", "seal.keys_failed".
        """
        if not any(_is_closed(record) for record in loaded.records):
            return loaded
        ciphers = await self.ciphers(loaded)
        records = [
            _opened(loaded.header, record, ciphers) if _is_closed(record) else record
            for record in loaded.records
        ]
        return replace(loaded, records=tuple(records))

    async def ciphers(self, loaded: LoadedRun) -> Ciphers:
        """By id of their key; none when what wraps the run's key is gone."""
        wrapped = loaded.keys.get(RUN_KEY)
        key = None if wrapped is None else await self._unwrapped(loaded.header, wrapped)
        if key is None:
            return {}
        ciphers = {RUN_KEY: cipher(key)}
        for key_id, inner in loaded.keys.items():
            if key_id == RUN_KEY:
                continue
            try:
                bound = _bound_key(loaded.header, key_id)
                ciphers[key_id] = cipher(opened(ciphers[RUN_KEY], inner, bound=bound))
            except ValueError as error:
                raise _damaged(loaded.header, None, "one of its keys does not fit") from error
        return ciphers

    def _wrapping(self, mark: bytes) -> Wrap:
        async def wrap(key: bytes, bound: bytes) -> bytes:
            assert self._keys is not None, "it was checked when the run was begun"
            try:
                return mark + await self._keys.wrap(key, bound=bound)
            except StageflowError:
                raise
            except Exception as error:  # a user's key service: its failure is this call's
                raise _keys_failed(error) from error

        return wrap

    async def _unwrapped(self, header: RunHeader, wrapped: bytes) -> bytes | None:
        bound = _bound_key(header, RUN_KEY)
        by, rest = wrapped[:1], wrapped[1:]
        if by == _ALL_BY_PARENT:
            size = int.from_bytes(rest[:4], "big") + 4
            parent = await self._journal.load(header.parent)
            with_ = (await self.ciphers(parent)).get(rest[4:size].decode("utf-8", "surrogatepass"))
            if with_ is None:
                return None
            try:
                return opened(with_, rest[size:], bound=bound)
            except ValueError as error:
                raise _damaged(header, None, "its key does not fit its parent's") from error
        self._check(header.pipeline)
        assert self._keys is not None, "it was checked just now"
        try:
            return await self._keys.unwrap(rest, bound=bound)
        except StageflowError:
            raise
        except Exception as error:  # as in _wrapped
            raise _keys_failed(error) from error

    def _check(self, pipeline: str) -> None:
        check_installed()
        if self._keys is None:
            raise BuildError(
                "seal.no_keys",
                "what guards look at must be sealed in this journal, and nothing says where the"
                " key-encryption key is",
                pipeline=pipeline,
                field="keys",
                expected="Keys: a file that all processes of this journal have, or a key service",
                got="a journal that has no place for one",
                fix="Runtime(keys=KeyFile('stageflow.key')), or keys=UNSEALED to keep it readable",
            )


def decided_against(scheduler: Scheduler) -> list[int]:
    """Guarded nodes whose raw value nobody may take any more: redacted, or blocked by a decision
    and looked at by all guards. Not those whose guard failed, which a resumed run asks again, and
    not those with an undo, which needs the value to take its effect back."""
    plan, status = scheduler.plan, scheduler.status
    found = []
    for number, guards in enumerate(plan.raw_children):
        if not guards or number in plan.undos:
            continue
        if status[number] is NodeState.OK and number in scheduler.redactor:
            found.append(number)
        elif status[number] is NodeState.BLOCKED:
            guard = scheduler.cause[number][1]
            decides = guard in guards and status[guard] in (NodeState.OK, NodeState.JUDGED)
            if decides and all(status[each].is_terminal for each in guards):
                found.append(number)
    return found


def _random(purpose: str) -> Random:
    loop = asyncio._get_running_loop()
    return os.urandom if loop is None or not is_simulated(loop) else _Repeatable(purpose)


class _Repeatable:
    """In a simulation: bytes that follow from the run, so that equal seeds write equal journals."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        text = f"{self._count} {self._run}".encode("utf-8", "surrogatepass")
        return blake2b(text, digest_size=size).digest()


def is_shredded(record: Record) -> bool:
    """Whether the payload of a record that was opened is gone for ever."""
    assert record.key_id in ("", SHREDDED), "a record is opened before it is decoded"
    return record.key_id == SHREDDED


def shredded_inputs(first: Record) -> frozenset[str]:
    """Names of inputs, by the run's first record, opened, whose values are gone."""
    return frozenset(first.data.get(SEALED, ()))


def shredded(node: Node, pipeline: str) -> RunError:
    """A guard is to look at a value that another one has decided against, before a restart."""
    return RunError(
        "seal.shredded",
        f"the raw value of {node.name!r} was shredded when a guard decided against it",
        pipeline=pipeline,
        node=node.name,
        expected="a value that guards have yet to decide about",
        got="none",
        fix="nothing is to be done: the decision stands",
    )


def check_not_erased(loaded: LoadedRun) -> None:
    """Refuses a run whose keys were erased: what it would go on with is gone."""
    if loaded.keys or not any(is_shredded(record) for record in loaded.records):
        return
    raise JournalError(
        "seal.erased",
        f"the keys of run {loaded.header.run} were erased, and its sealed values with them",
        pipeline=loaded.header.pipeline,
        expected="a run that was not erased",
        got="no keys",
        fix="start a new run; runtime.result(run) still tells how this one ended",
    )


def _is_closed(record: Record) -> bool:
    return record.key_id not in ("", SHREDDED) or SEALED in record.data


def _opened(header: RunHeader, record: Record, ciphers: Ciphers) -> Record:
    if record.type is RecordType.RUN_STARTED:
        return _opened_inputs(header, record, ciphers)
    assert record.payload is not None, "only a payload is sealed"
    value = _value(header, record, record.payload, ciphers.get(record.key_id))
    if value is None:
        return record._replace(payload=_blank(record.payload), key_id=SHREDDED)
    return record._replace(payload=value, key_id="")


def _opened_inputs(header: RunHeader, first: Record, ciphers: Ciphers) -> Record:
    assert first.payload is not None, "a run's first record has its inputs"
    inputs: dict[str, bytes] = thaw(contract_of(_PLAIN).decode(first.payload))
    left = {}
    for name, key_id in first.data[SEALED].items():
        value = None
        if key_id != SHREDDED:
            value = _value(header, first, inputs[name], ciphers.get(key_id), part=name)
            inputs[name] = _blank(inputs[name]) if value is None else value
        if value is None:
            left[name] = SHREDDED
    data = {key: each for key, each in first.data.items() if key != SEALED}
    if left:
        data[SEALED] = left
    return first._replace(payload=contract_of(_PLAIN).encode(Freezer().freeze(inputs)), data=data)


def _value(
    header: RunHeader, record: Record, value: bytes, with_: AESGCM | None, *, part: str = ""
) -> bytes | None:
    if with_ is None:
        return None
    try:
        return opened(with_, value, bound=_bound(header, record, part))
    except ValueError as error:
        raise _damaged(header, record, "its sealed value does not open here") from error


def _blank(value: bytes) -> bytes:
    """As long as what was sealed, for whoever counts bytes."""
    return bytes(max(len(value) - OVERHEAD_BYTES, 0))


def _name_in(key_id: str) -> str:
    return key_id.rpartition("#")[0]


def _bound(header: RunHeader, record: Record, part: str = "") -> bytes:
    place = (
        "stageflow value 1",
        header.tenant,
        header.run,
        record.type.value,
        record.seq,
        record.node,
        record.revision,
        record.attempt,
        part,
    )
    return ascii(place).encode()


def _bound_key(header: RunHeader, key_id: str) -> bytes:
    return ascii(("stageflow key 1", header.tenant, header.run, key_id)).encode()


def _damaged(header: RunHeader, record: Record | None, why: str) -> JournalError:
    place = "" if record is None else f", record {record.seq}"
    return JournalError(
        "seal.damaged",
        f"run {header.run}{place}: {why}",
        pipeline=header.pipeline,
        node=None if record is None else record.node,
        expected="a value sealed for this tenant, run, node, revision and attempt",
        got="one from elsewhere, or a changed byte",
        fix="restore the journal from a backup, and find out who wrote to it",
    )


def _keys_failed(error: Exception) -> JournalError:
    return JournalError(
        "seal.keys_failed",
        "the keys= of this runtime could not wrap or unwrap a run's key",
        expected="a key service that answers",
        got=type(error).__name__,
        fix="look at the cause; a run that was not begun can be started again, others resumed",
    )
