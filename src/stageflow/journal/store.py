"""What a store of runs is: the values it takes and gives, and the promises it makes.

`stageflow.journal.conformance.check_store` executes every promise written here.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from stageflow.model.errors import JournalError
from stageflow.model.record import Record

RUNNING = "running"
"""Status of a run without a RUN_ENDED record, or claimed again after it was suspended."""
QUEUED = "queued"
"""Status of a run that waits for its first owner."""
SUSPENDED = "suspended"
"""Status of a run that waits without an owner; the one ending that any claim undoes."""
OK = "ok"
"""Status of a run that has all it was asked for; the one ending that no claim undoes."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One process, told apart from every other that had or will have its pid."""

    host: str
    boot: str
    """Kernel boot id; "" where the platform has none."""
    pid: int
    started: int
    """Clock ticks between boot and the process's start; 0 where the platform does not tell."""

    @classmethod
    def this_process(cls) -> Owner:
        """The calling process. Differs between a process and its forked child."""
        return cls.of_process(os.getpid())

    @classmethod
    def of_process(cls, pid: int) -> Owner:
        """The process that has `pid` on this host now."""
        return cls(socket.gethostname(), _boot_id(), pid, _started(pid) or 0)

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None when this host can't tell.

        A zombie is dead: it runs no code. Without /proc a reused pid reads as alive, because a
        wrong "alive" refuses a claim and a wrong "dead" lets two owners run.
        """
        if self.host != socket.gethostname():
            return None
        if self.boot != _boot_id():
            return False
        if Path("/proc/self/stat").exists():
            return _started(self.pid) == self.started
        return _pid_exists(self.pid)


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What is known of a run before its first record. Never changes."""

    run: str
    tenant: str
    pipeline: str
    """The pipeline's display name."""
    target: str | None
    """`module:attr` of the pipeline; None when a resume must be given the pipeline."""
    session: str | None
    parent: str | None
    correlation: str | None
    created_wall_s: float
    fingerprints: Mapping[str, str]
    """Node name -> fingerprint of kind, wiring, contract and version."""
    seed: int


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of a listing."""

    header: RunHeader
    status: str
    """"queued", "running", "suspended", a final status, or "damaged" when the run's state can't be
    read."""
    reason: str
    records: int
    epoch: int
    owner: Owner | None
    """None once the run ended or was suspended."""
    live: bool | None
    """Whether the owner runs; None when unknown; False without an owner."""
    updated_wall_s: float


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run with its whole history, every checksum verified."""

    header: RunHeader
    epoch: int
    status: str
    reason: str
    records: tuple[Record, ...]
    """In order of seq, from 1, without gaps."""
    owner: Owner | None = None
    """None once the run ended or was suspended."""
    keys: Mapping[str, bytes] = field(default_factory=dict)
    """Wrapped keys of the run by id, as far as they were not destroyed."""


class LineTurn(NamedTuple):
    """A turn that is not over."""

    run: str
    number: int
    """0 until it begins."""
    status: str
    """RUNNING or SUSPENDED."""


class EndedTurn(NamedTuple):
    """A turn that ended ok. Never changes."""

    number: int
    run: str


class SessionTurns(NamedTuple):
    """Where a session stands."""

    begun: int
    """Numbers given out; the next turn that begins has the next one."""
    line: tuple[LineTurn, ...]
    """Turns that are not over and whose owner has not ended: one that has begun first, then in
    order of arrival."""
    ended: tuple[EndedTurn, ...]
    """Turns that ended ok, the latest first."""


class RefusedWrite(NamedTuple):
    """What an owner wrote after another had taken its run: kept beside the history."""

    record: Record
    """As it was refused; without its payload when that was above 64 KiB."""
    epoch: int
    """Under which it was written."""
    held_epoch: int
    """Which the run had by then."""
    refused_wall_s: float
    """By the store's clock."""


class Append(NamedTuple):
    """Records one owner adds to one run: all of them become visible, or none."""

    run: str
    epoch: int
    records: tuple[Record, ...]


class Store(Protocol):
    """Blocking. One thread writes while others read; more writers wait for each other.

    Every method may raise JournalError "journal.damaged", "journal.write_failed" or
    "journal.read_failed" with the cause kept. Nothing is retried inside except the wait for
    another process's lock.

    A run whose header has a session and no parent is a *turn*. `create` puts it last in the line of
    its tenant's session. It begins with a TURN record that has the session's next number, which
    `create` and `commit` take only when nobody is in its way, and refuse whole with
    "journal.not_its_turn" otherwise. In the way are a turn that has begun and one that arrived
    earlier, until they have ended or their owner has; a suspended turn is. `claim` of a turn that
    goes on puts it into the line again, where it was, and it begins again under a number of its
    own. `stageflow.journal.turns` decides all this for any store.

    `keys` of a record are kept apart from it, and ids listed as "shreds" in its data are destroyed,
    in the transaction that writes the record (`stageflow.journal.shredding`). A key that was
    destroyed is in no file of the store any more once its log was written back, as far as the store
    can tell its file system and its database so.
    """

    def create(self, header: RunHeader, owner: Owner, records: tuple[Record, ...]) -> int:
        """Start a run, durably, and return its epoch, 1.

        Raises "journal.run_exists", "journal.bad_record", "journal.out_of_order",
        "journal.already_accepted", "journal.not_its_turn"; the run that exists is left as it was.
        """
        ...

    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        """Write all of `batch` in ONE durable transaction; each item is accepted or refused alone.

        The answer at place i is None, or why item i was refused: "journal.unknown_run",
        "journal.bad_record", "journal.stale_owner", "journal.run_ended", "journal.out_of_order",
        "journal.already_accepted", "journal.not_its_turn". Raises when nothing of the batch was
        written.
        """
        ...

    def claim(self, run: str, owner: Owner, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        """Take an unfinished run over: epoch + 1 and a CLAIMED record, in one transaction.

        The current owner may claim again. A finished run comes back unchanged, unless `rerun` is
        given and it did not end ok: then it goes on; or has UNDO_RUN, to be taken back. `rerun`
        names the nodes whose unknown effects may be repeated, and is kept in the CLAIMED record.
        Raises
        "journal.unknown_run", "journal.run_is_live", "journal.owner_unknown".
        """
        ...

    def release(self, run: str, epoch: int) -> None:
        """Let go of an unfinished run, so that anybody may claim it at once.

        Until somebody has, nothing more is taken: "journal.stale_owner". Does nothing when the run
        has ended, is unknown, or is not owned in `epoch` any more.
        """
        ...

    def load(self, run: str) -> LoadedRun:
        """Read a run; never waits for a writer. Raises "journal.unknown_run"."""
        ...

    def erase(self, run: str) -> int:
        """Destroy all keys of a run; returns how many there were. Its records stay. Raises
        "journal.unknown_run"."""
        ...

    def holds(self, run: str, *, tenant: str) -> bool:
        """Whether there is such a run of that tenant. Another tenant's run takes the same work as
        one that does not exist: one look-up by both."""
        ...

    def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        """The latest runs by creation, newest first; of one tenant when given."""
        ...

    def turns(
        self, tenant: str, session: str, *, before: int | None = None, limit: int = 50
    ) -> SessionTurns:
        """Where a session of a tenant stands; one that nobody knows has no turns.

        `ended` holds turns numbered below `before`; it and `line` hold `limit` at most.
        """
        ...

    def close(self) -> None:
        """Release everything; a second close does nothing."""
        ...


@runtime_checkable
class TellsLosses(Protocol):
    """A store that notices by itself that another owner has taken a run."""

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """`tell` is called, on another thread, with each run of this process that was taken."""
        ...


@runtime_checkable
class KeepsRefused(Protocol):
    """A store that keeps what former owners of a run wrote too late."""

    def refused(self, run: str) -> tuple[RefusedWrite, ...]:
        """What was refused of `run`, oldest first; the number kept of one run is bounded."""
        ...


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat (proc(5)); None when there is no such process, or a dead one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command, field 2, may hold spaces and parentheses: count from its last parenthesis.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _pid_exists(pid: int) -> bool | None:
    if sys.platform == "win32":
        return True if pid == os.getpid() else None  # signal 0 there is Ctrl-C, not a question
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
