"""A batch of appends on its way: what to write, and which answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stageflow.journal.admission import Head, refusal
from stageflow.journal.line import Line, encoded
from stageflow.journal.postgres.statements import Columns, NewHead
from stageflow.journal.store import Append
from stageflow.journal.turns import turn_begun_by
from stageflow.model.errors import JournalError
from stageflow.model.record import Record

Known = Mapping[str, NewHead | JournalError]
"""Where runs stand, or why that can't be told."""
Accepted = Callable[[str, str, int], tuple[int, int] | None]
"""Attempt and token of the accepted outcome of (run, node, revision) in the database, or None."""
Begin = Callable[[Append, Record], JournalError | None]
"""Begins the turn of an append by its record, or says why not."""


@dataclass(slots=True)
class Batch:
    """One commit: its items, and the answers that are known so far."""

    items: Sequence[Append]
    lines: list[tuple[Line, ...] | JournalError] = field(init=False)
    answers: dict[int, JournalError | None] = field(default_factory=dict)
    planned: dict[int, JournalError | None] = field(default_factory=dict)
    """Answers that count as soon as what was sent is known to be committed."""
    heads: dict[str, NewHead] = field(default_factory=dict)
    """Where the runs stand then."""

    def __post_init__(self) -> None:
        self.lines = [encoded(append) for append in self.items]

    @property
    def open(self) -> list[int]:
        """Items without an answer."""
        return [place for place in range(len(self.items)) if place not in self.answers]

    def runs(self) -> list[str]:
        """Runs of open items."""
        return list(dict.fromkeys(self.items[place].run for place in self.open))

    def in_order(self) -> list[JournalError | None]:
        """All answers, in order of the items."""
        return [self.answers[place] for place in range(len(self.items))]

    def begins_turns(self) -> bool:
        """Whether an open item begins a turn of a session, which heads alone don't decide."""
        return any(turn_begun_by(self.items[place].records) for place in self.open)

    def plan(
        self,
        known: Known,
        accepted: Accepted,
        *,
        now_wall_s: float,
        begin: Begin | None = None,
    ) -> Columns | None:
        """What to write for the open items, by `known` heads; None when one is not known.

        `begin` decides about turns, and may take owners from heads in `known` and `heads`.
        """
        columns = Columns()
        self.planned, self.heads = {}, {}
        for place in self.open:
            append, lines = self.items[place], self.lines[place]
            run = append.run
            found = self.heads.get(run) or known.get(run)
            if found is None:
                return None
            if isinstance(found, JournalError):
                self.planned[place] = found
                continue
            if isinstance(lines, JournalError):
                self.planned[place] = lines
                continue
            head, last = found
            refused = refusal(
                append,
                head,
                lambda *key, run=run: columns.accepted.get((run, *key)) or accepted(run, *key),
            )
            begins = None if refused is not None else turn_begun_by(append.records)
            if begins is not None and begin is not None:
                refused = begin(append, begins)
            self.planned[place] = refused
            if refused is None:
                last = columns.add(append, lines, last=last)
                self.heads[run] = (head.after(append.records, now_wall_s=now_wall_s), last)
        for run, new in self.heads.items():
            before = known[run]
            assert not isinstance(before, JournalError), "only known heads move on"
            columns.move(run, before, new)
        return columns

    def late(self, known: Known) -> Columns:
        """The lines of items that come from former owners."""
        late = Columns()
        for place, answer in self.planned.items():
            append, lines = self.items[place], self.lines[place]
            head = known[append.run]
            if isinstance(head, JournalError) or isinstance(lines, JournalError) or answer is None:
                continue
            if answer.code == "journal.stale_owner" and append.epoch <= head[0].epoch:
                late.add(append, lines, last=b"", is_kept=False)
        return late


def follows(run: str, before: NewHead, head: Head, record: Record) -> tuple[Columns, NewHead]:
    """`record` after `before`, under `head`."""
    append = Append(run, head.epoch, (record,))
    lines = encoded(append)
    assert not isinstance(lines, JournalError), f"our own record was refused: {lines}"
    columns = Columns()
    last = columns.add(append, lines, last=before[1])
    new = (head.after((record,), now_wall_s=record.wall_s), last)
    columns.move(run, before, new)
    return columns, new
