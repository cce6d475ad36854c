"""What a turn sees of the session it belongs to: earlier turns that ended ok, inside a window."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from stageflow.model.errors import BuildError
from stageflow.model.labels import NONE, Labels
from stageflow.model.values import content_hash, thaw

TURNS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Window:
    """How much of a session its next turn sees: the latest turns without a gap, as many as fit.

    What has left the window stays in the journal, and `Runtime.session` reads it.
    """

    turns: int = 32
    """At most this many; 0 to 10,000."""
    bytes: int = 256 * 1024
    """Of their inputs and outputs, encoded as a journal keeps them."""

    def __post_init__(self) -> None:
        for name, value, most in (
            ("turns", self.turns, TURNS_MAX),
            ("bytes", self.bytes, None),
        ):
            if type(value) is not int or value < 0 or (most is not None and value > most):
                raise BuildError(
                    "session.window",
                    f"a window can't have {name}={value!r}"[:120],
                    field=name,
                    expected="a whole number from 0" + (f" to {most:,}" if most else ""),
                    fix="Window(turns=32, bytes=262144)",
                )


class TurnValues(NamedTuple):
    """Canonical values of one turn; never handed out."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    is_single: bool
    """Whether one stage was declared as the output, and not several."""


class PastTurn:
    """A turn that ended ok. Its values are decoded when they are asked for; they never change."""

    __slots__ = ("_hash", "_read", "_values", "labels", "number", "run", "size_bytes")

    def __init__(
        self,
        number: int,
        run: str,
        size_bytes: int,
        read: Callable[[], TurnValues],
        labels: Labels = NONE,
    ) -> None:
        self.number = number
        self.labels = labels
        """Of its inputs and outputs, as far as later turns see them."""
        self.run = run
        self.size_bytes = size_bytes
        self._read: Callable[[], TurnValues] | None = read
        self._values: TurnValues | None = None
        self._hash = ""

    def values(self) -> TurnValues:
        """Threads may ask at once: each decodes for itself then, to equal values."""
        values = self._values
        if values is None:
            read = self._read
            values = self._values if read is None else read()
            assert values is not None, "the values are there before the way to read them is gone"
            self._values = values
            self._read = None
        return values

    def content_hash(self) -> str:
        if not self._hash:
            values = self.values()
            digest = hashlib.blake2b(digest_size=32)
            for kind, held in (("input", values.inputs), ("output", values.outputs)):
                for name in sorted(held):
                    digest.update(f"{kind} {name} {content_hash(held[name])}\n".encode())
            self._hash = digest.hexdigest()
        return self._hash


class Seen(NamedTuple):
    """What one turn sees of its session, from its first stage to its last resume."""

    session: str
    turns: tuple[PastTurn, ...]
    """Oldest first."""
    is_whole: bool

    @property
    def labels(self) -> Labels:
        """Of all of them."""
        return NONE.union(*(turn.labels for turn in self.turns))


class Turn:
    """An earlier turn of a session. Values come out as private copies.

    Reading one raises RunError `session.unreadable` when the pipeline that made them can't be
    found, or has other types by now.
    """

    __slots__ = ("_past",)

    def __init__(self, past: PastTurn) -> None:
        self._past = past

    @property
    def number(self) -> int:
        """Turns count from 1, in the order in which they began; those that did not end ok, too."""
        return self._past.number

    @property
    def run(self) -> str:
        """The id of its run."""
        return self._past.run

    @property
    def inputs(self) -> dict[str, Any]:
        """By name, as guards let them pass; one that a guard blocked is left out."""
        return {name: thaw(value) for name, value in self._past.values().inputs.items()}

    @property
    def outputs(self) -> dict[str, Any]:
        """The declared outputs by node name."""
        return {name: thaw(value) for name, value in self._past.values().outputs.items()}

    @property
    def output(self) -> Any:
        """The declared output; as in `run.output` a dict by node name when several were."""
        values = self._past.values()
        if values.is_single:
            return thaw(next(iter(values.outputs.values())))
        return self.outputs

    def __getitem__(self, node: str) -> Any:
        """The output of one node. KeyError when it was no declared output."""
        return thaw(self._past.values().outputs[node])

    @property
    def content_hash(self) -> str:
        """64 hexadecimal digits, equal for equal inputs and outputs."""
        return self._past.content_hash()

    def __repr__(self) -> str:
        return f"<turn {self.number}: run {self.run}>"


class Session:
    """The earlier turns that a run sees, oldest first. The same after a crash as before it."""

    __slots__ = ("_seen",)

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    @property
    def name(self) -> str:
        """As it was given to `using(session=...)`."""
        return self._seen.session

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Those that ended ok before this run began, inside its window; oldest first."""
        return tuple(Turn(past) for past in self._seen.turns)

    @property
    def is_whole(self) -> bool:
        """False when older turns have left the window."""
        return self._seen.is_whole

    def __len__(self) -> int:
        return len(self._seen.turns)

    def __iter__(self) -> Iterator[Turn]:
        return iter(self.turns)

    @property
    def content_hash(self) -> str:
        """64 hexadecimal digits over the turns' contents, in their order."""
        digest = hashlib.blake2b(digest_size=32)
        for past in self._seen.turns:
            digest.update(past.content_hash().encode())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"<session {self.name!r}: {len(self)} turns>"
