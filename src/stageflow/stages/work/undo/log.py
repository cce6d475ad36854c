"""What the records of one timeline mean, and what is to be done to take steps back: pure.

A step's place is (resource, key); the steps at one place form its chain. Taking a step back means
that what was before it is written once more, as a step of its own, so that an undo can be undone.
It may be written only while the place is as the chain's last step left it: whoever changed it since
has changed something that the log knows nothing of.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from stageflow.stages.work.undo import records as on_record
from stageflow.stages.work.undo.records import Record, State
from stageflow.stages.work.undo.resource import FormLost

Place: TypeAlias = tuple[str, str]
"""Resource and key."""
Adapted: TypeAlias = Callable[[str, bytes | None, str, str], bytes | None]
"""Resource, content, its form and another form to the content in the other form; raises FormLost
when that content can't be had in it."""


class StepStanding(enum.Enum):
    """What became of a step."""

    OPEN = "open"
    """Its intent is on record and nothing else: being made, or cut off."""
    ACTED = "acted"
    DROPPED = "dropped"
    DOUBTED = "doubted"
    """It may have happened."""


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """One change of a timeline, or one act that can't be taken back."""

    number: int
    standing: StepStanding
    resource: str
    key: str
    """Of what was sent: a digest of it."""
    by: str
    op: str = ""
    before: State | None = None
    """None of what was sent."""
    intended: bytes | None = None
    after: State | None = None
    """None until it is known."""
    undoes: tuple[int, ...] = ()
    """The steps that it takes back, latest first."""
    undo: int = 0
    permitted_by: str = ""
    """Who let it be sent."""
    at_s: float = 0.0
    """When it began, by the store's clock, since the epoch."""

    @property
    def is_final(self) -> bool:
        """Whether nobody can take it back."""
        return self.before is None

    @property
    def place(self) -> Place:
        """Where it changes something."""
        return self.resource, self.key


@dataclass(frozen=True, slots=True)
class Conflict:
    """A step that was not taken back, and so none before it at its place."""

    step: int
    resource: str
    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of an undo."""

    undo: int
    """1, 2, ... in the timeline; 0 of a preview."""
    steps: tuple[int, ...]
    """Taken back, latest first."""
    conflicts: tuple[Conflict, ...]
    """What somebody else has changed since, or nobody knows the state of; left as it is."""
    kept: tuple[int, ...]
    """Acts within the range that nobody can take back."""
    last_step: int
    """Of the timeline afterwards: undo_to(last_step) will bring this state back."""


class Log:
    """The records of one timeline, read in order. At most one step is open at a time."""

    __slots__ = (
        "_conflicts",
        "_matched",
        "_ops",
        "_permit_ops",
        "_permits",
        "_used",
        "length",
        "steps",
        "undo",
        "undos",
    )

    def __init__(self) -> None:
        self.length = 0
        """Records read."""
        self.steps: list[TimelineStep] = []
        """Step n is at n - 1."""
        self.undo: on_record.Begun | None = None
        """The undo that is begun and not ended."""
        self.undos: list[on_record.Begun] = []
        """Undo n is at n - 1."""
        self._ops: dict[str, int] = {}
        """Latest step of each op."""
        self._conflicts: dict[int, list[Conflict]] = defaultdict(list)
        """By undo."""
        self._matched: dict[int, list[int]] = defaultdict(list)
        self._permit_ops: set[str] = set()
        self._permits: dict[str, on_record.Permitted] = {}
        """By digest: leave that was given and not used."""
        self._used: dict[int, on_record.Permitted] = {}
        """By step: leave that comes back should the step be dropped."""

    def apply(self, record: Record) -> None:
        """One record more."""
        self.length += 1
        match record:
            case on_record.Intended():
                self._add(_intended(record))
            case on_record.Sending():
                self._add(_sending(record))
                self._used[record.step] = self._permits.pop(record.digest)
            case on_record.Acted(step, after):
                self._set(step, StepStanding.ACTED, after)
                self._used.pop(step, None)
            case on_record.Voided(step, _):
                self._drop(step)
            case on_record.Doubted(step, found):
                self._set(step, StepStanding.DOUBTED, found)
            case on_record.Settled(step, happened, _):
                if happened:
                    self._set(step, StepStanding.ACTED, self.step(step).after)
                else:
                    self._drop(step)
            case on_record.Permitted(digest, _, _, op):
                self._permits[digest] = record
                self._permit_ops.add(op)
            case on_record.Begun():
                self.undo = record
                self.undos.append(record)
            case on_record.Matched(undo, undoes):
                self._matched[undo] += undoes
            case on_record.Conflicted(undo, step, why):
                self._conflicts[undo].append(Conflict(step, *self.step(step).place, why))
            case on_record.Ended():
                self.undo = None
            case on_record.Keyed():
                pass  # it says nothing of what happened
            case on_record.Sealed():
                raise AssertionError("a sealed record is opened before it is read")

    def _add(self, step: TimelineStep) -> None:
        assert step.number == len(self.steps) + 1, f"step {step.number} after {len(self.steps)}"
        self.steps.append(step)
        if step.op:
            self._ops[step.op] = step.number

    def _set(self, number: int, standing: StepStanding, after: State | None) -> None:
        self.steps[number - 1] = replace(self.step(number), standing=standing, after=after)

    def _drop(self, number: int) -> None:
        self._set(number, StepStanding.DROPPED, None)
        permit = self._used.pop(number, None)
        if permit is not None:
            self._permits[permit.digest] = permit

    # -- questions ---------------------------------------------------------------------------

    @property
    def open(self) -> TimelineStep | None:
        """The step whose intent is the last thing on record about it."""
        last = self.steps[-1] if self.steps else None
        return last if last is not None and last.standing is StepStanding.OPEN else None

    @property
    def is_unfinished(self) -> bool:
        """Whether somebody was cut off here."""
        return self.open is not None or self.undo is not None

    @property
    def last_step(self) -> int:
        """0 at the beginning."""
        return len(self.steps)

    def step(self, number: int) -> TimelineStep:
        """Step 1, 2, ..."""
        return self.steps[number - 1]

    @property
    def last_undo(self) -> int:
        """0 before the first."""
        return len(self.undos)

    def of_op(self, op: str) -> TimelineStep | None:
        """The latest step under this name."""
        number = self._ops.get(op) if op else None
        return None if number is None else self.step(number)

    def is_permitted(self, op: str) -> bool:
        """Whether leave was given under this name."""
        return bool(op) and op in self._permit_ops

    def undo_of_op(self, op: str) -> on_record.Begun | None:
        """The undo under this name."""
        return next((begun for begun in self.undos if op and begun.op == op), None)

    def permit(self, digest: str, now_s: float) -> on_record.Permitted | None:
        """Leave for an act that was neither used nor has run out."""
        given = self._permits.get(digest)
        return given if given is not None and now_s <= given.until_s else None

    def standing_steps(self, upto: int) -> set[int]:
        """Of the first `upto` steps: those that happened and were not taken back, or whose undo was
        taken back itself."""
        standing: set[int] = set()
        for step in self.steps[:upto]:
            if step.standing is StepStanding.ACTED:
                _stand(self, step, standing)
        return standing

    def report(self, begun: on_record.Begun) -> Restored:
        """What came of an undo, by the record."""
        steps = list(self._matched[begun.undo])
        own = [step for step in self.steps[begun.upto :] if step.undo == begun.undo]
        for step in own:
            if step.standing is StepStanding.ACTED:
                steps += step.undoes
        return Restored(
            undo=begun.undo,
            steps=tuple(sorted(steps, reverse=True)),
            conflicts=tuple(self._conflicts[begun.undo]),
            kept=kept(self, begun),
            last_step=max((step.number for step in own), default=begun.upto),
        )

    def places_done(self, undo: int) -> tuple[set[Place], set[Place]]:
        """Of an undo: places that were restored, and places whose conflict is on record."""
        restored = {self.step(number).place for number in self._matched[undo]}
        restored |= {
            step.place
            for step in self.steps
            if step.undo == undo and step.standing in (StepStanding.ACTED, StepStanding.DOUBTED)
        }
        return restored, {(each.resource, each.key) for each in self._conflicts[undo]}


def _intended(record: on_record.Intended) -> TimelineStep:
    return TimelineStep(
        record.step,
        StepStanding.OPEN,
        record.resource,
        record.key,
        record.by,
        record.op,
        before=record.before,
        intended=record.after,
        undoes=record.undoes,
        undo=record.undo,
        at_s=record.at_s,
    )


def _sending(record: on_record.Sending) -> TimelineStep:
    return TimelineStep(
        record.step,
        StepStanding.OPEN,
        record.resource,
        record.digest,
        record.by,
        record.op,
        permitted_by=record.permitted_by,
        at_s=record.at_s,
    )


def _stand(log: Log, step: TimelineStep, standing: set[int]) -> None:
    """`step` happened: it stands, and what it took back does not; what *that* took back does."""
    todo = [(step.number, True)]
    while todo:
        number, stands = todo.pop()
        (standing.add if stands else standing.discard)(number)
        todo += [(other, not stands) for other in log.step(number).undoes]


# -- what is to be done ------------------------------------------------------------------------


class Restore(NamedTuple):
    """Write `target` where `expected` is, and nothing where it is not."""

    place: Place
    expected: State
    target: State
    undoes: tuple[int, ...]
    """Latest first."""


class PlacePlan(NamedTuple):
    """What an undo does at one place: something, or why no more than that, or both."""

    place: Place
    restore: Restore | None
    conflict: Conflict | None


def wanted(log: Log, begun: on_record.Begun) -> set[int]:
    """The steps that an undo is about, those that nobody can take back among them."""
    steps = log.steps[: begun.upto]
    happened = (StepStanding.ACTED, StepStanding.DOUBTED)
    if begun.to_step >= 0:
        return {each.number for each in steps[begun.to_step :] if each.standing in happened}
    standing = log.standing_steps(begun.upto)
    return {
        each.number
        for each in steps
        if each.by == begun.node
        and not each.undoes
        and (each.number in standing or each.standing is StepStanding.DOUBTED)
    }


def kept(log: Log, begun: on_record.Begun) -> tuple[int, ...]:
    """Steps that an undo is about and nobody can take back."""
    return tuple(sorted(n for n in wanted(log, begun) if log.step(n).is_final))


def plan(log: Log, begun: on_record.Begun, adapted: Adapted) -> list[PlacePlan]:
    """What to do at each place, in the reverse order of their last steps; nothing is read.

    The same for an undo that was cut off, however far it has come.
    """
    chains: dict[Place, list[TimelineStep]] = defaultdict(list)
    for step in log.steps[: begun.upto]:
        if step.standing in (StepStanding.ACTED, StepStanding.DOUBTED) and not step.is_final:
            chains[step.place].append(step)
    about = wanted(log, begun)
    standing = log.standing_steps(begun.upto)
    plans = [
        _place_plan(place, chain, about, standing, adapted)
        for place, chain in chains.items()
        if any(step.number in about for step in chain)
    ]
    return sorted(plans, key=lambda each: -chains[each.place][-1].number)


def _place_plan(
    place: Place,
    chain: Sequence[TimelineStep],
    about: set[int],
    standing: set[int],
    adapted: Adapted,
) -> PlacePlan:
    """Walks back from the last step to the first that is wanted, or as far as that goes."""
    first = next(step.number for step in chain if step.number in about)
    undoes: list[int] = []
    target: State | None = None
    later: TimelineStep | None = None
    conflict: Conflict | None = None
    for step in reversed(chain):
        if step.number < first:
            break
        why = _obstacle(step, later, about, standing, adapted)
        if why is not None:
            left = next(n for n in _numbers(reversed(chain)) if n in about and n not in undoes)
            conflict = Conflict(left, *place, why)
            break
        if step.number in about:
            undoes.append(step.number)
            target = step.before
        later = step
    last = chain[-1].after
    if target is None or last is None:
        return PlacePlan(place, None, conflict)
    return PlacePlan(place, Restore(place, last, target, tuple(undoes)), conflict)


def _numbers(steps: Iterable[TimelineStep]) -> Iterable[int]:
    return (step.number for step in steps)


def _obstacle(
    step: TimelineStep,
    later: TimelineStep | None,
    about: set[int],
    standing: set[int],
    adapted: Adapted,
) -> str | None:
    """Why a walk back through a chain ends before this step; None when it goes on."""
    if step.standing is StepStanding.DOUBTED:
        return f"nobody knows whether step {step.number} happened"
    assert step.after is not None
    if later is not None and later.before is not None:
        why = difference(step.resource, step.after, later.before, adapted)
        if why is not None:
            return f"{why} between steps {step.number} and {later.number}"
    is_neutral = bool(step.undoes) or step.number not in standing
    if step.number not in about and not is_neutral:
        return f"changed by step {step.number} of {step.by!r} since"
    return None


def difference(resource: str, then: State, now: State, adapted: Adapted) -> str | None:
    """Why `now` is not what was left as `then`; None when it is.

    A form that has changed alone is no difference, as long as the content can be had in it.
    """
    content = then.content
    if then.form != now.form:
        try:
            content = adapted(resource, then.content, then.form, now.form)
        except FormLost as lost:
            return f"its form changed: {lost}"
    if content != now.content:
        return "changed by somebody else"
    if then.version and now.version and then.version != now.version:
        return "written by somebody else, and put back"
    return None


def judged(step: TimelineStep, now: State, adapted: Adapted) -> Record:
    """What became of a change that was cut off, by what is at its place now."""
    assert step.before is not None
    if difference(step.resource, step.before, now, adapted) is None:
        return on_record.Voided(step.number, "it was cut off before it happened")
    intended = State(step.intended, form=step.before.form)
    if difference(step.resource, intended, now, adapted) is None:
        return on_record.Acted(step.number, now)
    return on_record.Doubted(step.number, now)
