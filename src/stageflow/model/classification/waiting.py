"""How long a failure itself asks to wait: headers, bodies, attributes."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from stageflow.model.classification.reading import Facts, got, seconds

_AGAIN: Final = re.compile(
    r"(?:try again|retry|wait|available)(?: \w+){0,4}? (?:in|after|for) "
    r"(\d+(?:\.\d+)?) ?(ms|s|sec|m|min)?",
    re.IGNORECASE,
)


def retry_after_s(error: Any, facts: Facts, now_s: float | None) -> float | None:
    """Seconds from now, at least 0; None when nothing says.

    `Retry-After` as RFC 9110, section 10.2.3 has it, a count of seconds or an HTTP date, which
    needs `now_s` (unix time); `retry-after-ms` and `x-ms-retry-after-ms`; `error.retry_after`;
    fields of bodies as `retry_after` and google.rpc.RetryInfo's `retryDelay`.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        millis = seconds(facts.headers.get(name))
        if millis is not None:
            return millis / 1_000
    given: Any = got(error, "retry_after")
    for value in (given, facts.headers.get("retry-after")):
        found = _header_s(value, now_s)
        if found is not None:
            return found
    if facts.delay_s:
        return max(facts.delay_s)
    for text in facts.texts:
        match = _AGAIN.search(text[:2_000])
        if match is not None:
            unit = (match[2] or "s").lower()
            return float(match[1]) * {"ms": 0.001, "m": 60.0, "min": 60.0}.get(unit, 1.0)
    return None


def _header_s(value: Any, now_s: float | None) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    try:
        found = float(value)
    except (TypeError, ValueError):
        if now_s is None or not isinstance(value, str):
            return None
        # Brings the email package and socket, for a header that few servers send as a date.
        from email.utils import parsedate_to_datetime

        try:
            found = parsedate_to_datetime(value).timestamp() - now_s
        except (TypeError, ValueError):
            return None
    return max(0.0, found) if math.isfinite(found) else None
