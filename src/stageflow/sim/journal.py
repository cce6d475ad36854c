"""A journal on a simulated disk: group commit in virtual time, crashes, several owners.

The log holds requests, not their effects: a frame is written and synced, then applied to a
MemoryStore, which makes every check. Applying is deterministic, so recovery applies the same
frames and refuses the same ones; nobody ever reads what is not yet durable.

A frame: length (4 bytes), checksum (16 bytes, BLAKE2b over the previous frame's checksum and the
body), body. The chain makes a frame that an earlier crash left behind unreadable in its place.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from stageflow.journal.keys import KEY_BYTES, Keys, LocalKeys
from stageflow.journal.line import encoded, header_of, header_text
from stageflow.journal.memory import MemoryStore
from stageflow.journal.store import (
    RUNNING,
    Append,
    LoadedRun,
    Owner,
    RunHeader,
    RunSummary,
    SessionTurns,
)
from stageflow.journal.turns import turn_begun_by
from stageflow.model.errors import JournalError
from stageflow.model.marks import reached
from stageflow.model.record import Record, RecordType
from stageflow.sim.disk import SimDisk
from stageflow.sim.run import Sim

_CHECKSUM = 16
_PREFIX = 4 + _CHECKSUM
_KEY = blake2b(b"simulated", digest_size=KEY_BYTES).digest()
_FIRST = bytes(_CHECKSUM)
"""What the first frame is chained to."""


@dataclass(frozen=True, slots=True)
class SimOwner(Owner):
    """A process of the simulation: alive until it is killed or the machine loses power."""

    alive: Callable[[SimOwner], bool] = field(compare=False, repr=False)

    def is_alive(self) -> bool:
        return self.alive(self)


@dataclass(frozen=True, slots=True)
class Dropped:
    """What recovery cut off: bytes from the first frame that could not be read."""

    offset: int
    length: int


@dataclass(slots=True, eq=False)
class _Request:
    body: bytes
    answer: asyncio.Future[Any]


class SimJournal:
    """Implements Journal, for one owner; `as_owner` gives the same log seen by another.

    An acknowledged write survives `crash`, unless `disk.flip` damages it: then whatever reads
    the log raises `journal.damaged`.
    """

    def __init__(self, sim: Sim, disk: SimDisk | None = None, *, file: str = "journal") -> None:
        """Opens `file` of `disk` (the simulation's own by default), recovering what is there."""
        self._log = _Log(sim, sim.disk() if disk is None else disk, file)
        self._owner = self._log.born("main")

    @classmethod
    def _view(cls, log: _Log, name: str) -> SimJournal:
        view = cls.__new__(cls)
        view._log = log
        view._owner = log.born(name)
        return view

    @property
    def owner(self) -> SimOwner:
        """The process that this view writes for."""
        return self._owner

    @property
    def disk(self) -> SimDisk:
        return self._log.disk

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """What recoveries have cut off, oldest first."""
        return tuple(self._log.dropped)

    def as_owner(self, name: str) -> SimJournal:
        """The log as process `name` sees it; a new process of that name once the old one died."""
        return self._view(self._log, name)

    def kill(self, name: str) -> None:
        """Process `name` is dead: its runs can be claimed. Views of it go on writing, as a zombie
        would, and are refused by epoch once its runs were claimed."""
        self._log.kill(name)

    def crash(self) -> None:
        """Power loss and reboot: every process ends, the disk forgets, the log is read again.

        Writes in flight raise `journal.write_failed`; whether they are there only a load tells.
        Views from before write no more, also with `journal.write_failed`, as their processes are
        gone; they still read. `as_owner` gives a process of the time after.
        """
        self._log.crash()

    async def create(self, header: RunHeader, records: tuple[Record, ...]) -> int:
        checked = _admitted(Append(header.run, 1, records))
        epoch: int = await self._log.written(
            self._owner,
            {
                "do": "create",
                "header": header_text(header),
                "owner": _named(self._owner),
                "alive": self._log.alive_for(checked),
            },
            checked,
        )
        return epoch

    async def append(self, run: str, epoch: int, records: tuple[Record, ...]) -> None:
        checked = _admitted(Append(run, epoch, records))
        alive = self._log.alive_for(checked)
        what = {"do": "append", "run": run, "epoch": epoch, "alive": alive}
        await self._log.written(self._owner, what, checked)

    async def claim(self, run: str, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        loaded: LoadedRun = await self._log.written(
            self._owner,
            {
                "do": "claim",
                "run": run,
                "owner": _named(self._owner),
                "alive": self._log.alive(),
                "rerun": None if rerun is None else list(rerun),
            },
            (),
        )
        return loaded

    async def erase(self, run: str) -> int:
        """As Store.erase. The simulated log keeps what was destroyed: it holds requests."""
        what = {"do": "erase", "run": run, "owner": _named(self._owner), "alive": []}
        erased: int = await self._log.written(self._owner, what, ())
        return erased

    def keys(self) -> Keys:
        """The same key-encryption key in every simulation: nothing in one is a secret."""
        return LocalKeys(_KEY, random=lambda size: _KEY[:size])

    async def load(self, run: str) -> LoadedRun:
        await asyncio.sleep(0)
        return self._log.loaded(run)

    async def holds(self, run: str, *, tenant: str) -> bool:
        await asyncio.sleep(0)
        return self._log.read().holds(run, tenant=tenant)

    async def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        await asyncio.sleep(0)
        return self._log.listed(tenant=tenant, limit=limit)

    async def turns(
        self, tenant: str, session: str, *, before: int | None = None, limit: int = 50
    ) -> SessionTurns:
        await asyncio.sleep(0)
        return self._log.turns(tenant, session, before=before, limit=limit)

    async def close(self) -> None:
        """Wait until everything that was asked is durable or refused."""
        await self._log.idle()


class _Log:
    """What all views share: the file, the store made of it, and the queue before the disk."""

    def __init__(self, sim: Sim, disk: SimDisk, file: str) -> None:
        self.disk = disk
        self.dropped: list[Dropped] = []
        self._file = file
        self._sim = sim
        self._owners: dict[str, SimOwner] = {}
        """The last process of each name."""
        self._born: list[SimOwner] = []
        """All of them."""
        self._dead: set[tuple[int, int]] = set()
        """(pid, started) of processes that were killed or ended with a power loss."""
        self._gone: set[tuple[int, int]] = set()
        """Those that ended with a power loss: nothing of them is left that could write."""
        self._holders: dict[str, SimOwner] = {}
        """Who last created or claimed each run."""
        self._queue: list[_Request] = []
        """At most one request for each task that awaits one: callers are its bound."""
        self._flushing: list[_Request] = []
        self._flushes = 0
        self._until_idle: list[asyncio.Future[None]] = []
        self._alive_now: set[tuple[int, int]] = set()
        """(pid, started) of who lives, as the store is to see it."""
        self._seen: tuple[bytes, int, bytes] = b"", 0, _FIRST
        """The file at the last look, how much of it was readable, and the last checksum there."""
        self._damaged_at: int | None = None
        """Where recovery met damage: nothing is written after it. None for a log that is whole."""
        self._recover()

    # Processes

    def born(self, name: str) -> SimOwner:
        known = self._owners.get(name)
        if known is not None and known.is_alive():
            return known
        pid = len(self._owners) + 1 if known is None else known.pid
        started = 1 if known is None else known.started + 1
        self._owners[name] = owner = self._owner(name, pid, started)
        self._born.append(owner)
        return owner

    def kill(self, name: str) -> None:
        owner = self._owners.get(name)
        if owner is not None:
            self._dead.add((owner.pid, owner.started))

    def alive(self) -> list[tuple[int, int]]:
        owners = ((owner.pid, owner.started) for owner in self._owners.values())
        return sorted(key for key in owners if key not in self._dead)

    def alive_for(self, records: tuple[Record, ...]) -> list[tuple[int, int]]:
        """Who lives, when `records` are taken or refused by it; part of the request, so that
        recovery decides alike."""
        return self.alive() if turn_begun_by(records) is not None else []

    def _owner(self, name: str, pid: int, started: int) -> SimOwner:
        return SimOwner("sim", name, pid, started, self._is_alive)

    def _is_alive(self, owner: SimOwner) -> bool:
        latest = self._owners.get(owner.boot)
        return latest == owner and (owner.pid, owner.started) not in self._dead

    # Reading

    def read(self) -> MemoryStore:
        """The store, once the file still is what was written."""
        good = self._damaged_at
        if good is None:
            good = self._good_now()
            if good >= self._applied_bytes:
                return self._store
        raise self._damaged(good)

    def _good_now(self) -> int:
        """Bytes of the readable frames. What is as it was at the last look is compared, and not
        hashed again."""
        data = self.disk.read(self._file)
        before, good, last = self._seen
        if not data.startswith(before):
            good, last = 0, _FIRST
        good, last = _scanned(data, good, last)
        self._seen = data, good, last
        return good

    def _damaged(self, offset: int) -> JournalError:
        return JournalError(
            "journal.damaged",
            f"the frame at byte {offset} of the simulated file {self._file!r} is not what was"
            " written",
            expected="bytes that fit their checksum",
            fix="a run that must survive damage needs a second copy of its journal",
        )

    # Writing

    async def written(
        self, owner: SimOwner, what: dict[str, Any], records: tuple[Record, ...]
    ) -> Any:
        """Make `owner`'s request durable with others that wait, apply it, give its answer."""
        if (owner.pid, owner.started) in self._gone:
            raise _write_failed(OSError(f"process {owner.boot!r} ended with the power loss"))
        if self._damaged_at is not None:
            raise self._damaged(self._damaged_at)
        body = _body({**what, "wall_s": self._sim.wall()}, records)
        request = _Request(body, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        if not self._flushing:
            self._flush()
        return await request.answer

    async def idle(self) -> None:
        if self._flushing:
            self._until_idle.append(asyncio.get_running_loop().create_future())
            await self._until_idle[-1]

    def _flush(self) -> None:
        # A request whose caller was cancelled before the flush is not written.
        self._flushing = [request for request in self._queue if not request.answer.done()]
        self._queue = []
        if not self._flushing:
            self._tell_idle()
            return
        if len(self._flushing) > 1:
            reached("batch_of_several")
        self._flushes += 1
        flush = self._flushes
        frames = bytearray()
        last = self._last
        for request in self._flushing:
            frame, last = _frame(request.body, last)
            frames += frame
        try:
            self.disk.write(self._file, bytes(frames))
        except OSError as error:
            failure = error
            asyncio.get_running_loop().call_soon(lambda: self._flushed(flush, failure, b""))
            return
        synced = self.disk.start_fsync(self._file)
        synced.add_done_callback(lambda done: self._flushed(flush, done.exception(), last))

    def _flushed(self, flush: int, failure: BaseException | None, last: bytes) -> None:
        if flush != self._flushes:
            return  # the machine crashed meanwhile; its requests were answered
        batch, self._flushing = self._flushing, []
        if failure is None:
            self._last = last
            self._applied_bytes = self.disk.size(self._file)
        else:
            # What a failed sync covered must not be trusted, nor be followed by anything.
            self.disk.truncate(self._file, self._applied_bytes)
        for request in batch:
            _answer(request, failure, self._applied if failure is None else None)
        self._flush()

    def _applied(self, body: bytes) -> Any:
        what, records = _request(body)
        self._wall_s = what["wall_s"]
        self._alive_now = {(pid, started) for pid, started in what["alive"]}
        store = self._store
        if what["do"] == "append":
            (refused,) = store.commit([Append(what["run"], what["epoch"], records)])
            if refused is not None:
                raise refused
            return None
        owner = self._owner(*what["owner"])
        if what["do"] == "create":
            header = header_of(what["header"])
            epoch = store.create(header, _dead_twin(owner), records)
            self._holders[header.run] = owner
            return epoch
        run = what["run"]
        if what["do"] == "erase":
            return store.erase(run)
        holder = self._holders.get(run)
        if (
            holder not in (None, owner)
            and store.load(run).status == RUNNING
            and (holder.pid, holder.started) in self._alive_now
        ):
            raise _run_is_live(run, holder)
        loaded = store.claim(run, _dead_twin(owner), rerun=what["rerun"])
        self._holders[run] = owner
        return loaded if loaded.owner is None else replace(loaded, owner=owner)

    def _tell_idle(self) -> None:
        waiting, self._until_idle = self._until_idle, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def listed(self, *, tenant: str | None, limit: int) -> list[RunSummary]:
        """The store's listing, with the simulation's processes in it."""
        return [
            summary
            if summary.owner is None
            else replace(summary, owner=holder, live=holder.is_alive())
            for summary in self.read().runs(tenant=tenant, limit=limit)
            for holder in (self._holders[summary.header.run],)
        ]

    def loaded(self, run: str) -> LoadedRun:
        """The run, with the simulation's process as its owner."""
        loaded = self.read().load(run)
        return loaded if loaded.owner is None else replace(loaded, owner=self._holders[run])

    def turns(self, tenant: str, session: str, *, before: int | None, limit: int) -> SessionTurns:
        """Where the session stands, by who lives now."""
        store = self.read()
        self._alive_now = set(self.alive())
        return store.turns(tenant, session, before=before, limit=limit)

    # Crashing

    def crash(self) -> None:
        self.disk.crash()
        self._gone.update((owner.pid, owner.started) for owner in self._born)
        self._dead |= self._gone
        lost, self._flushing, self._queue = self._flushing + self._queue, [], []
        self._flushes += 1
        for request in lost:
            _answer(request, OSError("the machine lost power"), None)
        self._tell_idle()
        self._recover()

    def _recover(self) -> None:
        """Apply every readable frame from the start, and cut off what follows the last."""
        self._wall_s = self._sim.wall()
        self._alive_now.clear()
        self._store = MemoryStore(
            wall_s=lambda: self._wall_s,
            is_alive=lambda owner: (owner.pid, owner.started) in self._alive_now,
        )
        self._holders.clear()
        data = self.disk.read(self._file)
        self._applied_bytes, self._last = _scanned(data)
        for body in _bodies(data, self._applied_bytes):
            try:
                self._applied(body)
            except JournalError:
                continue  # refused then, refused again
        promised = self.disk.promised(self._file)
        if self._applied_bytes < promised:
            # Damage, not a torn tail. It stays where it is, for `read` to find.
            self._damaged_at = self._applied_bytes
            return
        if self._applied_bytes < len(data):
            self.dropped.append(Dropped(self._applied_bytes, len(data) - self._applied_bytes))
            self.disk.truncate(self._file, self._applied_bytes)


def _answer(
    request: _Request, failure: BaseException | None, apply: Callable[[bytes], Any] | None
) -> None:
    """Tell the caller, when there still is one; applying happens in any case."""
    result: Any = None
    error: JournalError | None = None
    if apply is not None:
        try:
            result = apply(request.body)
        except JournalError as refused:
            error = refused
    else:
        error = _write_failed(failure)
    if request.answer.done():
        return
    if error is None:
        request.answer.set_result(result)
    else:
        request.answer.set_exception(error)


def _write_failed(cause: BaseException | None) -> JournalError:
    error = JournalError(
        "journal.write_failed",
        "the simulated machine failed to write",
        expected="a disk that can write, and a machine that is on",
        got=type(cause).__name__,
        fix="look at the cause: the disk's faults, or a crash that this process did not outlive",
    )
    error.__cause__ = cause
    return error


def _dead_twin(owner: SimOwner) -> Owner:
    """`owner` for the store, which asks the real machine who lives: of an earlier boot of this
    host, so that the store lets everybody claim and the simulation alone says who may."""
    return Owner(socket.gethostname(), f"simulated {owner.boot}", owner.pid, owner.started)


def _run_is_live(run: str, holder: SimOwner) -> JournalError:
    return JournalError(
        "journal.run_is_live",
        f"run {run!r} is being worked on by a process that is alive",
        expected="a run whose owner has ended",
        got=f"simulated process {holder.boot!r}",
        fix="end that process first, with kill(name) or crash()",
    )


def _admitted(append: Append) -> tuple[Record, ...]:
    """The records, once they can be kept; raises "journal.bad_record"."""
    lines = encoded(append)
    if isinstance(lines, JournalError):
        raise lines
    return append.records


def _named(owner: SimOwner) -> tuple[str, int, int]:
    return owner.boot, owner.pid, owner.started


def _body(what: dict[str, Any], records: tuple[Record, ...]) -> bytes:
    """JSON of the request, its length before it, and the payloads one after another behind it."""
    payloads = [record.payload for record in records]
    rows = [
        (record.type.value, *record[1:7], dict(record.data), *record[8:11],
         None if record.payload is None else len(record.payload),
         [(key_id, key.hex()) for key_id, key in record.keys])
        for record in records
    ]  # fmt: skip
    text = json.dumps({**what, "records": rows}).encode()
    return b"".join((len(text).to_bytes(4, "big"), text, *(p for p in payloads if p is not None)))


def _request(body: bytes) -> tuple[dict[str, Any], tuple[Record, ...]]:
    """What `_body` encoded."""
    at = 4 + int.from_bytes(body[:4], "big")
    what: dict[str, Any] = json.loads(body[4:at])
    records = []
    for type_, *fields, contract, labels, key_id, length, keys in what["records"]:
        payload = None if length is None else body[at : at + length]
        at += length or 0
        wrapped = tuple((id_, bytes.fromhex(key)) for id_, key in keys)
        row = (RecordType(type_), *fields, contract, tuple(labels), key_id, payload, wrapped)
        records.append(Record._make(row))
    return what, tuple(records)


def _frame(body: bytes, last: bytes) -> tuple[bytes, bytes]:
    """The frame around `body`, and its checksum, which the next one is chained to."""
    checksum = blake2b(last + body, digest_size=_CHECKSUM).digest()
    return len(body).to_bytes(4, "big") + checksum + body, checksum


def _scanned(data: bytes, at: int = 0, last: bytes = _FIRST) -> tuple[int, bytes]:
    """Bytes of the readable frames from the start, and the checksum of the last of them; of those
    before `at` the last has the checksum `last`."""
    while at + _PREFIX <= len(data):
        end = at + _PREFIX + int.from_bytes(data[at : at + 4], "big")
        checksum = data[at + 4 : at + _PREFIX]
        body = data[at + _PREFIX : end]
        if end > len(data) or checksum != blake2b(last + body, digest_size=_CHECKSUM).digest():
            break
        at, last = end, checksum
    return at, last


def _bodies(data: bytes, end: int) -> list[bytes]:
    """Bodies of the frames in `data[:end]`, which were scanned."""
    bodies, at = [], 0
    while at < end:
        size = int.from_bytes(data[at : at + 4], "big")
        bodies.append(data[at + _PREFIX : at + _PREFIX + size])
        at += _PREFIX + size
    return bodies
