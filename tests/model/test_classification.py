"""What errors and responses mean: the layers, their order, chains, groups and waits."""

from __future__ import annotations

import errno
import socket
import sqlite3
import ssl
from typing import Any

import pytest

from stageflow import BuildError, EffectUnknown, ErrorKind, RunError, StageFailed, classify
from stageflow.model.classification.names import of_name, spelled
from stageflow.model.classification.reading import facts_of, seconds
from stageflow.model.classification.sign import Basis
from stageflow.model.classification.types import LINKS_MAX, links
from stageflow.runtime.failure import Failure

P, T = ErrorKind.PERMANENT, ErrorKind.TRANSIENT
R, U = ErrorKind.THROTTLED, ErrorKind.UNKNOWN


def answer(status: int, body: Any = None, **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"status": status, "headers": named, "body": body}


class Answered(Exception):
    """As clients have it: the response in an attribute."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__("failed")
        self.response = type("Response", (), {"status_code": given["status"], **given})()


class Stated(Exception):
    sqlstate = "40001"


@pytest.mark.parametrize(
    ("given", "kind", "basis"),
    [
        (answer(500, x_should_retry="false"), P, Basis.SAID),
        (answer(400, x_should_retry="true"), T, Basis.SAID),
        (answer(429, {"error": {"code": "insufficient_quota"}}), P, Basis.CODE),
        (answer(403, {"error": {"errors": [{"reason": "rateLimitExceeded"}]}}), R, Basis.CODE),
        (answer(200, {"error": {"type": "overloaded_error"}}), T, Basis.CODE),
        (answer(429, {"error": {"type": "invalid_request_error"}}), R, Basis.STATUS),
        (answer(429), R, Basis.STATUS),
        (answer(404), P, Basis.STATUS),
        (answer(504), U, Basis.STATUS),
        (Stated(), T, Basis.STATUS),
        (OSError(errno.ECONNREFUSED, "no"), T, Basis.STATUS),
        (socket.gaierror(socket.EAI_NONAME, "no"), P, Basis.STATUS),
        (TimeoutError(), U, Basis.TYPE),
        (ValueError("rate limit"), P, Basis.PROGRAM),
        (RuntimeError("rate limit exceeded"), R, Basis.WORDING),
        (RuntimeError("boom"), U, Basis.NOTHING),
    ],
)
def test_structure_decides_before_wording(given: Any, kind: ErrorKind, basis: Basis) -> None:
    found = classify(given)
    assert (found.kind, found.basis) == (kind, basis)
    assert found.evidence and found.advice
    assert found.is_placed is (basis is not Basis.NOTHING)


def test_an_answer_means_the_same_in_an_exception() -> None:
    for given in (answer(429), answer(401), answer(503), answer(504)):
        assert classify(Answered(given)).kind is classify(given).kind


def test_a_cut_off_request_is_in_doubt_unless_it_was_never_sent() -> None:
    for error in (TimeoutError(), OSError(errno.ECONNRESET, "x"), ssl.SSLEOFError(8, "EOF")):
        assert classify(error).in_doubt
        assert classify(error, sent=True).kind is U
        assert classify(error, sent=False).kind is T
        assert not classify(error, sent=False).in_doubt
    assert classify(ssl.SSLCertVerificationError(1, "x"), sent=True).kind is P


def test_the_cause_speaks_for_a_wrapper_that_says_nothing() -> None:
    outer = RuntimeError("the tool failed")
    outer.__cause__ = Answered(answer(401))
    assert classify(outer).kind is P
    bug = KeyError("x")
    bug.__context__ = TimeoutError()
    assert classify(bug).kind is P, "what was in the making explains nothing that speaks"
    bug.__cause__ = bug.__context__
    assert classify(bug).kind is U, "what it was raised from does"


def test_chains_that_run_in_circles_or_without_end_are_cut() -> None:
    one, two = RuntimeError("1"), RuntimeError("2")
    one.__cause__, two.__cause__ = two, one
    assert len(list(links(one))) == 2
    last: BaseException = TimeoutError()
    for number in range(10 * LINKS_MAX):
        outer = RuntimeError(str(number))
        outer.__cause__ = last
        last = outer
    assert len(list(links(last))) == LINKS_MAX
    assert not classify(last).is_placed


def test_the_gravest_of_a_group_counts_and_doubt_is_kept() -> None:
    group = ExceptionGroup("g", [TimeoutError(), OSError(errno.ECONNREFUSED, "x")])
    assert classify(group).kind is U
    found = classify(ExceptionGroup("g", [group, ValueError()]))
    assert found.kind is P and found.in_doubt
    waits = [Answered(answer(429, retry_after=after)) for after in ("3", "9")]
    assert classify(ExceptionGroup("g", waits)).retry_after_s == 9.0


def test_real_database_errors_are_told_by_their_codes() -> None:
    with sqlite3.connect(":memory:") as made:
        with pytest.raises(sqlite3.OperationalError) as caught:
            made.execute("SELECT nothing")
        assert classify(caught.value).kind is P
        made.execute("CREATE TABLE t (x UNIQUE)")
        made.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.IntegrityError) as refused:
            made.execute("INSERT INTO t VALUES (1)")
    made.close()
    assert classify(refused.value).evidence[0] == "sqlite SQLITE_CONSTRAINT_UNIQUE"


def test_our_own_errors_are_told_by_their_codes() -> None:
    assert classify(BuildError("graph.cycle", "x")).kind is P
    assert classify(RunError("pool.full", "x")).kind is T
    assert classify(EffectUnknown("effect.unknown", "x")).kind is U
    failure = Failure(("a",), "error:TimeoutError", "TimeoutError", "x")
    original = TimeoutError()
    below = StageFailed(failure, status="failed", pipeline="p", original=original)
    assert classify(below).kind is U


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (answer(429, retry_after="7"), 7.0),
        (answer(429, retry_after_ms="250"), 0.25),
        (answer(429, retry_after="Thu, 01 Jan 1970 00:01:00 GMT"), 50.0),
        (answer(429, {"error": {"details": [{"retryDelay": "1.5s"}]}}), 1.5),
        (answer(429, {"message": "Please try again in 20s"}), 20.0),
        (answer(429, {"message": "later"}), None),
    ],
)
def test_what_the_service_asks_to_wait_is_read(given: Any, expected: float | None) -> None:
    assert classify(given, now_s=10.0).retry_after_s == expected


def test_spellings_of_one_code_are_one() -> None:
    for name in ("rateLimitExceeded", "Rate-Limit exceeded", "ns#rate_limit_exceeded"):
        assert spelled(name) == "rate_limit_exceeded" and of_name(name) is R
    assert of_name("error") is None and of_name("x" * 200) is None and of_name("") is None


def test_spans_are_read_as_seconds() -> None:
    assert seconds("6m0s") == 360.0 and seconds("1h") == 3_600.0 and seconds("250ms") == 0.25
    assert seconds(3) == 3.0 and seconds("3") == 3.0
    for odd in ("", "soon", True, None, -1, "9" * 40, [1]):
        assert seconds(odd) is None


class Hostile(Exception):
    """Every attribute of it that is looked at raises."""

    @property
    def response(self) -> Any:
        raise RuntimeError("no")

    headers = status_code = body = code = errors = response


@pytest.mark.parametrize(
    "given",
    [
        None,
        7,
        "",
        b"\xff{",
        "{" * 100_000,
        "[" * 100_000,
        {"error": {"code": [[[[[[[[1]]]]]]]]}},
        {"status": "many", "headers": 3, "body": object()},
        {1: {2: {3: {4: {5: {6: {7: {8: 9}}}}}}}},
        Exception(),
        Exception(Exception(Exception())),
    ],
)
def test_nothing_that_is_read_raises(given: Any) -> None:
    assert classify(given).kind in ErrorKind


def test_an_error_that_can_not_be_read_says_nothing() -> None:
    assert not classify(Hostile()).is_placed


def test_a_body_is_read_within_bounds() -> None:
    facts = facts_of({"items": [{"code": f"c{number}"} for number in range(10_000)]})
    assert len(facts.codes) <= 200
    assert classify("x" * 10_000_000 + "rate limit").kind is U


def test_no_text_of_a_message_is_in_the_evidence() -> None:
    found = classify(answer(401, {"error": {"message": "the key sk-secret is wrong"}}))
    assert "sk-secret" not in " ".join((*found.evidence, found.advice))
