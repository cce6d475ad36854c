"""What a scenario measures: a metric with its threshold, the value measured, the comparison.

A value may come with a confidence bound; then the bound, not the point estimate, must meet the
threshold. A claim that something happens zero times says how often it could have happened.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from .errors import LabError
from .statistics import BOUND_KINDS, BoundKind, bound_of, is_lower, zero_upper

Op = Literal["==", "<=", ">=", "<", ">"]
Number = int | float | bool

_COMPARE: Final[Mapping[str, Callable[[Number, Number], bool]]] = MappingProxyType(
    {
        "==": operator.eq,
        "<=": operator.le,
        ">=": operator.ge,
        "<": operator.lt,
        ">": operator.gt,
    }
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure a scenario judges.

    `threshold` is in `unit`; shares are fractions, 1.0 being all. `quick_threshold` is a looser
    bound for the quick size, printed as such; None: the same at every size. A metric with
    `gate=False` is reported beside the verdict and never decides it. `doc` says what is counted.

    `component` names something outside the lab that this figure alone needs, in the words of
    `Scenario.components`. Where it is absent the metric is not asked for, which its result and the
    verdict's reason say; the others are judged as ever.

    `bound` declares that a share of n is judged by that end of its 95% interval; the check gives
    the plain share. `of` names the size parameter that will be n, so that a size too small for the
    bound is known before the run. `misses` is how many of n the plan allows for; 0 asks only
    whether a faultless run would do.

    Raises LabError `lab.metric` for an operator that is none of == <= >= < >, and for a bound that
    does not suit its operator.
    """

    name: str
    op: Op
    threshold: Number
    unit: str = ""
    quick_threshold: Number | None = None
    gate: bool = True
    doc: str = ""
    bound: BoundKind | None = None
    of: str | None = None
    misses: int = 0
    component: str | None = None

    def __post_init__(self) -> None:
        if self.op not in _COMPARE:
            raise LabError(
                "lab.metric",
                f"metric {self.name!r} compares with {self.op!r}.",
                expected="one of == <= >= < >",
                got=repr(self.op),
                fix="write the operator as one of those strings",
            )
        if self.bound is None:
            return
        if self.bound not in BOUND_KINDS:
            raise LabError(
                "lab.metric",
                f"metric {self.name!r} declares a bound that is not known.",
                expected=", ".join(BOUND_KINDS),
                got=repr(self.bound),
                fix="take one of those names",
            )
        if self.op not in ((">=", ">") if is_lower(self.bound) else ("<=", "<")):
            raise LabError(
                "lab.metric",
                f"metric {self.name!r} compares a {self.bound} bound by {self.op!r}.",
                expected="a lower bound for >=, an upper bound for <=",
                got=f"{self.bound} {self.op}",
                fix="declare the end of the interval that can break the claim",
            )

    def threshold_at(self, size: str) -> Number:
        """The bound that holds at `size` ("quick", "full" or "soak")."""
        if size == "quick" and self.quick_threshold is not None:
            return self.quick_threshold
        return self.threshold

    def bounded(self, measured: Measured) -> Measured:
        """`measured` with the declared bound; as it is when it has one, or none is declared.

        A share without its n, or one outside [0, 1], has no bound: it comes back empty.
        """
        if self.bound is None or measured.bound is not None or measured.empty:
            return measured
        n, value = measured.n, float(measured.value)
        if n is None or not 0 <= value <= 1:
            note = f"{self.bound} needs a share of n; {value:g} of {n}"
            return replace(measured, value=math.nan, n=0, note=note)
        # The share came from a division of two ints, so rounding gives the hits back.
        return replace(measured, bound=bound_of(self.bound, round(value * n), n))

    def met(self, measured: Measured, *, size: str) -> bool:
        """Whether `measured` meets the threshold at `size`. NaN meets nothing."""
        judged = measured.value if measured.bound is None else measured.bound
        return bool(_COMPARE[self.op](judged, self.threshold_at(size)))


@dataclass(frozen=True, slots=True)
class Measured:
    """A value with its evidence: sample size `n`, and the confidence bound that is judged.

    With `n=0` nothing was measured and the verdict is `unknown`, whatever the value says.
    """

    value: Number
    n: int | None = None
    bound: Number | None = None
    note: str = ""

    @property
    def empty(self) -> bool:
        """True when there is no figure to judge: no samples, or not a number."""
        judged = self.value if self.bound is None else self.bound
        return self.n == 0 or (isinstance(judged, float) and math.isnan(judged))


def counted(count: int, n: int) -> Measured:
    """`count` events among `n` opportunities; a count of zero carries its 95% upper bound."""
    return Measured(value=count, n=n, note=zero_claim(n) if count == 0 and n > 0 else "")


def share(hits: int, n: int) -> Measured:
    """The fraction `hits / n`, between 0 and 1; of nothing, a figure that cannot be judged."""
    return Measured(value=hits / n if n else math.nan, n=n, note=f"{hits:,} of {n:,}")


def zero_claim(n: int) -> str:
    """What seeing zero events in `n` trials shows: the 95% upper bound of their rate, about 3/n.

    The rule of three: Hanley and Lippman-Hand, JAMA 249 (1983) 1743-1745; exact for small n.
    """
    return f"0 of {n:,}: rate below {zero_upper(n):.2g} with 95% confidence" if n > 0 else "0 of 0"
