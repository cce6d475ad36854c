"""What a scenario is: a row's claim, its sizes and metrics as data, a load and a pure check.

One file a row: the header is data, `load` drives the shipped code and records a History without
judging, `check` judges that history. Sabotages show that the row can fail at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from stageflow.model.errors import nearest
from stageflow.model.marks import MARKS

from .errors import LabError
from .history import History
from .metric import Measured, Metric, Number
from .sabotage import Sabotage
from .world import World

SizeName = Literal["quick", "full", "soak"]
SIZE_NAMES: Final[tuple[SizeName, ...]] = ("quick", "full", "soak")
WALL_LIMIT_S: Final[Mapping[str, float]] = MappingProxyType(
    {"quick": 300.0, "full": 6 * 3_600.0, "soak": 9 * 3_600.0}
)
MEMORY_LIMIT_BYTES: Final = 8 * 1024**3


@dataclass(frozen=True, slots=True)
class Sizes:
    """The parameters of each size. Counts are ints; `fixed` names ints that are not counts.

    `scaled` multiplies the counts, as an audit does; widths, depths, payload sizes and anything
    that changes what is tested rather than how often belong in `fixed`. `totals` says what
    parameters make together, as "sim + real" or "pipelines * points": where the catalogue's number
    is such a sum or product, this is where it is reached.
    """

    quick: Mapping[str, Any]
    full: Mapping[str, Any]
    soak: Mapping[str, Any] | None = None
    fixed: tuple[str, ...] = ()
    totals: Mapping[str, str] = field(default_factory=dict)

    def params(self, name: str, *, scale: float = 1.0) -> Mapping[str, Any] | None:
        """The parameters of size `name`, counts multiplied by `scale` but at least 1.

        None when the scenario has no such size.
        """
        chosen: Mapping[str, Any] | None = getattr(self, name)
        if chosen is None or scale == 1.0:
            return chosen
        return {
            key: max(1, round(value * scale)) if self._is_count(key, value) else value
            for key, value in chosen.items()
        }

    def total(self, name: str, size: str) -> float:
        """The sum or product called `name` at `size`; 0 when there is no such size."""
        params = self.params(size)
        if params is None:
            return 0.0
        values = [float(params.get(part, 0)) for part in self.parts(name)]
        return math.prod(values) if "*" in self.totals[name] else math.fsum(values)

    def parts(self, name: str) -> list[str]:
        """The parameters that the total `name` is made of."""
        return [part.strip() for part in self.totals[name].replace("*", "+").split("+")]

    def _is_count(self, key: str, value: object) -> bool:
        return type(value) is int and value > 0 and key not in self.fixed


@dataclass(frozen=True, slots=True)
class Picture:
    """A line chart for the report: named series of (x, y) points. `log_x`, `log_y`: log axes."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a check found. `metrics` holds a Measured, or a bare number, per declared metric.

    `unknown` says why the history decides nothing: the fault never fired, the load never happened.
    A declared gate metric that is missing here makes the verdict unknown as well.
    """

    metrics: Mapping[str, Measured | Number]
    unknown: str | None = None
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of the roadmap as something that runs.

    `components` are needed outside the lab itself: "python:numpy", "command:git",
    "service:postgresql", "gpu:cuda", "peer:NAME==VERSION"; one that is absent makes the row
    `skipped`. What one metric alone needs stands at that metric. `faults` names
    what the load injects, each told by `History.fired` when it happened, or all accounted for by a
    gate metric `faults_fired`; `marks` names places of the engine (stageflow.model.marks) that a
    run must come through. A run that lacks one of either decides nothing. `plain` is an ordinary
    use of the component that must go on working under every sabotage; None takes the lab's own
    small pipeline. `wall_limit_s` overrides the
    limit per size; `memory_limit_bytes` bounds the address space.

    Raises LabError `lab.scenario` when the header contradicts itself.
    """

    row: str
    claim: str
    sizes: Sizes
    metrics: tuple[Metric, ...]
    sabotages: tuple[Sabotage, ...]
    load: Callable[[World], History]
    check: Callable[[History], Judgement]
    components: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    plain: Callable[[World], None] | None = None
    wall_limit_s: Mapping[str, float] = field(default_factory=lambda: WALL_LIMIT_S)
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES

    def __post_init__(self) -> None:
        problems = tuple(_contradictions(self))
        if problems:
            raise LabError(
                "lab.scenario",
                f"the header of {self.row} contradicts itself: {'; '.join(problems)}.",
                fix="mend the SCENARIO of this row",
            )

    def metric(self, name: str) -> Metric | None:
        """The declared metric of that name, or None."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def wall_limit(self, size: str) -> float:
        """Seconds the runner allows at `size`."""
        return self.wall_limit_s.get(size, WALL_LIMIT_S[size])

    def sabotaged(self, name: str | None) -> AbstractContextManager[None]:
        """The defect `name` while entered; nothing for None.

        A load that starts further processes enters this in each, with `world.sabotage`: patches
        do not cross an exec. Raises LabError `lab.sabotage` for a name not in the header.
        """
        if name is None:
            return nullcontext()
        for each in self.sabotages:
            if each.name == name:
                return each.apply()
        raise LabError(
            "lab.sabotage",
            f"{self.row} has no sabotage {name!r}.",
            expected=", ".join(each.name for each in self.sabotages) or "none is declared",
            got=name,
            fix="take a name from the row's header",
        )


def _contradictions(scenario: Scenario) -> list[str]:
    found = []
    names = [metric.name for metric in scenario.metrics]
    gates = [metric.name for metric in scenario.metrics if metric.gate]
    if not gates:
        found.append("no metric decides the verdict")
    found += [f"metric {name!r} is declared twice" for name in _twice(names)]
    found += [
        f"sabotage {n!r} is declared twice" for n in _twice(s.name for s in scenario.sabotages)
    ]
    found += [
        f"sabotage {each.name!r} names metric {each.metric!r}, which is not a gate metric"
        for each in scenario.sabotages
        if each.metric not in gates
    ]
    apart = {metric.name for metric in scenario.metrics if metric.component is not None}
    found += [
        f"sabotage {each.name!r} names metric {each.metric!r}, which is not always asked for"
        for each in scenario.sabotages
        if each.metric in apart
    ]
    if gates and apart.issuperset(gates):
        found.append("every gate metric needs a component of its own: let the scenario need it")
    quick = scenario.sizes.quick
    if not quick or not scenario.sizes.full:
        found.append("a size without parameters")
    found += [
        f"fixed key {key!r} is not a quick parameter"
        for key in scenario.sizes.fixed
        if key not in quick
    ]
    for name, text in scenario.sizes.totals.items():
        absent = [part for part in scenario.sizes.parts(name) if part not in quick]
        found += [f"total {name!r} takes {part!r}, which is no quick parameter" for part in absent]
        if "+" in text and "*" in text:
            found.append(f"total {name!r} is both a sum and a product")
    found += [
        f"metric {metric.name!r} counts its n by {metric.of!r}, which is no quick parameter"
        for metric in scenario.metrics
        if metric.of is not None and metric.of not in quick
    ]
    for name in scenario.marks:
        if name not in MARKS:
            close = nearest(name, list(MARKS))
            found.append(f"there is no mark {name!r}" + (f"; is it {close!r}?" if close else ""))
    unknown = sorted(scenario.wall_limit_s.keys() - set(SIZE_NAMES))
    found += [f"wall limit for unknown size {name!r}" for name in unknown]
    return found


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]
