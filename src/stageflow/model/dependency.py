"""What bounds the load on something that many stages call: a retry budget and a circuit breaker."""

from __future__ import annotations

from dataclasses import dataclass, field

from stageflow.model.errors import BuildError
from stageflow.model.forms import is_count, is_number


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How many further attempts all stages together may make on one dependency.

    In `window_s`, and in each tenth of it, these are at most `ratio` of the first attempts; or
    `reserve` in `window_s` when that is more: so that an outage is met with `1 + ratio` times the
    requests, and not with all that every
    policy allows. The ratio of 10% is that of "Handling Overload" in Site Reliability Engineering
    (https://sre.google/sre-book/handling-overload/); a reserve lets a runtime with few requests
    retry at all. BuildError `policy.dependency` for a negative number or an empty window.
    """

    ratio: float = 0.1
    window_s: float = 10.0
    reserve: int = 10

    def __post_init__(self) -> None:
        fine = is_number(self.ratio) and is_number(self.window_s) and self.ratio >= 0
        if not (fine and self.window_s > 0 and is_count(self.reserve, least=0)):
            raise _wrong(
                "RetryBudget(ratio=0.1, window_s=10.0, reserve=10)", "ratio, window_s, reserve"
            )


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """When a dependency is left alone: after `failure_ratio` of at least `calls_min` attempts in
    `window_s` failed, for `open_s`; then `probes` at a time try whether it is back.

    An attempt that the open circuit keeps back fails with `circuit.open`, and never looks like a
    success. Permanent errors don't count: who says that a request is wrong is well. The pattern is
    of Nygard, "Release It!" (2007). BuildError `policy.dependency` for numbers out of range.
    """

    failure_ratio: float = 0.5
    calls_min: int = 20
    window_s: float = 10.0
    open_s: float = 10.0
    probes: int = 1

    def __post_init__(self) -> None:
        numbers = (self.failure_ratio, self.window_s, self.open_s)
        counts = (self.calls_min, self.probes)
        fine = all(map(is_number, numbers)) and all(is_count(each, least=1) for each in counts)
        if not (fine and 0 < self.failure_ratio <= 1 and self.window_s > 0 and self.open_s > 0):
            raise _wrong(
                "CircuitBreaker(failure_ratio=0.5, calls_min=20, window_s=10.0, open_s=10.0)",
                "failure_ratio, calls_min, window_s, open_s, probes",
            )


@dataclass(frozen=True, slots=True)
class Dependency:
    """Bounds of one dependency of a Runtime, named by `Retry(dependency=...)`. None: no bound."""

    budget: RetryBudget | None = field(default_factory=RetryBudget)
    breaker: CircuitBreaker | None = None

    def __post_init__(self) -> None:
        for value, kind in ((self.budget, RetryBudget), (self.breaker, CircuitBreaker)):
            if value is not None and not isinstance(value, kind):
                raise BuildError(
                    "policy.dependency",
                    f"a {type(value).__name__} is no bound of a dependency",
                    expected=f"a {kind.__name__}, or None",
                    got=type(value).__name__,
                    fix=f"Dependency({kind.__name__}())",
                )


def _wrong(fix: str, fields: str) -> BuildError:
    return BuildError(
        "policy.dependency",
        "the bounds of a dependency are out of range",
        field=fields,
        expected="ratios from 0 (a breaker's above 0, at most 1), counts and seconds above 0",
        fix=fix,
    )
