"""How long a failure itself asks to wait: Retry-After, as seconds or as a date."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def retry_after_s(error: BaseException, wall_s: Callable[[], float]) -> float | None:
    """Seconds from now, at least 0; None when the error does not say.

    Reads `error.retry_after` (seconds) and `error.response.headers["retry-after"]` as RFC 9110,
    section 10.2.3 defines it: a count of seconds or an HTTP date.
    """
    given: Any = getattr(error, "retry_after", None)
    if given is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
        get = getattr(headers, "get", None)
        if get is None:
            return None
        given = get("retry-after")
        if given is None:
            given = get("Retry-After")
    if given is None or isinstance(given, bool):
        return None
    if isinstance(given, bytes):
        given = given.decode("latin-1")
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        # Brings the email package, urllib and socket, for a header that few servers send as a date.
        from email.utils import parsedate_to_datetime

        try:
            seconds = parsedate_to_datetime(str(given)).timestamp() - wall_s()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
