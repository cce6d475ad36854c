"""A simulated disk: append-only files whose unsynced bytes a crash may lose, tear or reorder.

Promise: bytes covered by a successful fsync survive every `crash`; only `flip` harms them. What a
crash does to the rest follows what file systems do: any prefix may be there, sectors may arrive
out of order, a file may be longer than its data and end in garbage (Pillai et al., All File
Systems Are Not Created Equal, OSDI 2014). After a failed fsync the bytes it covered are still
read back but are on no platter, and a later successful fsync does not mend that (Rebello et al.,
Can Applications Recover from fsync Failures?, ATC 2020).
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
from dataclasses import dataclass, field
from typing import Literal

Operation = Literal["write", "fsync"]


@dataclass(frozen=True, slots=True)
class DiskFailure:
    """Operations number `at`, `at` + 1, ... (`times` of them) of their kind fail with `errno`."""

    operation: Operation
    at: int
    """1 is the disk's first operation of that kind."""
    errno: int = errno.EIO
    times: int = 1


@dataclass(frozen=True, slots=True)
class DiskFaults:
    """How a disk behaves. The default is a healthy one that tears what was not synced."""

    fsync_s: tuple[float, float] = (0.000_2, 0.002)
    """Least and most virtual seconds of one fsync; drawn evenly between."""
    sector_bytes: int = 512
    """Unit in which unsynced data reaches the platter out of order."""
    capacity_bytes: int | None = None
    """Over all files; a write past it leaves what fits and fails with ENOSPC. None: no bound."""
    failures: tuple[DiskFailure, ...] = ()


@dataclass(slots=True)
class _File:
    data: bytearray = field(default_factory=bytearray)
    """What a reader sees: synced or not."""
    durable: int = 0
    """Length of the prefix that a crash leaves alone."""
    promised: int = 0
    """Length of the prefix that some fsync reported durable; a crash does not change it."""
    holes: list[tuple[int, int]] = field(default_factory=list)
    """Ranges in `data` that a failed fsync left off the platter; gone at the next crash."""
    syncing: dict[asyncio.Future[None], int] = field(default_factory=dict)
    """Length that each fsync in flight covers; a truncation shortens it."""


class SimDisk:
    """One machine's disk. Every fault is drawn from `seed`, in the order of the operations."""

    def __init__(self, *, seed: str | int, faults: DiskFaults) -> None:
        self.faults = faults
        self.crashes = 0
        self._rng = random.Random(f"disk:{seed}")
        self._files: dict[str, _File] = {}
        self._done: dict[Operation, int] = {"write": 0, "fsync": 0}
        self._ordered: list[tuple[Operation, int]] = []
        """(operation, errno) pairs of `fail`, each used up by one operation."""

    def files(self) -> tuple[str, ...]:
        """Names, sorted."""
        return tuple(sorted(self._files))

    def read(self, file: str) -> bytes:
        """What is in `file` now, synced or not; empty when nothing was written."""
        return bytes(self._file(file).data)

    def size(self, file: str) -> int:
        """Bytes in `file` now."""
        return len(self._file(file).data)

    def promised(self, file: str) -> int:
        """Length of the prefix that a successful fsync covered. No real program can ask this: it
        is for checkers, which must tell a torn tail from damage."""
        return self._file(file).promised

    def write(self, file: str, data: bytes) -> None:
        """Append to `file`'s buffer. OSError (ENOSPC, EIO): a prefix may be there all the same."""
        kept = self._file(file).data
        failing = self._failing("write")
        fits = len(data)
        if self.faults.capacity_bytes is not None:
            free = self.faults.capacity_bytes - sum(len(f.data) for f in self._files.values())
            if free < fits:
                fits, failing = max(free, 0), errno.ENOSPC
        if failing is None:
            kept += data
            return
        kept += data[: self._rng.randint(0, fits)]
        raise _failed(failing, f"write of {file!r}")

    async def fsync(self, file: str) -> None:
        """Make durable what was written to `file` before this call. OSError when it fails."""
        await self.start_fsync(file)

    def start_fsync(self, file: str) -> asyncio.Future[None]:
        """As `fsync`, without a task: the device works on when whoever asked is cancelled."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        kept = self._file(file)
        kept.syncing[done] = len(kept.data)
        least, most = self.faults.fsync_s
        latency_s = least + (most - least) * self._rng.random()
        loop.call_later(latency_s, self._finish_fsync, file, self.crashes, done)
        return done

    def _finish_fsync(self, file: str, crashes: int, done: asyncio.Future[None]) -> None:
        kept = self._file(file)
        end = kept.syncing.pop(done)
        failing = errno.EIO if crashes != self.crashes else self._failing("fsync")
        if failing is None:
            kept.durable = max(kept.durable, end)
            kept.promised = max(kept.promised, end)
            if not done.done():
                done.set_result(None)
            return
        if crashes == self.crashes and end > kept.durable:
            kept.holes.append((kept.durable, end))
        if not done.done():
            done.set_exception(_failed(failing, f"fsync of {file!r}"))

    def truncate(self, file: str, size: int) -> None:
        """Cut `file` to at most `size` bytes, durably at once (metadata is journalled)."""
        kept = self._file(file)
        del kept.data[size:]
        kept.durable = min(kept.durable, size)
        kept.promised = min(kept.promised, size)
        kept.syncing = {done: min(end, size) for done, end in kept.syncing.items()}
        kept.holes = [(start, min(end, size)) for start, end in kept.holes if start < size]

    def fail(self, operation: Operation, *, errno: int = errno.EIO, times: int = 1) -> None:
        """Make the next `times` operations of that kind fail."""
        self._ordered += [(operation, errno)] * times

    def flip(self, file: str, n: int) -> tuple[int, ...]:
        """Flip `n` different bits of `file`, synced or not; their byte offsets, sorted."""
        data = self._file(file).data
        bits = self._rng.sample(range(len(data) * 8), min(n, len(data) * 8))
        for bit in bits:
            data[bit // 8] ^= 1 << bit % 8
        return tuple(sorted(bit // 8 for bit in bits))

    def crash(self) -> None:
        """Power loss: each file keeps its durable prefix and whatever of the rest chance leaves.

        An fsync in flight fails with EIO. Afterwards what is left counts as on the platter.
        """
        self.crashes += 1
        for _, kept in sorted(self._files.items()):
            for start, end in kept.holes:
                kept.data[start:end] = bytes(end - start)
            tail = bytes(kept.data[kept.durable :])
            kept.data[kept.durable :] = self._torn(tail, start=kept.durable)
            kept.durable = len(kept.data)
            kept.holes.clear()

    def _torn(self, tail: bytes, *, start: int) -> bytes:
        """What a crash leaves of unsynced `tail`, which stands at offset `start` of its file."""
        rng = self._rng
        outcome = rng.choice(("nothing", "all", "prefix", "prefix", "garbage", "sectors"))
        if outcome == "nothing" or not tail:
            return b""
        if outcome == "all":
            return tail
        if outcome == "prefix":
            return tail[: rng.randint(0, len(tail))]
        if outcome == "garbage":
            cut = rng.randint(0, len(tail))
            return tail[:cut] + rng.randbytes(rng.randint(1, self.faults.sector_bytes))
        left = bytearray()
        at = 0
        while at < len(tail):
            # Sectors are aligned in the file, so the first piece may be short.
            end = min(at + self.faults.sector_bytes - (start + at) % self.faults.sector_bytes,
                      len(tail))  # fmt: skip
            piece = tail[at:end]
            left += rng.choice((piece, piece, bytes(len(piece)), rng.randbytes(len(piece))))
            at = end
        return bytes(left)

    def _failing(self, operation: Operation) -> int | None:
        """Count one operation; its errno when it has to fail."""
        self._done[operation] = number = self._done[operation] + 1
        for place, (ordered, code) in enumerate(self._ordered):
            if ordered == operation:
                del self._ordered[place]
                return code
        for failure in self.faults.failures:
            if failure.operation == operation and 0 <= number - failure.at < failure.times:
                return failure.errno
        return None

    def _file(self, name: str) -> _File:
        return self._files.setdefault(name, _File())


def _failed(code: int, what: str) -> OSError:
    return OSError(code, f"{os.strerror(code)} (simulated {what})")
