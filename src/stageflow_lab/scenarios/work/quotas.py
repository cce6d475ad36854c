"""Services with quotas, as pure machines of the time: each refuses in another form.

Somebody else uses each account now and then, and takes what is there and a little more, so that who
keeps the pace is refused all the same.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final, NamedTuple

from stageflow.stages.work.rate import Rate

PER_SECOND: Final = 20
BUCKET: Final = 20
"""What a service saves up for its clients at most."""
BURST: Final = 10
"""What clients send at once: less, so that what a network pushes together still fits."""
WINDOW, WINDOW_S = 100, 5.0
TAKEN: Final = 10
"""Of a window, by others, each time."""
DEFICIT: Final = 2.0
"""Requests that others take beyond what is there."""
OTHERS_EVERY_S: Final = 20.0
DATE_LEAST_S: Final = 0.5
"""How far ahead a date is at least: in whole seconds one can be a moment away by chance."""
WARM_S: Final = 10.0
"""After which a service's clients are steady."""
FAR_S: Final = 1e9
GARBLED: Final = ("soon", "-5", "1.5e", "", "-30", "never", "0x10")


class Kind(NamedTuple):
    """A service: how it refuses, and what its clients believe of it at first."""

    name: str
    rate: Rate
    form: str
    """Of its refusals: `seconds`, `date`, `garbled`, `headers`, `window`, `huge`."""
    is_paced: bool = True
    """Whether it has a quota that can be used to the full."""


_TRUE: Final = Rate(PER_SECOND, burst=BURST)
_TWICE: Final = Rate(2 * PER_SECOND, burst=BURST)
KINDS: Final = (
    Kind("seconds", _TRUE, "seconds"),
    Kind("date", Rate(PER_SECOND, burst=BURST, algorithm="gcra"), "date"),
    Kind("garbled", _TRUE, "garbled"),
    Kind("headers", _TWICE, "headers"),
    Kind("window", Rate(WINDOW, per_s=WINDOW_S, algorithm="sliding_window"), "window"),
    Kind("unknown", _TWICE, "garbled"),
    Kind("huge", _TRUE, "huge", is_paced=False),
)
FORMS: Final = tuple(dict.fromkeys(kind.form for kind in KINDS))


@dataclass
class Service:
    """One of them, from `begin_s` on."""

    kind: Kind
    begin_s: float
    seconds: float
    grace_s: float
    """How long what it says may take to be known everywhere."""
    rng: random.Random
    wall_s: float
    """The Unix time at `begin_s`."""
    counts: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    """Arrivals of requests that must not be sent again."""

    def __post_init__(self) -> None:
        self.tokens = float(BUCKET)
        self.filled_s = self.begin_s
        self.used = self.taken_next = 0
        """Of the present window, and by others as soon as the next begins."""
        self.window_s = self.begin_s
        self.permitted_s = -math.inf
        """Before which it said that nothing may come, and when that was to be known."""
        self.known_s = -math.inf
        self.garbled = 0
        self.others = list(self._others())

    def _others(self) -> Iterator[float]:
        at_s = self.begin_s + self.rng.uniform(3.0, 6.0)
        while at_s < self.begin_s + self.seconds:
            yield at_s
            at_s += OTHERS_EVERY_S

    def answer(self, now_s: float, identity: str) -> tuple[int, dict[str, str]]:
        """What it says to a request; `identity` of one that must not be sent again, else ""."""
        is_steady = self.begin_s + WARM_S <= now_s < self.begin_s + self.seconds
        if identity:
            self.seen[identity] += 1
        self.counts["requests"] += 1
        self.counts["early"] += self.known_s < now_s < self.permitted_s - 1e-3
        self._fill(now_s)
        is_served = self._take(now_s)
        if is_steady:
            self.counts["steady"] += 1
            self.counts["steady_served"] += is_served
        if is_served:
            return 200, self._told(now_s)
        self.counts["refused"] += 1
        if identity:
            self.counts["refused_once"] += 1
        return 429, {**self._told(now_s), **self._refusal(now_s)}

    def _fill(self, now_s: float) -> None:
        while self.others and self.others[0] <= now_s:
            self._fill_to(self.others.pop(0))
            self.counts["others"] += 1
            if self.begin_s + WARM_S <= now_s:
                self.counts["others_steady"] += 1
            self.tokens = -DEFICIT
            self.taken_next = TAKEN
        self._fill_to(now_s)

    def _fill_to(self, at_s: float) -> None:
        if at_s > self.filled_s:
            self.tokens = min(BUCKET, self.tokens + (at_s - self.filled_s) * PER_SECOND)
            self.filled_s = at_s
        if at_s >= self.window_s + WINDOW_S:
            self.window_s += (at_s - self.window_s) // WINDOW_S * WINDOW_S
            self.used, self.taken_next = self.taken_next, 0

    def _take(self, now_s: float) -> bool:
        if self.kind.form == "huge":
            return now_s < self.begin_s
        if self.kind.form == "window":
            if self.used >= WINDOW:
                return False
            self.used += 1
            return True
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def _told(self, now_s: float) -> dict[str, str]:
        if self.kind.form == "headers":
            left = max(0, int(self.tokens))
            return {
                "RateLimit-Policy": f'"api";q={PER_SECOND};w=1',
                "RateLimit": f'"api";r={max(1, left)};t=1',
            }
        if self.kind.form == "window":
            return {
                "X-RateLimit-Remaining": str(max(1, WINDOW - self.used)),
                "X-RateLimit-Reset": f"{self.window_s + WINDOW_S - now_s:.3f}",
            }
        return {}

    def _refusal(self, now_s: float) -> dict[str, str]:
        self.counts[f"form_{self.kind.form}"] += 1
        form = self.kind.form
        if form == "garbled":
            self.garbled += 1
            return {"Retry-After": GARBLED[self.garbled % len(GARBLED)]}
        if form == "huge":
            self._permits(now_s, now_s + FAR_S)
            return {"Retry-After": "9" * 30}
        wait_s = (1.0 - self.tokens) / PER_SECOND
        if form == "window":
            wait_s = self.window_s + WINDOW_S - now_s
        if form == "headers":
            self._permits(now_s, now_s + 1.0)
            return {"RateLimit": '"api";r=0;t=1'}
        if form == "date":
            # In whole seconds, and not before it will be right.
            wait_s = max(wait_s, DATE_LEAST_S)
            unix_s = math.ceil(self.wall_s + now_s - self.begin_s + wait_s)
            self._permits(now_s, unix_s - self.wall_s + self.begin_s)
            return {"Retry-After": formatdate(unix_s, usegmt=True)}
        seconds = math.ceil(wait_s)
        self._permits(now_s, now_s + seconds)
        return {"Retry-After": str(seconds)}

    def _permits(self, now_s: float, at_s: float) -> None:
        if at_s > self.permitted_s:
            self.permitted_s, self.known_s = at_s, max(self.known_s, now_s + self.grace_s)

    def facts(self) -> Mapping[str, Any]:
        """What it saw."""
        steady_s = self.seconds - WARM_S
        quota = steady_s * PER_SECOND
        taken = TAKEN if self.kind.form == "window" else DEFICIT
        return {
            **self.counts,
            "kind": self.kind.name,
            "form": self.kind.form,
            "is_paced": self.kind.is_paced,
            "quota": quota - taken * self.counts["others_steady"],
            "repeats": sum(n - 1 for n in self.seen.values()),
            "once": len(self.seen),
        }
