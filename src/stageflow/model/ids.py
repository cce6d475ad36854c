"""Run ids: sortable by time, unique without coordination, in order within one generator.

RFC 9562, section 6.2 (monotonicity and counters) and 6.9 (unguessability) say what such ids need;
the layout is ULID's cut anew (https://github.com/ulid/spec), so that each part is whole letters:

    characters   0 to 11   48 bits of milliseconds since 1970, then 12 bits of counter
    characters  12 to 17   30 bits that tell the generator: drawn anew by each process
    characters  18 to 25   40 bits from the operating system, drawn for every id

Letters are base32hex (RFC 4648, section 7), lower case, which keep the order of the bits.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from typing import Final

_LETTERS: Final = "0123456789abcdefghijklmnopqrstuv"
_PAIRS: Final = tuple(first + second for first in _LETTERS for second in _LETTERS)
"""Ten bits as two letters."""
_NS_PER_MS: Final = 1_000_000


class RunIds:
    """Makes run ids: each call gives the next, 26 characters, greater than all before it.

    Safe to call from threads, from signal handlers and on both sides of a fork. What threatens it:

    * The clock stands still or is set back: the counter goes on from the last id, into the next
      milliseconds when it runs over, until the clock has caught up.
    * A fork: the child finds another process id and begins anew, with bits of its own.
    * A copy, by `copy`, pickle or otherwise: it is a generator of its own.
    * A memory image that runs twice, or a process id that comes twice: 40 bits of each id, and 11
      of the first counter of each millisecond, come from the kernel then and there.
    * A kernel that gives two processes the same bits, as clones of one machine may for a while:
      process id and a fine clock go into the bits of the generator. Where these are equal, too,
      no generator can help, and a journal refuses the second run of an id: `journal.run_exists`.
    """

    __slots__ = ("_clock_ns", "_place", "_sequences")

    def __init__(
        self, clock_ns: Callable[[], int] | None = None, place: bytes | None = None
    ) -> None:
        """`clock_ns` gives nanoseconds since 1970, None the system's clock. `place` goes into the
        generator's bits instead of process id and time, which no seed reproduces."""
        self._clock_ns = clock_ns
        self._place = place
        self._sequences: dict[int, _Sequence] = {}
        """By process id: this process's own and, right after a fork, its parent's."""

    def __call__(self) -> str:
        sequence = self._sequences.get(os.getpid())
        if sequence is None:
            sequence = self._begun()
        clock = self._clock_ns
        drawn = int.from_bytes(os.urandom(8), "big")
        head, low = sequence.next((time.time_ns if clock is None else clock)() // _NS_PER_MS, drawn)
        return (
            f"{head}{_PAIRS[low]}{sequence.own}{_PAIRS[drawn >> 30 & 1023]}"
            f"{_PAIRS[drawn >> 20 & 1023]}{_PAIRS[drawn >> 10 & 1023]}{_PAIRS[drawn & 1023]}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return RunIds, (self._clock_ns, self._place)

    def _begun(self) -> _Sequence:
        """This process's sequence. Threads that come at once get one and the same: setdefault is
        one step. The parent's is never touched, since a thread may have held its lock."""
        pid = os.getpid()
        place = b"%d %d" % (pid, time.perf_counter_ns()) if self._place is None else self._place
        sequence = self._sequences.setdefault(pid, _Sequence(place))
        for other in [known for known in self._sequences if known != pid]:
            self._sequences.pop(other, None)
        return sequence


class _Sequence:
    """The ids that one generator makes in one process."""

    __slots__ = ("_head", "_high", "_last", "_lock", "own")

    def __init__(self, place: bytes) -> None:
        digest = hashlib.blake2b(os.urandom(16), key=place[:64], digest_size=8).digest()
        bits = int.from_bytes(digest, "big")
        self.own = _PAIRS[bits >> 20 & 1023] + _PAIRS[bits >> 10 & 1023] + _PAIRS[bits & 1023]
        """Characters 12 to 17 of each of its ids."""
        self._last = -1
        """Milliseconds and counter of the last id, 60 bits."""
        self._high = -1
        """The upper 50 bits of `_last`, of which `_head` is the text."""
        self._head = ""
        self._lock = threading.RLock()
        """Protects the three above. A signal's handler that makes an id enters it once more."""

    def next(self, now_ms: int, drawn: int) -> tuple[str, int]:
        """Of the next id: the text of its upper 50 bits, and the 10 bits after them.

        Each millisecond's counter begins below its half, at 11 of the bits `drawn`.
        """
        floor = now_ms << 12
        with self._lock:
            last = self._last
            last = self._last = last + 1 if last >= floor else floor | drawn >> 53
            high = last >> 10
            if high != self._high:
                self._head = "".join(_PAIRS[high >> shift & 1023] for shift in (40, 30, 20, 10, 0))
                self._high = high
            return self._head, last & 1023


def seed_of(*parts: str) -> int:
    """A seed of 48 bits that follows from `parts` alone, in every process."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big")
