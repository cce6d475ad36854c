"""Policies of a node: how long an attempt may take, and when there is another one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

from stageflow.model.errors import BuildError
from stageflow.model.forms import is_count, is_number

JITTERS: Final = ("full", "equal", "decorrelated", "none")


@dataclass(frozen=True, slots=True)
class Retry:
    """Another attempt after a failure: `attempts` in all, waiting longer each time.

    The wait before attempt n+1 is base_s * factor**(n-1), at most max_s, then jittered: `full`
    draws from [0, wait], `equal` from [wait/2, wait], `decorrelated` from [base_s, 3 times the wait
    before], at most max_s, and `none` keeps it (Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015). A Retry-After that a failure carries is the least wait, itself bounded
    by `retry_after_max_s`.

    What `stageflow.classify` finds permanent is not tried again; nor, of an effect without a key,
    what it can't place; nor a broken contract; nor what a run failed with that this stage started,
    when that has tried again itself: attempts must not multiply. `on` names the only exception
    types that are worth another attempt; one that
    is named, other than Exception, is also tried again when its type is all that speaks against it,
    as for a ValueError of a model's answer that could not be read.

    `dependency` names what the stage calls: attempts on it share the budget and the circuit that
    the Runtime has for it. `least_s` is what an attempt takes at least: none is made that could
    not end before the run's deadline.
    """

    attempts: int = 3
    base_s: float = 0.1
    factor: float = 2.0
    max_s: float = 30.0
    jitter: Literal["full", "equal", "decorrelated", "none"] = "full"
    on: tuple[type[BaseException], ...] | None = None
    retry_after_max_s: float = 300.0
    dependency: str | None = None
    least_s: float = 0.0

    def __post_init__(self) -> None:
        if not is_count(self.attempts, least=1):
            raise BuildError(
                "policy.retry",
                "Retry needs at least one attempt",
                field="attempts",
                expected="an integer of 1 or more",
                got=repr(self.attempts)[:80],
                fix="Retry(attempts=3)",
            )
        self._check_names()
        waits = (self.base_s, self.max_s, self.retry_after_max_s, self.least_s)
        if not all(is_number(each) for each in (*waits, self.factor)) or (
            min(waits) < 0 or self.factor < 1
        ):
            raise BuildError(
                "policy.retry",
                "Retry waits can't be negative and can't shrink",
                field="base_s, factor, max_s, retry_after_max_s, least_s",
                expected="factor >= 1, and all others >= 0",
                fix="Retry(attempts=3, base_s=0.1, factor=2.0, max_s=30.0)",
            )

    def _check_names(self) -> None:
        """BuildError for what is no jitter, no exception types, or no name."""
        on = () if self.on is None else self.on
        fine = isinstance(on, tuple) and all(
            isinstance(each, type) and issubclass(each, BaseException) for each in on
        )
        for field, is_fine, expected, example in (
            ("jitter", self.jitter in JITTERS, " or ".join(map(repr, JITTERS)), "jitter='full'"),
            ("on", fine, "a tuple of exception types", "on=(TimeoutError,)"),
            (
                "dependency",
                self.dependency is None or (isinstance(self.dependency, str) and self.dependency),
                "the name of a dependency",
                "dependency='search'",
            ),
        ):
            if not is_fine:
                raise BuildError(
                    "policy.retry",
                    f"Retry can't have this {field}",
                    field=field,
                    expected=expected,
                    got=type(getattr(self, field)).__name__,
                    fix=f"Retry({example})",
                )

    def names(self, error: BaseException) -> bool:
        """Whether `on` names its type, and not only every exception."""
        return any(each is not Exception and isinstance(error, each) for each in self.on or ())

    def wait_s(self, *, attempt: int, seed: int, node: str, after_s: float | None) -> float:
        """Seconds between the end of `attempt` (1, 2, ...) and the next; a pure function."""
        try:
            wait = min(self.max_s, self.base_s * self.factor ** min(attempt - 1, 64))
        except OverflowError:
            wait = self.max_s
        if self.jitter == "decorrelated":
            wait = self._decorrelated_s(attempt, seed, node)
        elif self.jitter != "none":
            low = 0.0 if self.jitter == "full" else wait / 2
            wait = low + (wait - low) * _unit(seed, node, attempt)
        if after_s is not None:
            wait = max(wait, min(after_s, self.retry_after_max_s))
        return wait

    def _decorrelated_s(self, attempt: int, seed: int, node: str) -> float:
        wait = self.base_s
        for number in range(max(1, attempt - _REMEMBERED), attempt + 1):
            high = max(self.base_s, wait * 3)
            wait = min(self.max_s, self.base_s + (high - self.base_s) * _unit(seed, node, number))
        return wait


_REMEMBERED = 64
"""Waits that a decorrelated one follows from; it has long reached its bound by then."""


def _unit(seed: int, node: str, attempt: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments, in every process."""
    digest = hashlib.blake2b(f"{seed}/{node}/{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
