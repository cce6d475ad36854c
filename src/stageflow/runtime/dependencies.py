"""What a runtime knows of each dependency: how much was retried lately, and whether it is up.

Budgets count in slots of a tenth of their window, so that a window is forgotten bit by bit and a
count costs nothing that grows with the load. Times are of the event loop's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from stageflow.model.dependency import CircuitBreaker, Dependency, RetryBudget
from stageflow.model.errors import BuildError, RunError
from stageflow.model.marks import reached

SLOTS: Final = 10
KNOWN_MAX: Final = 1_000
"""Dependencies that nobody declared; a further one has no state, and no bounds but its policy's."""


class SlidingCount:
    """Two counts of the last `window_s`, in slots."""

    __slots__ = ("_slot_s", "_slots", "first", "second")

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / SLOTS
        self._slots: deque[list[int]] = deque()
        """[slot, first, second], oldest first; at most SLOTS."""
        self.first = 0
        self.second = 0

    def add(self, now_s: float, first: int, second: int) -> None:
        """Counts, once what is too old is forgotten."""
        self.forget(now_s)
        slot = int(now_s // self._slot_s)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append([slot, 0, 0])
        self._slots[-1][1] += first
        self._slots[-1][2] += second
        self.first += first
        self.second += second

    def forget(self, now_s: float) -> None:
        """Drops the slots that are out of the window."""
        oldest = int(now_s // self._slot_s) - SLOTS + 1
        while self._slots and self._slots[0][0] < oldest:
            _, first, second = self._slots.popleft()
            self.first -= first
            self.second -= second

    def latest(self, now_s: float) -> tuple[int, int]:
        """Both counts of the slot that `now_s` lies in."""
        if not self._slots or self._slots[-1][0] != int(now_s // self._slot_s):
            return 0, 0
        return self._slots[-1][1], self._slots[-1][2]

    def clear(self) -> None:
        """Begins anew."""
        self._slots.clear()
        self.first = self.second = 0


class BudgetState:
    """First attempts and further ones of one dependency."""

    __slots__ = ("_window", "refused", "spec")

    def __init__(self, spec: RetryBudget) -> None:
        self.spec = spec
        self.refused = 0
        """Further attempts that were not made, since the runtime began."""
        self._window = SlidingCount(spec.window_s)

    def asked(self, now_s: float) -> None:
        """A first attempt begins."""
        self._window.add(now_s, 1, 0)

    def take(self, now_s: float) -> bool:
        """Whether one more attempt is within the budget; it is counted then."""
        self._window.forget(now_s)
        wanted = self._window.second + 1
        # Of the slot as well: what a calm window has earned must not come back at one moment.
        first, second = self._window.latest(now_s)
        ratio = self.spec.ratio
        earned = wanted <= ratio * self._window.first and second + 1 <= ratio * first
        if not earned and wanted > self.spec.reserve:
            self.refused += 1
            return False
        self._window.add(now_s, 0, 1)
        return True


class BreakerState:
    """Closed, open, or half open: a few attempts try whether it is back."""

    __slots__ = ("_probe_begun_s", "_probing", "_window", "opened", "spec", "until_s")

    def __init__(self, spec: CircuitBreaker) -> None:
        self.spec = spec
        self.opened = 0
        """How often it opened."""
        self.until_s: float | None = None
        """When probes may begin; None while it is closed."""
        self._probing = 0
        self._probe_begun_s = 0.0
        """When the last probe began."""
        self._window = SlidingCount(spec.window_s)

    def admits(self, now_s: float) -> bool:
        """Whether an attempt may begin now. Of a probe the end must be told."""
        if self.until_s is None:
            return True
        if now_s < self.until_s:
            return False
        if self._probing >= self.spec.probes:
            if now_s < self._probe_begun_s + self.spec.open_s:
                return False
            self._probing = 0  # one whose end nobody told must not keep it open for ever
        self._probing += 1
        self._probe_begun_s = now_s
        return True

    def ended(self, now_s: float, *, failed: bool, counts: bool = True) -> None:
        """An attempt that was admitted is over. One that does not count frees its probe only."""
        if self.until_s is not None:
            if self._probing:
                self._probing -= 1
                if counts:
                    self._probed(now_s, failed)
            return
        if not counts:
            return
        self._window.add(now_s, 1, int(failed))
        calls, failures = self._window.first, self._window.second
        if calls >= self.spec.calls_min and failures >= self.spec.failure_ratio * calls:
            self._open(now_s)

    def _probed(self, now_s: float, failed: bool) -> None:
        if failed:
            self._open(now_s)
        else:
            self.until_s = None
            self._probing = 0
            self._window.clear()

    def _open(self, now_s: float) -> None:
        self.opened += 1
        self.until_s = now_s + self.spec.open_s
        self._probing = 0
        self._window.clear()
        reached("circuit_opened")


class DependencyState:
    """One dependency of one runtime."""

    __slots__ = ("breaker", "budget")

    def __init__(self, spec: Dependency) -> None:
        self.budget = None if spec.budget is None else BudgetState(spec.budget)
        self.breaker = None if spec.breaker is None else BreakerState(spec.breaker)


class Dependencies:
    """All of a runtime's, by name; those that nobody declared get a Dependency() when used."""

    def __init__(self, declared: Mapping[str, Dependency]) -> None:
        given: Mapping[str, Any] = declared
        for name, spec in given.items():
            if not isinstance(spec, Dependency):
                raise BuildError(
                    "policy.dependency",
                    f"{name!r} is no Dependency",
                    field=f"dependencies[{name!r}]",
                    expected="a Dependency",
                    got=type(spec).__name__,
                    fix="Runtime(dependencies={'search': Dependency()})",
                )
        self._known = {name: DependencyState(spec) for name, spec in declared.items()}
        self._undeclared_max = len(declared) + KNOWN_MAX

    def __getitem__(self, name: str) -> DependencyState:
        known = self._known.get(name)
        if known is None:
            known = DependencyState(Dependency())
            if len(self._known) < self._undeclared_max:
                self._known[name] = known
        return known

    def begin(self, name: str, *, is_first: bool, time: Callable[[], float]) -> None:
        """An attempt on it begins. RunError `circuit.open` when it must not."""
        state = self[name]
        now_s = time()
        if state.budget is not None and is_first:
            state.budget.asked(now_s)
        if state.breaker is not None and not state.breaker.admits(now_s):
            reached("circuit_refused")
            raise RunError(
                "circuit.open",
                f"dependency {name!r} has failed too often lately, and is left alone",
                expected="a closed circuit",
                got="an open one",
                fix="wait, or give the stage a fallback; CircuitBreaker(open_s=...) says how long",
            )

    def ended(self, name: str, now_s: float, *, failed: bool, counts: bool = True) -> None:
        """An attempt that was begun is over."""
        breaker = self[name].breaker
        if breaker is not None:
            breaker.ended(now_s, failed=failed, counts=counts)

    def left(self, name: str, now_s: float) -> None:
        """An attempt was stopped, or says nothing of what it called."""
        self.ended(name, now_s, failed=False, counts=False)

    def take(self, name: str, now_s: float) -> bool:
        """Whether the budget has a further attempt; it is spent then."""
        budget = self[name].budget
        if budget is None or budget.take(now_s):
            return True
        reached("retry_budget_spent")
        return False
