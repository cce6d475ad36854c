"""Retry-After and quota headers in every form that services send, and in those they shouldn't."""

from __future__ import annotations

import math
from email.utils import formatdate
from typing import Any

import pytest

from stageflow.stages.work.rate import Answer, QuotaHeaders
from stageflow.stages.work.rate.answer import lesson_of, retry_after_s

NOW_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("9" * 40, 1e40),
        ("9" * 400, math.inf),
        (formatdate(NOW_S + 30, usegmt=True), 30.0),
        (formatdate(NOW_S - 30, usegmt=True), 0.0),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30.0),
        ("Tue Nov 14 22:13:50 2023", 30.0),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("5 s", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("٣", None),
        ("Tue, 99 Nov 2023 22:13:50 GMT", None),
        ("Tue, 14 Nov 99999 22:13:50 GMT", None),
    ],
)
def test_retry_after_is_read_as_the_standard_says(value: str, seconds: float | None) -> None:
    assert retry_after_s(value, wall_s=NOW_S) == seconds


def test_a_date_counts_from_the_answers_own_clock_when_that_is_another() -> None:
    date = formatdate(NOW_S + 30 + 600, usegmt=True)
    assert retry_after_s(date, formatdate(NOW_S + 600, usegmt=True), wall_s=NOW_S) == 30.0
    assert retry_after_s(date, formatdate(NOW_S, usegmt=True), wall_s=NOW_S + 0.5) == 629.5


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Retry-After": "3"}, QuotaHeaders(retry_after_s=3.0)),
        (
            {"RateLimit-Policy": '"burst";q=100;w=60', "RateLimit": '"burst";r=0;t=12'},
            QuotaHeaders(remaining=0, reset_s=12.0, per_second=100 / 60),
        ),
        (
            {"RateLimit-Limit": "10", "RateLimit-Remaining": "4", "RateLimit-Reset": "7"},
            QuotaHeaders(remaining=4, reset_s=7.0),
        ),
        (
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(NOW_S + 9)},
            QuotaHeaders(None, 0, 9.0),
        ),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1h6m0.5s",
            },
            QuotaHeaders(None, 0, 3_960.5),
        ),
        ({"x-ratelimit-remaining": "-1", "x-ratelimit-reset": "later"}, QuotaHeaders()),
        ({"RateLimit-Policy": '"x";q=10;w=0'}, QuotaHeaders()),
        ({}, QuotaHeaders()),
    ],
)
def test_quota_headers_are_read(headers: dict[str, str], said: QuotaHeaders) -> None:
    assert QuotaHeaders.read(headers, wall_s=NOW_S) == pytest.approx(said)


@pytest.mark.parametrize(
    ("status", "headers", "pause_s", "is_exhausted", "is_refusal"),
    [
        (200, {}, 0.0, False, False),
        (200, {"RateLimit-Remaining": "0", "RateLimit-Reset": "60"}, 60.0, True, False),
        (200, {"RateLimit-Remaining": "3", "RateLimit-Reset": "60"}, 0.0, False, False),
        (429, {"Retry-After": "1"}, 1.0, False, True),
        (429, {"Retry-After": "60"}, 60.0, True, False),
        (429, {"Retry-After": "9" * 30}, 3_600.0, True, False),
        (429, {"Retry-After": "-60"}, 0.2, False, True),
        (429, {}, 0.2, False, True),
        (503, {"Retry-After": "2"}, 2.0, False, True),
        (503, {}, 0.0, False, False),
    ],
)
def test_an_exhausted_quota_is_told_apart_from_the_pace(
    status: int, headers: dict[str, str], pause_s: float, is_exhausted: bool, is_refusal: bool
) -> None:
    lesson = lesson_of(Answer(status, headers), wall_s=NOW_S, interval_s=0.1)
    assert lesson == (pause_s, is_exhausted, is_refusal, 0.0)


class Response:
    def __init__(self, status: int) -> None:
        self.status_code = status
        self.headers = {"Retry-After": "1"}


class Refused(Exception):
    def __init__(self) -> None:
        self.response = Response(429)


@pytest.mark.parametrize(
    ("given", "status"), [(Response(200), 200), (Refused(), 429), (object(), None), ("x", None)]
)
def test_an_answer_is_found_in_what_clients_return_and_raise(given: Any, status: Any) -> None:
    answer = Answer.of(given)
    assert (None if answer is None else answer.status) == status
