"""What happened in a load: an append-only list of plain events, judged afterwards by a check."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

EVENTS_SAVED_MAX: Final = 20_000
BYTES_SAVED_MAX: Final = 16 * 1024 * 1024
_FIRED: Final = "fault"


class HistoryEvent(NamedTuple):
    """One thing that happened. `data` holds plain JSON values."""

    kind: str
    data: Mapping[str, Any]


class History:
    """Events in the order recorded, and the size parameters they were made under.

    Only `load` appends; `check` reads. Threads may append at the same time: each event is whole,
    their order is the order of arrival.
    """

    __slots__ = ("_events", "sizes")

    def __init__(self, sizes: Mapping[str, Any] | None = None) -> None:
        self.sizes: Mapping[str, Any] = dict(sizes or {})
        self._events: list[HistoryEvent] = []

    def record(self, kind: str, /, **data: Any) -> None:
        """Append one event."""
        self._events.append(HistoryEvent(kind, data))

    def fired(self, fault: str, times: int = 1) -> None:
        """Tell that a fault of the header really happened, `times` times.

        Call it where the fault's effect was seen (the process is dead, the write was torn), not
        where it was ordered.
        """
        self.record(_FIRED, name=fault, times=times)

    def faults_fired(self) -> dict[str, int]:
        """The faults told by `fired`, and how often."""
        found: dict[str, int] = {}
        for event in self.of(_FIRED):
            name = event.data["name"]
            found[name] = found.get(name, 0) + event.data["times"]
        return found

    @property
    def events(self) -> tuple[HistoryEvent, ...]:
        """Everything recorded so far."""
        return tuple(self._events)

    def of(self, kind: str) -> Iterator[HistoryEvent]:
        """The events of one kind, in order."""
        return (event for event in self._events if event.kind == kind)

    def count(self, kind: str) -> int:
        """How many events of `kind` there are."""
        return sum(1 for _ in self.of(kind))

    def total(self, kind: str, field: str) -> float:
        """The sum of a numeric field over the events of `kind`."""
        return float(sum(event.data[field] for event in self.of(kind)))

    def last(self, kind: str) -> HistoryEvent | None:
        """The latest event of `kind`, or None."""
        return next((event for event in reversed(self._events) if event.kind == kind), None)

    def __len__(self) -> int:
        return len(self._events)

    def save(self, path: Path) -> None:
        """Write JSON lines: sizes first, then events, the middle left out past the bounds.

        At most EVENTS_SAVED_MAX events or BYTES_SAVED_MAX bytes are kept, half of each from the
        start and half from the end; a line `left_out` says how many were dropped between.
        """
        with path.open("w", encoding="utf-8") as file:
            file.write(_line({"sizes": self.sizes, "events": len(self._events)}))
            for line in self._bounded_lines():
                file.write(line)

    def _bounded_lines(self) -> Iterator[str]:
        head = _within(iter(self._events))
        rest = len(self._events) - len(head)
        tail = _within(self._events[at] for at in range(-1, -rest - 1, -1))
        yield from head
        if rest > len(tail):
            yield _line({"left_out": rest - len(tail)})
        yield from reversed(tail)

    @classmethod
    def read(cls, path: Path) -> History:
        """A saved history. What `save` left out is not in it."""
        with path.open(encoding="utf-8") as file:
            history = cls(json.loads(file.readline())["sizes"])
            for line in file:
                event = json.loads(line)
                if "kind" in event:
                    history._events.append(HistoryEvent(event["kind"], event["data"]))
        return history


def _within(events: Iterator[HistoryEvent]) -> list[str]:
    """Lines of the leading events that fit half of the bounds."""
    lines: list[str] = []
    size = 0
    for event in events:
        line = _line({"kind": event.kind, "data": event.data})
        size += len(line)
        if len(lines) >= EVENTS_SAVED_MAX // 2 or size > BYTES_SAVED_MAX // 2:
            break
        lines.append(line)
    return lines


def _line(value: Mapping[str, Any]) -> str:
    # Evidence must always be written: what JSON cannot hold is shown by its repr, shortened.
    try:
        return json.dumps(value, default=lambda odd: repr(odd)[:500]) + "\n"
    except (TypeError, ValueError):  # keys that are no strings, or a circle
        return json.dumps({**value, "data": {"repr": repr(value.get("data"))[:2_000]}}) + "\n"
