"""From a failing seed to the few scheduling choices that matter.

A run that fails under a random schedule made thousands of choices, most of which are beside the
point. Measured against `Fifo`, in which every choice is the first ready source, a schedule is the
list of its deviations. Delta debugging finds a list from which none can be left out.

Source: Zeller and Hildebrandt, Simplifying and isolating failure-inducing input, IEEE Transactions
on Software Engineering 28 (2002) 183-200 (the ddmin algorithm).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, TypeVar

from stageflow.model.errors import SimulationError, StageflowError
from stageflow.sim.run import VIRTUAL_S_MAX, Sim, SimResult, trial
from stageflow.sim.schedule import Pick, Schedule

T = TypeVar("T")

TRIES_MAX = 2_000
_STEPS_MIN = 10_000
_STEPS_TIMES = 4
"""A candidate that takes this many times the steps of the failing run is another kind of run."""

Deviation = tuple[int, int]
"""(number of the choice from 0, index of the source taken, above 0)."""


@dataclass(frozen=True, slots=True)
class Deviations:
    """`Fifo`, but for some choices: (number of the choice, index of the source to take there).

    A choice with fewer sources takes its last one, so that a deviation stays one when the run
    around it has changed.
    """

    taken: tuple[Deviation, ...] = ()

    def begin(self) -> Pick:
        taken = dict(self.taken)
        asked = -1

        def pick(n: int, labels: Sequence[int]) -> int:
            nonlocal asked
            asked += 1
            return min(taken.get(asked, 0), n - 1)

        return pick


@dataclass(frozen=True, slots=True)
class Shrunk(Generic[T]):
    """The least failing schedule that was found."""

    schedule: Deviations
    reproduce: str
    """One line that makes the run again."""
    result: SimResult[T]
    """Of the shrunk run."""
    deviations_before: int
    """How many there were in the run that was given."""
    tries: int
    """Runs that it took."""
    is_minimal: bool
    """False when the search met its limit: then leaving out one deviation may fail as well."""

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """The choices that differ from `Fifo`, in order; empty when `Fifo` itself fails."""
        return self.schedule.taken

    def __str__(self) -> str:
        left = "" if self.is_minimal else ", not yet minimal"
        count = f"{len(self.deviations)} of {self.deviations_before}"
        return f"{count} deviations from Fifo after {self.tries} runs{left}\n{self.reproduce}"


def shrink(
    main: Callable[[Sim], Coroutine[Any, Any, T]],
    *,
    seed: int,
    failing: Callable[[SimResult[T]], bool] | None = None,
    schedule: Schedule | None = None,
    tries_max: int = TRIES_MAX,
    virtual_s_max: float = VIRTUAL_S_MAX,
) -> Shrunk[T]:
    """The fewest deviations from `Fifo` under which `main` still fails with `seed`.

    `schedule` is the one that failed, `RandomWalk(seed)` by default. `failing` tells a failing run;
    by default one that ends with an error of the same type, and code, as the run given. At most
    `tries_max` runs are made. Raises SimulationError: `sim.not_failing` when the run given does
    not fail, `sim.unrecorded` when it made more choices than are recorded.
    """
    first = trial(main, seed=seed, schedule=schedule, virtual_s_max=virtual_s_max)
    fails = _same_error(first.error) if failing is None else failing
    if not fails(first):
        raise SimulationError(
            "sim.not_failing",
            f"the run with seed {seed} does not fail, so there is nothing to shrink",
            expected="a seed and schedule under which `failing` is true",
            got="a run that returned" if first.error is None else type(first.error).__name__,
            fix="give the seed and the schedule of the run that failed",
        )
    choices = first.replay().choices
    start = [(at, index) for at, index in enumerate(choices) if index]
    search = _Search(
        main,
        seed=seed,
        fails=fails,
        steps_max=max(_STEPS_MIN, _STEPS_TIMES * first.steps),
        virtual_s_max=virtual_s_max,
        tries_max=tries_max,
        found=start,
        result=first,
    )
    search.leave_out()
    search.lower()
    least = Deviations(tuple(search.found))
    return Shrunk(
        schedule=least,
        reproduce=_line(main, seed, least),
        result=search.result,
        deviations_before=len(start),
        tries=search.tries,
        is_minimal=search.tries < tries_max,
    )


class _Search(Generic[T]):
    """Where the search stands: the least failing list so far and what it gave."""

    def __init__(
        self,
        main: Callable[[Sim], Coroutine[Any, Any, T]],
        *,
        seed: int,
        fails: Callable[[SimResult[T]], bool],
        steps_max: int,
        virtual_s_max: float,
        tries_max: int,
        found: list[Deviation],
        result: SimResult[T],
    ) -> None:
        self._main = main
        self._seed = seed
        self._fails = fails
        self._steps_max = steps_max
        self._virtual_s_max = virtual_s_max
        self._tries_max = tries_max
        self._passed: set[tuple[Deviation, ...]] = set()
        """Lists known not to fail."""
        self.found = found
        self.result = result
        self.tries = 0

    def leave_out(self) -> None:
        """ddmin: halves, then ever smaller parts, alone and left out, until single ones."""
        if self._try([]):
            return
        parts = 2
        while len(self.found) > 1 and self.tries < self._tries_max:
            chunks = _split(self.found, parts)
            if self._any(chunks):
                parts = 2
            elif self._any([_without(chunks, at) for at in range(len(chunks))]):
                parts = max(2, parts - 1)
            elif parts >= len(self.found):
                return
            else:
                parts = min(len(self.found), parts * 2)

    def lower(self) -> None:
        """Takes the earliest source that still fails, at each deviation."""
        for place, (at, index) in enumerate(list(self.found)):
            for lesser in range(1, index):
                changed = list(self.found)
                changed[place] = (at, lesser)
                if self._try(changed):
                    break

    def _any(self, candidates: list[list[Deviation]]) -> bool:
        return any(self._try(candidate) for candidate in candidates)

    def _try(self, candidate: list[Deviation]) -> bool:
        """Whether `candidate` fails; then it is the least found."""
        key = tuple(candidate)
        if key in self._passed or self.tries >= self._tries_max:
            return False
        self.tries += 1
        result = trial(
            self._main,
            seed=self._seed,
            schedule=Deviations(key),
            steps_max=self._steps_max,
            virtual_s_max=self._virtual_s_max,
        )
        if not self._fails(result):
            self._passed.add(key)
            return False
        self.found, self.result = candidate, result
        return True


def _split(items: list[Deviation], parts: int) -> list[list[Deviation]]:
    """`parts` runs of neighbours, as equal in length as can be; none is empty."""
    ends = [len(items) * part // parts for part in range(parts + 1)]
    return [items[start:end] for start, end in pairwise(ends) if end > start]


def _without(chunks: list[list[Deviation]], left_out: int) -> list[Deviation]:
    return [each for at, chunk in enumerate(chunks) if at != left_out for each in chunk]


def _same_error(first: BaseException | None) -> Callable[[SimResult[Any]], bool]:
    def fails(result: SimResult[Any]) -> bool:
        error = result.error
        if first is None or type(error) is not type(first):
            return False
        if isinstance(first, StageflowError) and isinstance(error, StageflowError):
            return error.code == first.code
        return True

    return fails


def _line(main: Callable[..., Any], seed: int, schedule: Deviations) -> str:
    name = f"{getattr(main, '__module__', '?')}.{getattr(main, '__qualname__', 'main')}"
    return f"simulate({name}, seed={seed}, schedule={schedule!r})"
