"""When the next request may go: pure functions of a meter and the time.

A meter gives slots, one after another, each at the first instant at which the rate permits it.
Nobody asks again: whoever has a slot waits for it, and slots follow one another in the order of
asking, for all that share the meter.

`gcra` and `token_bucket` are one rule: the bucket of size `burst` that is filled with `permits` in
`per_s` is the generic cell rate algorithm (ITU-T I.371, annex A) with an emission interval of
per_s / permits and a tolerance of burst - 1 intervals; they differ in the burst that is taken when
none is given. `sliding_window` is exact: never more than `permits` in any `per_s` seconds, kept by
the instants of the last of them.

What a service says changes the pace: a refusal takes a twentieth off, or a fifth when it follows
another by less than three seconds, once a second at most; each second gives a hundredth back
(additive increase, multiplicative decrease: Chiu and Jain, Computer Networks and ISDN Systems 17,
1989). A policy that the service tells replaces the rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from stageflow.model.errors import BuildError
from stageflow.model.forms import is_count, is_number

DECREASE: Final = 0.95
DECREASE_AGAIN: Final = 0.8
AGAIN_S: Final = 3.0
"""A refusal so soon after another says that the pace is far from right, and not just above it."""
INCREASE: Final = 0.01
"""Of the pace at the last refusal, for each second since."""
COOLDOWN_S: Final = 1.0
"""Refusals of one second are answers to one burst, and slow down once."""
PERMITS_MAX: Final = 100_000
"""Of a sliding window, which remembers as many instants."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`permits` requests in `per_s` seconds, at most `burst` of them at once.

    `burst` is by default `permits` for `token_bucket` and 1 for `gcra`; a sliding window has none.
    Raises BuildError `rate.option`.
    """

    permits: int
    per_s: float = 1.0
    burst: int | None = None
    algorithm: Literal["token_bucket", "gcra", "sliding_window"] = "token_bucket"

    def __post_init__(self) -> None:
        _check(_is_count(self.permits), "permits", "an integer between 1 and 100000", self.permits)
        seconds = is_number(self.per_s) and 0 < self.per_s < math.inf
        _check(seconds, "per_s", "seconds above 0", self.per_s)
        known = ("token_bucket", "gcra", "sliding_window")
        _check(self.algorithm in known, "algorithm", "one of " + ", ".join(known), self.algorithm)
        fits = self.burst is None or (_is_count(self.burst) and self.algorithm != "sliding_window")
        _check(fits, "burst", "an integer of 1 or more, and none for a sliding window", self.burst)

    @property
    def per_second(self) -> float:
        return self.permits / self.per_s

    @property
    def window(self) -> int:
        """Instants that are remembered; 0 where none are."""
        return self.permits if self.algorithm == "sliding_window" else 0

    @property
    def tolerance(self) -> int:
        """Intervals by which a request may come early."""
        if self.burst is not None:
            return self.burst - 1
        return self.permits - 1 if self.algorithm == "token_bucket" else 0


class Slot(NamedTuple):
    """What a meter says to one who asks."""

    wait_s: float
    """From now to the first instant at which the rate permits it."""
    is_taken: bool
    """False when that lies beyond what the asker can wait: then nothing has changed."""
    is_exhausted: bool
    """It waits for a quota to be renewed, and not for the pace."""
    interval_s: float
    """Between two slots, at the present pace."""


class Lesson(NamedTuple):
    """What an answer of the service teaches."""

    pause_s: float = 0.0
    """Nothing is to be sent for so long."""
    is_exhausted: bool = False
    is_refusal: bool = False
    """It came too fast for the service."""
    per_second: float = 0.0
    """The rate that the service says it has; 0 when it does not."""

    @property
    def is_empty(self) -> bool:
        return self == Lesson()


@dataclass(slots=True)
class Meter:
    """Of one service. Times are of one clock, in seconds."""

    due_s: float = 0.0
    """When the next slot would be due if requests came at the pace: GCRA's arrival time."""
    until_s: float = 0.0
    """The service said that nothing may come before."""
    is_exhausted: bool = False
    """That was because a quota was used up."""
    pace: float = 0.0
    """Requests a second, as of `paced_s`; 0 while nothing was refused."""
    paced_s: float = 0.0
    told: float = 0.0
    """Requests a second that the service says it permits; 0 when it has said nothing."""
    taken_s: list[float] = field(default_factory=list)
    """Instants of the last slots of a sliding window, the oldest first."""

    def per_second(self, rate: Rate, now_s: float) -> float:
        """The present pace."""
        most = self.told if self.told > 0 else rate.per_second
        if self.pace <= 0:
            return most
        return min(most, self.pace * (1.0 + INCREASE * max(0.0, now_s - self.paced_s)))

    def reserve(self, rate: Rate, *, now_s: float, wait_max_s: float = math.inf) -> Slot:
        """The next slot, unless it lies more than `wait_max_s` ahead."""
        interval_s = 1.0 / self.per_second(rate, now_s)
        at_s = max(now_s, self.until_s)
        if rate.window:
            if len(self.taken_s) >= rate.window:
                at_s = max(at_s, self.taken_s[-rate.window] + rate.window * interval_s)
        else:
            at_s = max(at_s, self.due_s - rate.tolerance * interval_s)
        is_exhausted = self.is_exhausted and now_s < self.until_s
        is_taken = at_s - now_s <= wait_max_s
        if is_taken and rate.window:
            self.taken_s = [*self.taken_s, at_s][-rate.window :]
        elif is_taken:
            self.due_s = max(self.due_s, at_s) + interval_s
        return Slot(at_s - now_s, is_taken, is_exhausted, interval_s)

    def learn(self, rate: Rate, lesson: Lesson, *, now_s: float) -> None:
        """Takes in what an answer said."""
        if lesson.per_second > 0:
            self.told = lesson.per_second
        if lesson.is_refusal and now_s - self.paced_s >= COOLDOWN_S:
            is_again = now_s - self.paced_s < AGAIN_S
            self.pace = self.per_second(rate, now_s) * (DECREASE_AGAIN if is_again else DECREASE)
            self.paced_s = now_s
        if lesson.pause_s > 0 and now_s + lesson.pause_s > self.until_s:
            self.until_s = now_s + lesson.pause_s
            self.is_exhausted = lesson.is_exhausted
            # What was saved up until then is not sent at once when it is over.
            interval_s = 1.0 / self.per_second(rate, now_s)
            self.due_s = max(self.due_s, self.until_s + rate.tolerance * interval_s)

    def paused_s(self, now_s: float) -> float:
        """For how long nothing may be sent, whatever the pace."""
        return max(0.0, self.until_s - now_s)


def _is_count(value: Any) -> bool:
    return is_count(value, least=1) and value <= PERMITS_MAX


def _check(holds: bool, option: str, expected: str, got: object) -> None:
    if not holds:
        raise wrong_option("a rate", option, expected, got, "Rate(50, per_s=1.0, burst=10)")


def wrong_option(what: str, option: str, expected: str, got: object, fix: str) -> BuildError:
    """An option, of a rate or of whoever keeps it, has a value that it can't have."""
    return BuildError(
        "rate.option",
        f"{what} can't be like this",
        field=option,
        expected=expected,
        got=repr(got)[:80],
        fix=fix,
    )
