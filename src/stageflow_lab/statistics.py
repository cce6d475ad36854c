"""What a share of n says about the truth: interval bounds, and the n that a bound needs.

Own code and no SciPy, so that the smallest install can judge. Every function is pure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

CONFIDENCE: Final = 0.95
NEEDED_MAX: Final = 10**12
"""Where `needed` stops looking."""
_FRACTION_TERMS_MAX: Final = 20_000
_PRECISION: Final = 1e-14
_TINY: Final = 1e-300

BoundKind = Literal["wilson_lower", "wilson_upper", "exact_lower", "exact_upper"]


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends of a two-sided confidence interval for a share, in [0, 1]."""

    low: float
    high: float


def wilson(hits: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """The score interval: narrow, its coverage near `confidence` on average over shares.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    Journal of the American Statistical Association 22 (1927) 209-212. Of nothing: all of [0, 1].
    """
    _check(hits, n, confidence)
    if n == 0:
        return Interval(0.0, 1.0)
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share, squared = hits / n, z * z
    middle = share + squared / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    scale = 1 + squared / n
    # At the ends the formula is exactly 0 or 1; floating point would leave a crumb.
    low = 0.0 if hits == 0 else max(0.0, (middle - reach) / scale)
    high = 1.0 if hits == n else min(1.0, (middle + reach) / scale)
    return Interval(low, high)


def clopper_pearson(hits: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """The exact interval: wider, its coverage at least `confidence` for every share.

    Source: C. J. Clopper and E. S. Pearson, The use of confidence or fiducial limits illustrated
    in the case of the binomial, Biometrika 26 (1934) 404-413. Of nothing: all of [0, 1].
    """
    _check(hits, n, confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _beta_quantile(tail, hits, n - hits + 1)
    high = 1.0 if hits == n else _beta_quantile(1 - tail, hits + 1, n - hits)
    return Interval(low, high)


def zero_upper(n: int, *, confidence: float = CONFIDENCE) -> float:
    """The highest rate that zero events in `n` trials leave possible, one-sided; about 3/n.

    The exact form of the rule of three: the rate at which n trials stay empty with probability
    1 - `confidence`. 1.0 for n = 0.
    """
    _check(0, n, confidence)
    return 1.0 if n == 0 else -math.expm1(math.log1p(-confidence) / n)


def bound_of(kind: BoundKind, hits: int, n: int) -> float:
    """One end of a 95% interval. "lower" suits a ">=" metric, "upper" a "<=" one."""
    return _BOUNDS[kind](hits, n)


def is_lower(kind: BoundKind) -> bool:
    """Whether the bound lies below the share, and so is to be at least the threshold."""
    return kind.endswith("_lower")


def best_bound(kind: BoundKind, n: int, *, misses: int = 0) -> float:
    """The bound of the best result that `n` trials can have with `misses` of them against it."""
    misses = min(misses, n)
    return bound_of(kind, n - misses if is_lower(kind) else misses, n)


def reachable(kind: BoundKind, threshold: float, n: int, *, misses: int = 0) -> bool:
    """Whether `n` trials with `misses` against the claim still meet `threshold`."""
    best = best_bound(kind, n, misses=misses)
    return best >= threshold if is_lower(kind) else best <= threshold


def needed(kind: BoundKind, threshold: float, *, misses: int = 0) -> int | None:
    """The smallest n at which `threshold` can be met with `misses` trials against the claim.

    None when no n up to NEEDED_MAX will do: a bound of 1 from below, of 0 from above.
    """
    if reachable(kind, threshold, misses, misses=misses):
        return misses
    high = max(1, misses)
    while not reachable(kind, threshold, high, misses=misses):
        if high > NEEDED_MAX:
            return None
        high *= 2
    low = high // 2
    # For fixed misses the best bound only improves with n, so halving finds the first.
    while high - low > 1:
        middle = (low + high) // 2
        if reachable(kind, threshold, middle, misses=misses):
            high = middle
        else:
            low = middle
    return high


def _check(hits: int, n: int, confidence: float) -> None:
    assert 0 <= hits <= n, f"{hits} hits of {n}"
    assert 0 < confidence < 1, f"a confidence of {confidence}"


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """The x at which the Beta(a, b) distribution has `probability` below it, by halving."""
    low, high = 0.0, 1.0
    while high - low > _PRECISION * max(high, _TINY):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _beta_below(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_below(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b): DLMF 8.17, https://dlmf.nist.gov/8.17."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # The fraction converges fast left of the mean; right of it, I_x(a, b) = 1 - I_(1-x)(b, a).
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _beta_fraction(x, a, b) / a
    return 1 - math.exp(log_front) * _beta_fraction(1 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction DLMF 8.17.22, evaluated by the modified Lentz algorithm."""
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _FRACTION_TERMS_MAX):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _PRECISION:
            return value
    raise AssertionError(f"the continued fraction of I_{x}({a}, {b}) did not converge")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


_BOUNDS: Final[Mapping[BoundKind, Callable[[int, int], float]]] = MappingProxyType(
    {
        "wilson_lower": lambda hits, n: wilson(hits, n).low,
        "wilson_upper": lambda hits, n: wilson(hits, n).high,
        "exact_lower": lambda hits, n: clopper_pearson(hits, n).low,
        "exact_upper": lambda hits, n: clopper_pearson(hits, n).high,
    }
)
BOUND_KINDS: Final = tuple(_BOUNDS)
