"""Whether a loop of revisions still gets anywhere: a pure judgement of the turns it has made.

A turn is a value, and what guards said when they sent it back. It is stale when it brought nothing
new, which shows in one of three ways:

* its value equals an earlier one;
* its value is an earlier one in other words: alike, with the same numbers, no new complaint, no
  better score, and the texts between the two did not move on;
* its complaints were made before, had been met since, and are back; with no better score, and the
  values between did not move on.

So many stale turns in a row as the stage's Progress says, and the loop is given up. One alone is
not enough: an honest loop falls back at times, and a plateau may repeat itself before it ends.

Moving on. Honest edits add up: each takes a text an edit further from where it began, and after n
of them it is about n edits away. A text that is only put in other words is as far from the n-th one
before as from the last. So a stretch of turns moves on when its last one breaks new ground by half
a step or more, or when the way from its first to its last is clearly more than a single step. The
first sees an honest loop go on after it fell back; the second one that goes over the same places
again. Edits of numbers move on while they become smaller, as in a search by halving.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

from stageflow.model.progress import Progress, Stall, StallKind
from stageflow.scheduler.wording import (
    FEATURES_MIN,
    Wording,
    distance,
    says_same_numbers,
    similarity,
)

NEW_BELOW: Final = 0.3
"""A complaint that is less alike than this to all earlier ones is a new one."""
BACK_FROM: Final = 0.45
BACK_AHEAD: Final = 0.15
"""Complaints are back when they are so much alike to earlier ones, and by so much more than to
those of the turn just before."""
LITTLE: Final = 2 * FEATURES_MIN
"""Features that two steps must change before they show that nothing adds up."""
ADDS_UP: Final = 0.3
"""Between a text redrawn at each step (0) and one whose steps all add up (1)."""
GROWTH: Final = 1.1
COUNTER_SHARE: Final = 0.1
"""Numbers are a text's content, and no counter beside it, when there are more per word."""


class Complaint(NamedTuple):
    """Why one guard sent a value back."""

    guard: str
    said: Wording


class SentBack(NamedTuple):
    """A revision that was sent back."""

    value: str
    """Content hash."""
    wording: Wording | None
    """None when the value holds what is no text: it is equal to another, or is not."""
    complaints: tuple[Complaint, ...]
    score: float
    """The lowest that a guard gave it."""


class Match(NamedTuple):
    """What a stale turn repeats."""

    kind: StallKind
    earlier: int
    """Number of the turn that it repeats, the latest of several."""


def stall_of(turns: Sequence[SentBack], policy: Progress) -> Stall | None:
    """Why the loop should be given up after the last of `turns`; None when it may go on."""
    if policy.repeats is None or len(turns) <= policy.repeats:
        return None
    last = len(turns) - 1
    first = last - policy.repeats + 1
    matches = []
    for number in range(last, first - 1, -1):
        match = stale(turns, number, policy.similarity)
        if match is None:
            return None
        matches.append(match)
    period = last - matches[0].earlier
    kind = max((match.kind for match in matches), key=_WEAKEST_LAST.index)
    if kind == "cycle" and period == 1:
        kind = "repeat"
    return Stall(kind, period, since=max(1, first - period + 1), revision=last + 1)


_WEAKEST_LAST: Final[tuple[StallKind, ...]] = ("repeat", "cycle", "paraphrase", "rotation")


def stale(turns: Sequence[SentBack], number: int, alike: float) -> Match | None:
    """What turn `number` repeats, seen from the last turn; None when it brought something new."""
    return (
        _same_value(turns, number)
        or _other_words(turns, number, alike)
        or _complaints_back(turns, number)
    )


def _same_value(turns: Sequence[SentBack], number: int) -> Match | None:
    for earlier in range(number - 1, -1, -1):
        if turns[earlier].value == turns[number].value:
            return Match("cycle", earlier)
    return None


def _other_words(turns: Sequence[SentBack], number: int, alike: float) -> Match | None:
    turn = turns[number]
    if alike >= 1 or turn.wording is None or _is_better(turns, number):
        return None
    found = [
        earlier
        for earlier in range(number)
        if _is_reworded(turns[earlier].wording, turn.wording, number - earlier, alike)
    ]
    if not found or _is_told_something_new(turns, number):
        return None
    # Two turns show no direction; the next one, if there is one, does.
    until = min(number + 1, len(turns) - 1) if found[0] == number - 1 else number
    if moves_on(turns, found[0], until) is not False:
        return None
    if found[-1] == number - 1 and _grows(turns, number):
        return None
    return Match("paraphrase", found[-1])


def _is_reworded(one: Wording | None, other: Wording, lag: int, alike: float) -> bool:
    if one is None or similarity(one, other) < alike:
        return False
    counts = len(other.numbers) <= COUNTER_SHARE * other.words
    return says_same_numbers(one, other, lag=lag, counts=counts)


def _complaints_back(turns: Sequence[SentBack], number: int) -> Match | None:
    if number < 2 or _is_better(turns, number):
        return None
    now = turns[number].complaints
    nearness = [
        _as_before(turns[earlier].complaints, now, number - earlier) for earlier in range(number)
    ]
    best = max(nearness[:-1])
    if best < BACK_FROM or best < nearness[-1] + BACK_AHEAD:
        return None
    earlier = number - 1 - nearness[::-1].index(best)
    return None if moves_on(turns, earlier, number) else Match("rotation", earlier)


def _is_better(turns: Sequence[SentBack], number: int) -> bool:
    return all(turns[number].score > turn.score for turn in turns[:number])


def _is_told_something_new(turns: Sequence[SentBack], number: int) -> bool:
    """True when some complaint is like none that the same guard made before."""
    return any(
        not any(
            _likeness(old, new, number - earlier) >= NEW_BELOW
            for earlier in range(number)
            for old in turns[earlier].complaints
        )
        for new in turns[number].complaints
    )


def _likeness(old: Complaint, new: Complaint, lag: int) -> float:
    if old.guard != new.guard or not says_same_numbers(old.said, new.said, lag=lag, counts=False):
        return 0.0
    return similarity(old.said, new.said, least=0)


def _as_before(old: Sequence[Complaint], new: Sequence[Complaint], lag: int) -> float:
    """How alike the complaints of two turns are: as much as the one that has the least like it."""
    if len(old) != len(new):
        return 0.0
    there = [max((_likeness(a, b, lag) for a in old), default=0.0) for b in new]
    back = [max((_likeness(a, b, lag) for b in new), default=0.0) for a in old]
    return min(there + back, default=0.0)


def moves_on(turns: Sequence[SentBack], first: int, number: int) -> bool | None:
    """Whether the values from turn `first` to turn `number` add up to somewhere; None when fewer
    than three differ, which show no direction. A value that came twice counts where it came first:
    that it came again is told by itself."""
    values = [turn.value for turn in turns[: number + 1]]
    kept = [turn for at, turn in enumerate(turns[: number + 1]) if values.index(turn.value) == at]
    told = [turn.wording for turn in kept if turn.wording is not None]
    if len(told) < len(kept):
        return None
    since = [turn.wording for turn in kept if values.index(turn.value) >= first]
    texts = [wording for wording in since if wording is not None]
    if len(texts) < 3:
        return None
    if _closes_in(texts):
        return True
    steps = [distance(one, other) for one, other in itertools.pairwise(texts)]
    way = sum(steps)
    if len(steps) == 2 and 0 < way < LITTLE and any(t.shape != texts[0].shape for t in texts):
        return True  # a word or two: too little to tell by
    away = [distance(texts[0], text) for text in texts]
    from_start = [distance(told[0], text) for text in told]
    half = min(steps[-1], statistics.median_low(steps)) / 2
    is_new_ground = any(far[-1] - max(far[:-1]) > half for far in (away, from_start))
    return is_new_ground or away[-1] > way * (ADDS_UP + (1 - ADDS_UP) / len(steps))


def _grows(turns: Sequence[SentBack], number: int) -> bool:
    """True when the steps next to turn `number` both made the text longer by a tenth or more, or
    both shorter: what is said in other words and more besides gets somewhere."""
    last = min(number + 1, len(turns) - 1)
    near = [turn.wording for turn in turns[max(0, last - 2) : last + 1]]
    sizes = [text.shape.total() for text in near if text is not None]
    return len(sizes) == 3 and any(
        all(later > earlier * GROWTH for earlier, later in itertools.pairwise(way))
        for way in (sizes, sizes[::-1])
    )


def _closes_in(texts: Sequence[Wording]) -> bool:
    """True when there are as many numbers in each, and they change by less each time."""
    rows = [[float(each.replace(",", "")) for each in _plain(text.numbers)] for text in texts]
    if len(rows) < 3 or not rows[0] or len({len(row) for row in rows}) > 1:
        return False
    steps = [
        sum(abs(a - b) for a, b in zip(rows[at], rows[at + 1], strict=True))
        for at in range(len(rows) - 1)
    ]
    return all(0 < later < earlier for earlier, later in itertools.pairwise(steps))


def _plain(numbers: Sequence[str]) -> list[str]:
    return [each for each in numbers if each.count(".") <= 1]
