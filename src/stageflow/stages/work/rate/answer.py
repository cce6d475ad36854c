"""What a service says of its limits: Retry-After and quota headers, read as they should be.

Retry-After is a count of seconds or an HTTP date (RFC 9110, section 10.2.3); whatever is neither,
negative numbers among them, is as good as absent. Quota headers are those of the IETF draft
"RateLimit header fields for HTTP" (`RateLimit`, `RateLimit-Policy`, and `RateLimit-Limit`,
`-Remaining`, `-Reset` of its earlier versions) and their `X-RateLimit-` relatives, whose reset may
be seconds from now, a Unix time, or a duration such as `6m0s`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from stageflow.model.errors import RunError
from stageflow.stages.work.rate.meter import Lesson

PAUSE_MAX_S: Final = 3_600.0
"""A service that says longer is asked again after that."""
EXHAUSTED_S: Final = 5.0
"""A pause from which on a quota is used up; what is shorter is the pace."""
CLOCKS_AGREE_S: Final = 2.0
"""Dates have whole seconds: clocks that are no farther apart than that are taken for equal."""
UNIX_TIME_FROM: Final = 1e8
"""A reset this large is no number of seconds from now."""
TOO_MANY, AWAY = 429, 503
_POLICY: Final = re.compile(r";\s*(?P<name>[a-z]+)\s*=\s*(?P<value>\d{1,12})")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Answer(NamedTuple):
    """An answer of a service, as far as its limits go; names of headers in any case."""

    status: int
    headers: Mapping[str, str]

    @staticmethod
    def of(response: Any) -> Answer | None:
        """Of what an HTTP client returns or raises; None when it is no answer."""
        response = getattr(response, "response", None) or response
        status = getattr(response, "status_code", getattr(response, "status", None))
        headers = getattr(response, "headers", None)
        if isinstance(status, bool) or not isinstance(status, int) or headers is None:
            return None
        return Answer(status, {str(name): str(headers[name]) for name in headers})

    @property
    def is_refusal(self) -> bool:
        """The service has not done what it was asked for, and says that it is too busy."""
        return self.status == TOO_MANY or (
            self.status == AWAY and "retry-after" in {name.lower() for name in self.headers}
        )


class QuotaHeaders(NamedTuple):
    """What headers say of time; None where they say nothing that can be understood."""

    retry_after_s: float | None = None
    remaining: int | None = None
    reset_s: float | None = None
    per_second: float | None = None

    @staticmethod
    def read(headers: Mapping[str, str], *, wall_s: float) -> QuotaHeaders:
        """`wall_s`: the time now, in Unix seconds."""
        given = {name.lower(): value.strip() for name, value in headers.items()}
        after_s = None
        if "retry-after" in given:
            after_s = retry_after_s(given["retry-after"], given.get("date"), wall_s=wall_s)
        policy = _parameters(given.get("ratelimit-policy", ""))
        state = _parameters(given.get("ratelimit", ""))
        remaining = state.get("r", _first_count(given, "remaining"))
        reset = state.get("t")
        reset_s = float(reset) if reset is not None else _reset_s(given, wall_s)
        quota, window_s = policy.get("q", 0), policy.get("w", 0)
        return QuotaHeaders(
            after_s, remaining, reset_s, quota / window_s if quota and window_s else None
        )


def lesson_of(answer: Answer, *, wall_s: float, interval_s: float) -> Lesson:
    """What the answer teaches; `interval_s` is the present one between two requests."""
    said = QuotaHeaders.read(answer.headers, wall_s=wall_s)
    per_second = said.per_second or 0.0
    pause_s = 0.0
    if said.remaining == 0 and said.reset_s is not None:
        pause_s = said.reset_s
    if answer.is_refusal:
        # Told nothing that can be understood: the next but one, and slower.
        pause_s = max(pause_s, 2 * interval_s if said.retry_after_s is None else said.retry_after_s)
    pause_s = min(pause_s, PAUSE_MAX_S)
    is_exhausted = pause_s >= EXHAUSTED_S
    return Lesson(pause_s, is_exhausted, answer.is_refusal and not is_exhausted, per_second)


def retry_after_s(value: str, date: str | None = None, *, wall_s: float) -> float | None:
    """Seconds from now, 0 to infinity; None when it is malformed, as a negative number is.

    `date` is the answer's Date: where its clock is another than ours, a date counts from it.
    """
    if value.isascii() and value.isdigit():
        return float(value) if len(value) < 300 else math.inf
    at_s = _date_s(value)
    if at_s is None:
        return None
    sent_s = None if date is None else _date_s(date)
    if sent_s is not None and abs(sent_s - wall_s) > CLOCKS_AGREE_S:
        return max(0.0, at_s - sent_s)
    return max(0.0, at_s - wall_s)


def _date_s(value: str) -> float | None:
    # Brings the email package, urllib and socket, for a form that few servers send.
    from email.utils import parsedate_to_datetime

    if not value[:3].isalpha():
        return None  # all forms of an HTTP date begin with the day of the week
    try:
        parsed = parsedate_to_datetime(value)
        if parsed.tzinfo is None:  # asctime's form, which is in GMT by definition
            from datetime import UTC

            parsed = parsed.replace(tzinfo=UTC)
        return parsed.timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _parameters(text: str) -> dict[str, int]:
    """Of the first item of a structured list: `"default";q=100;w=60`."""
    return {
        match["name"]: int(match["value"]) for match in _POLICY.finditer(text.partition(",")[0])
    }


def _first_count(given: Mapping[str, str], what: str) -> int | None:
    for name in (f"ratelimit-{what}", f"x-ratelimit-{what}", f"x-ratelimit-{what}-requests"):
        text = given.get(name, "")
        if text.isascii() and text.isdigit() and len(text) < 16:
            return int(text)
    return None


def _reset_s(given: Mapping[str, str], wall_s: float) -> float | None:
    for name in ("ratelimit-reset", "x-ratelimit-reset", "x-ratelimit-reset-requests"):
        text = given.get(name)
        if text is None:
            continue
        try:
            seconds = float(text)
        except ValueError:
            parts = _DURATION.findall(text)
            if not parts or "".join(number + unit for number, unit in parts) != text:
                continue
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        if not math.isfinite(seconds):
            continue
        if seconds >= UNIX_TIME_FROM:
            seconds -= wall_s
        return max(0.0, seconds)
    return None


class RateLimited(RunError):
    """A request was refused, or not sent because its time would not suffice.

    `retry_after` are the seconds after which it may be sent, which `Retry` waits at least;
    `is_exhausted` tells a used-up quota from the pace.
    """

    def __init__(
        self, code: str, message: str, *, retry_after: float, is_exhausted: bool, **told: Any
    ) -> None:
        super().__init__(code, message, **told)
        self.retry_after = retry_after
        self.is_exhausted = is_exhausted
