"""What a story should have come to, by the facts alone, and how that compares: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from .undo_stories import PLACES, Place
from .undo_truth import COLUMN, Fact, Permit, Sent, StepSeen, UndoSeen, equal, in_form

ACTED, DROPPED, DOUBTED = "acted", "dropped", "doubted"
FORM: Final[Place] = ("rows", "")
"""Where a change of the table's form is noted."""


@dataclass
class Seen:
    """One story, as it went."""

    name: str
    facts: list[Fact] = field(default_factory=list)
    letters: list[Permit | Sent] = field(default_factory=list)
    undos: list[UndoSeen] = field(default_factory=list)
    steps: list[StepSeen] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    """What each process was doing when it died."""
    refused: int = 0
    """Letters that nobody had permitted, and that were not sent."""
    is_unfinished: bool = False
    """Whether something was half done in the end, when all had been recovered."""


class Walk(NamedTuple):
    """What an undo finds at a place, by the facts so far."""

    is_changed: bool
    """Whether a step after the target changed it."""
    value: Any
    """What was there before the first of them."""
    is_theirs: bool
    """Whether somebody else wrote there after it."""
    last: Any
    """What the last of them left."""
    may_be_lost: bool
    """Whether a column was dropped after it."""
    is_lost: bool
    """Whether `value` has a column that is not there any more."""


def walked(facts: Sequence[Fact], target: int, upto: int) -> Walk:
    """Reads the facts of one place, and of the table's form, in order."""
    value: Any = None
    last: Any = None
    is_changed = is_theirs = was_dropped = False
    has_column = False
    for fact in facts:
        if fact.who == "form":
            has_column = bool(fact.value)
            was_dropped |= is_changed and not has_column
            value = value if is_changed else in_form(value, has_column=has_column)
            last = in_form(last, has_column=has_column)
        elif fact.who == "ours" and target < fact.step <= upto:
            is_changed = True
        elif fact.who == "theirs" and is_changed:
            is_theirs, last = True, fact.value
        elif not is_changed:
            value = fact.value
    is_lost = isinstance(value, dict) and COLUMN in value and not has_column
    return Walk(is_changed, value, is_theirs, last, was_dropped, is_changed and is_lost)


def noticed(facts: Iterable[Fact]) -> list[Fact]:
    """Without what leaves no trace anywhere: somebody's value that came to an empty place and went
    again, since what is not there has no version."""
    kept: list[Fact] = []
    run: list[Fact] = []
    start: Any = None
    for fact in facts:
        if fact.who == "ours":
            kept += _run(run, start)
            kept.append(fact)
            run, start = [], fact.value
        else:
            run.append(fact)
    return kept + _run(run, start)


def _run(run: list[Fact], start: Any) -> list[Fact]:
    theirs = [fact for fact in run if fact.who == "theirs"]
    if theirs and start is None and theirs[-1].value is None:
        return [fact for fact in run if fact.who == "form"]
    return run


# -- undos ---------------------------------------------------------------------------------------


class PlaceResult(NamedTuple):
    """One place of one undo."""

    place: Place
    is_clean: bool
    """Whether nobody else had changed it, so that its state must be back."""
    is_conflict: bool
    """Whether somebody had, so that it must be reported."""
    is_right: bool
    told: str


def undo_results(seen: Seen, undo: UndoSeen) -> list[PlaceResult]:
    """Of every place that the undo is about."""
    doubted = {
        step.place
        for step in seen.steps
        if step.standing == DOUBTED and undo.target < step.number <= undo.last
    }
    found = []
    for place in PLACES:
        result = _place_result(seen, undo, place, place in doubted)
        if result is not None:
            found.append(result)
    return found


def _place_result(seen: Seen, undo: UndoSeen, place: Place, is_doubted: bool) -> PlaceResult | None:
    """None where the undo has nothing to do, and did nothing."""
    about = {place, FORM} if place[0] == FORM[0] else {place}
    past = [(n, fact) for n, fact in enumerate(seen.facts[: undo.end]) if fact.place in about]
    own = [n for n, fact in past if fact.step > undo.upto and fact.who == "ours"]
    upto = own[0] if own else undo.end
    walk = walked(noticed(fact for n, fact in past if n < upto), undo.target, undo.upto)
    is_reported = place in undo.conflicts
    written = [seen.facts[n].value for n in own]
    told = f"{place}: {walk}, written {written}, {'reported' if is_reported else 'not reported'}"
    if is_doubted or (walk.may_be_lost and (own or not walk.is_lost)):
        return None  # either is right; what was written is judged with all other writes
    if not walk.is_changed:
        return PlaceResult(place, True, False, False, told) if own or is_reported else None
    if walk.is_theirs or walk.is_lost:
        is_left = not own or (len(own) == 1 and equal(walk.last, written[0]))
        if not own and not is_reported:
            is_left = _was_back(past, undo)
            return PlaceResult(place, is_left, not is_left, is_left, told)
        return PlaceResult(place, False, True, is_reported and is_left, told)
    is_back = len(own) == 1 and equal(walk.value, written[0])
    is_back |= not own and _was_back(past, undo)
    return PlaceResult(place, True, False, is_back and not is_reported, told)


def _was_back(past: Sequence[tuple[int, Fact]], undo: UndoSeen) -> bool:
    """Whether, at a moment of the undo, there was nothing to write."""
    for moment in range(undo.begin, undo.end + 1):
        facts = noticed(fact for n, fact in past if n < moment)
        walk = walked(facts, undo.target, undo.upto)
        if not walk.is_theirs and equal(walk.value, _now(facts)):
            return True
    return False


def _now(facts: Iterable[Fact]) -> Any:
    value = None
    for fact in facts:
        is_form = fact.who == "form"
        value = in_form(value, has_column=bool(fact.value)) if is_form else fact.value
    return value


# -- the whole story -----------------------------------------------------------------------------


def facts_of(seen: Seen) -> dict[str, Any]:
    """Counts of one story, as plain values."""
    counts: Counter[str] = Counter(stories=1, refused=seen.refused)
    wrong: list[tuple[str, str]] = []
    _count_undos(seen, counts, wrong)
    _count_writes(seen, counts, wrong)
    _count_audit(seen, counts, wrong)
    _count_letters(seen, counts, wrong)
    if seen.is_unfinished:
        counts["half_undone"] += 1
        wrong.append(("half_undone_after_restart", f"{seen.name}: unfinished in the end"))
    counts["deaths"] += len(seen.deaths)
    counts.update(f"died_{what}" for what in seen.deaths)
    counts["forms"] += sum(fact.who == "form" for fact in seen.facts)
    return {"counts": dict(counts), "wrong": wrong}


def _count_undos(seen: Seen, counts: Counter[str], wrong: list[tuple[str, str]]) -> None:
    undone_before: set[int] = set()
    for undo in seen.undos:
        results = undo_results(seen, undo)
        clean = [each for each in results if each.is_clean]
        conflicts = [each for each in results if each.is_conflict]
        counts["undos"] += 1
        counts["redone"] += bool(undone_before & set(undo.steps))
        undone_before |= set(range(undo.upto + 1, undo.upto + 1 + len(undo.steps)))
        counts["interrupted"] += undo.deaths > 0
        counts["clean"] += bool(clean)
        counts["back"] += bool(clean) and all(each.is_right for each in clean)
        counts["conflicts"] += len(conflicts)
        counts["reported"] += sum(each.is_right for each in conflicts)
        if undo.deaths and not all(each.is_right for each in results):
            counts["half_undone"] += 1
        for each in results:
            if not each.is_right:
                metric = "state_back" if each.is_clean else "conflicts_detected"
                wrong.append((metric, f"{seen.name}, undo to {undo.target}: {each.told}"))


def _count_writes(seen: Seen, counts: Counter[str], wrong: list[tuple[str, str]]) -> None:
    """Whether any of our writes went over somebody else's."""
    steps = {step.number: step for step in seen.steps}
    there: dict[Place, Any] = {}
    writer: dict[Place, str] = {}
    for fact in seen.facts:
        if fact.who == "form":
            changed = {
                place: in_form(value, has_column=bool(fact.value))
                for place, value in there.items()
                if place[0] == FORM[0]
            }
            there.update(changed)
            continue
        if fact.who == "ours":
            step = steps.get(fact.step)
            is_blind = step is None or not equal(there.get(fact.place), step.before)
            is_over = fact.is_undo and writer.get(fact.place) == "theirs"
            counts["writes"] += 1
            if is_blind or (is_over and not _came_and_went(seen, fact)):
                counts["clobbered"] += 1
                wrong.append(
                    ("clobbered_edits", f"{seen.name}: {fact} over {there.get(fact.place)}")
                )
        else:
            counts["edits"] += 1
        there[fact.place], writer[fact.place] = fact.value, fact.who


def _came_and_went(seen: Seen, fact: Fact) -> bool:
    """Whether what somebody else wrote right before was at an empty place, and is gone."""
    past = [each for each in seen.facts[: seen.facts.index(fact)] if each.place == fact.place]
    kept = noticed(past)
    return not kept or kept[-1].who == "ours"


def _count_audit(seen: Seen, counts: Counter[str], wrong: list[tuple[str, str]]) -> None:
    """Whether the log tells every effect, and no other."""
    effects: dict[int, list[Any]] = {}
    for fact in seen.facts:
        if fact.who == "ours":
            effects.setdefault(fact.step, []).append((fact.place, fact.value))
    for letter in seen.letters:
        if isinstance(letter, Sent):
            effects.setdefault(letter.step, []).append(letter.payload)
    for step in seen.steps:
        done = effects.pop(step.number, [])
        if step.standing == ACTED:
            is_right = len(done) == 1 and (
                step.is_final or (done[0][0] == step.place and equal(step.value, done[0][1]))
            )
        elif step.standing == DROPPED:
            is_right = not done
        else:
            is_right = len(done) <= 1 and _is_justified(seen, step)
        counts["audited"] += 1
        counts["audit_right"] += is_right
        counts["doubted"] += step.standing == DOUBTED
        if not is_right:
            wrong.append(("audit_matches", f"{seen.name}: {step}, and there was {done}"))
    for number, done in effects.items():
        counts["audited"] += 1
        wrong.append(("audit_matches", f"{seen.name}: {done} without step {number}"))


def _is_justified(seen: Seen, step: StepSeen) -> bool:
    """Whether nobody can know what became of this step: its process died, and somebody wrote at its
    place before anybody could look."""
    if step.standing != DOUBTED or step.is_final:
        return step.standing == DOUBTED and bool(seen.deaths)
    past = [fact for fact in seen.facts if fact.place == step.place]
    earlier = [n for n, fact in enumerate(past) if fact.who == "ours" and fact.step < step.number]
    later = past[earlier[-1] + 1 :] if earlier else past
    return bool(seen.deaths) and any(fact.who == "theirs" for fact in later)


def _count_letters(seen: Seen, counts: Counter[str], wrong: list[tuple[str, str]]) -> None:
    given: Counter[str] = Counter()
    for letter in seen.letters:
        if isinstance(letter, Permit):
            given[letter.payload] += 1
            continue
        counts["sent"] += 1
        given[letter.payload] -= 1
        if given[letter.payload] < 0:
            counts["unapproved"] += 1
            wrong.append(("unapproved_irreversible", f"{seen.name}: {letter}"))
