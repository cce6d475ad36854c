"""The trace of a run: a hash of every scheduling decision, and the choices themselves."""

from __future__ import annotations

import hashlib
import sys
from array import array

_BUFFER = 16_384


class Trace:
    """Grows with the run; equal in every process for equal decisions, times and notes.

    The hash covers, per step: index taken, number of ready sources, label, virtual time in
    nanoseconds. Steps are buffered because one hash call a step costs more than the step.
    """

    __slots__ = ("_hash", "_steps", "choices", "recorded", "recorded_max")

    def __init__(self, *, recorded_max: int) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._steps = array("q")
        self.choices = 0
        """Decisions among more than one source."""
        self.recorded = array("L")
        """The index taken at each of the first `recorded_max` choices."""
        self.recorded_max = recorded_max

    def step(self, index: int, n: int, label: int, now_ns: int) -> None:
        """One decision: source `label` was taken as number `index` of `n`."""
        self._steps.extend((index, n, label, now_ns))
        if n > 1:
            if self.choices < self.recorded_max:
                self.recorded.append(index)
            self.choices += 1
        if len(self._steps) >= _BUFFER:
            self._flush()

    def note(self, text: str) -> None:
        """Add the caller's own text, at this place among the decisions."""
        self._flush()
        encoded = text.encode("utf-8", "surrogatepass")
        # A length of its own, negative, so that no text reads as a step and no two as one.
        self._hash.update((-1 - len(encoded)).to_bytes(8, "little", signed=True) + encoded)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        if sys.byteorder == "big":
            self._steps.byteswap()
        self._hash.update(self._steps.tobytes())
        del self._steps[:]
