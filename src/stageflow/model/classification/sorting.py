"""Sorts an error or a response: structure before wording, and the decisive sign named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from stageflow.model.classification import statuses
from stageflow.model.classification.names import LENGTH_MAX, of_name, spelled
from stageflow.model.classification.reading import Facts, facts_of, got
from stageflow.model.classification.sign import (
    ADVICE,
    UNPLACED,
    Basis,
    Classification,
    ErrorKind,
    Sign,
)
from stageflow.model.classification.types import links, of_type
from stageflow.model.classification.waiting import retry_after_s
from stageflow.model.classification.wording import against_status, of_wording
from stageflow.model.errors import StageflowError

P, T = ErrorKind.PERMANENT, ErrorKind.TRANSIENT
R, U = ErrorKind.THROTTLED, ErrorKind.UNKNOWN
EVIDENCE_MAX: Final = 8
_AGAIN: Final = frozenset(("TransientTransactionError", "RetryableWriteError"))
_GRAVITY: Final = (P, U, R, T)
"""Of errors that happened together: what forbids most counts."""


def classify(
    subject: Any, *, sent: bool | None = None, now_s: float | None = None
) -> Classification:
    """What an exception, or a response, means for another attempt. Pure; never raises.

    A response is an object with `status_code` or `status`, `headers` and a body, a mapping of
    these, or a body alone, as text or parsed. `sent` says whether the request had left when the
    error came, where the caller knows it: of a cut-off request this decides between transient and
    outcome-unknown. `now_s` is unix time, for a Retry-After that is a date.

    The layers, strongest first: what the service says outright (`x-should-retry`), its codes for
    machines (`error.code`), codes of standards (HTTP status, SQLSTATE, gRPC, errno), the type, and
    last the wording. Chains of causes are followed to the strongest sign; of groups the gravest
    member counts. What shows no sign at all is outcome-unknown with basis NOTHING.
    """
    if isinstance(subject, BaseExceptionGroup):
        return _together(
            [classify(each, sent=sent, now_s=now_s) for each in subject.exceptions[:64]]
        )
    if not isinstance(subject, BaseException):
        facts = facts_of(subject)
        return _judged(list(_signs_of_facts(facts)), retry_after_s(subject, facts, now_s), sent)
    signs: list[Sign] = []
    loose_signs: list[Sign] = []
    delay_s: float | None = None
    for link, loose in links(subject):
        if isinstance(link, BaseExceptionGroup):
            inner = classify(link, sent=sent, now_s=now_s)
            if inner.is_placed:
                signs.append(Sign(inner.kind, inner.basis, f"group: {inner.evidence[0]}"))
            delay_s = inner.retry_after_s if delay_s is None else delay_s
            continue
        facts = facts_of(link)
        (loose_signs if loose else signs).extend(_signs_of_error(link, facts))
        if delay_s is None:
            delay_s = retry_after_s(link, facts, now_s)
    # What was in the making explains an error that says nothing itself, and no other.
    return _judged(signs or loose_signs, delay_s, sent)


def _judged(signs: list[Sign], delay_s: float | None, sent: bool | None) -> Classification:
    if not signs:
        return Classification(U, Basis.NOTHING, ("nothing known",), UNPLACED, delay_s)
    best = max(sign.basis for sign in signs)
    # Of equal ones the innermost: a client's `ConnectionError` is made from what really happened.
    decisive = [sign for sign in signs if sign.basis is best][-1]
    kind = decisive.kind
    if decisive.by_phase and sent is not None:
        kind = U if sent else T
    others = [sign.evidence for sign in reversed(signs) if sign is not decisive]
    evidence = tuple(dict.fromkeys((decisive.evidence, *others)))[:EVIDENCE_MAX]
    return Classification(kind, best, evidence, ADVICE[kind], delay_s, in_doubt=kind is U)


def _together(members: list[Classification]) -> Classification:
    placed = [each for each in members if each.is_placed] or members
    kind = next(kind for kind in _GRAVITY if any(each.kind is kind for each in placed))
    first = next(each for each in placed if each.kind is kind)
    waits = [each.retry_after_s for each in members if each.retry_after_s is not None]
    evidence = [first.evidence[0], *(each.evidence[0] for each in placed if each is not first)]
    return Classification(
        kind,
        first.basis,
        tuple(dict.fromkeys(evidence))[:EVIDENCE_MAX],
        first.advice,
        max(waits, default=None),
        in_doubt=any(each.in_doubt for each in members),
    )


_OWN: Final = {
    **dict.fromkeys(
        ("pool.full", "lock.busy", "queue.full", "effect.in_flight", "circuit.open"), T
    ),
    **dict.fromkeys(("effect.contended", "connection.full", "run.not_over"), T),
    **dict.fromkeys(("effect.unknown", "effect.store", "journal.unreachable"), U),
    **dict.fromkeys(("pool.lease_lost", "journal.write_failed"), U),
}
"""Codes of our own errors that are not permanent."""


# -- signs ---------------------------------------------------------------------------------------


def _signs_of_error(error: BaseException, facts: Facts) -> Iterator[Sign]:
    """The strongest last: of equal ones the last decides."""
    if isinstance(error, StageflowError):
        if not isinstance(got(error, "original"), BaseException):
            yield Sign(_OWN.get(error.code, P), Basis.CODE, f"code {error.code}")
        return
    own = of_type(error)
    if own is not None:
        yield own
    yield from _of_system(error)
    yield from _of_database(error, facts)
    yield from _of_grpc(error)
    yield from _signs_of_facts(facts, is_typed=own is not None and own.basis is Basis.TYPE)


def _signs_of_facts(facts: Facts, *, is_typed: bool = False) -> Iterator[Sign]:
    said = facts.headers.get("x-should-retry", "").lower()
    text = " ".join(facts.texts)
    yield from _of_text(facts, is_typed=is_typed)
    yield from _of_http(facts, text)
    yield from _of_codes(facts)
    for flag in ([said == "true"] if said in ("true", "false") else []) + facts.flags:
        kind = (R if 429 in facts.statuses[:1] else T) if flag else P
        yield Sign(kind, Basis.SAID, "the service says whether to repeat it")


def _of_text(facts: Facts, *, is_typed: bool) -> Iterator[Sign]:
    # A message that names a code of its own, as `WRONGTYPE Operation against a key`.
    for text in facts.texts:
        kind = of_wording(text)
        if kind is not None:
            phased = kind is U and not is_typed
            yield Sign(kind, Basis.WORDING, "wording of the message", phased)
            return


def _of_http(facts: Facts, text: str) -> Iterator[Sign]:
    if facts.headers.get("x-ratelimit-remaining") == "0" and {403, 429} & set(facts.statuses[:1]):
        yield Sign(R, Basis.CODE, "header x-ratelimit-remaining 0")
    for status in reversed(facts.statuses):
        kind = of_status_with(facts, status, text)
        if kind is not None:
            yield Sign(kind, Basis.STATUS, f"status {status}")


def of_status_with(facts: Facts, status: int, text: str) -> ErrorKind | None:
    """What a status means beside its message and headers; None when it says nothing."""
    kind = against_status(status, text)
    if kind is not None:
        return kind
    if status in (400, 403) and "retry-after" in facts.headers:
        return R
    return statuses.of_http(status)


def _of_codes(facts: Facts) -> Iterator[Sign]:
    found = []
    for code in facts.code_names():
        upper = code.upper()
        kind = statuses.GRPC.get(upper) if upper == code else None
        name = kind or of_name(code)
        if name is R and facts.statuses[:1] == [413]:
            name = P  # larger than what may ever be sent at once
        if name is not None:
            # Many services say "invalid request" of whatever they refuse; their status knows more.
            vague = spelled(code) in _VAGUE and _says_later(facts)
            basis = Basis.TYPE if vague else Basis.CODE
            found.append(Sign(name, basis, f"code {code[:LENGTH_MAX]}"))
    found += [
        Sign(statuses.JSON_RPC[number], Basis.CODE, f"code {number}")
        for number in facts.numbers
        if number in statuses.JSON_RPC
    ]
    yield from reversed(found)


_VAGUE: Final = frozenset("invalid_request_error invalid_request bad_request client_error".split())


def _says_later(facts: Facts) -> bool:
    return bool(facts.statuses) and statuses.of_http(facts.statuses[0]) in (T, R)


def _of_system(error: BaseException) -> Iterator[Sign]:
    """errno, name resolution, TLS, SMTP."""
    reply = got(error, "smtp_code")
    if type(reply) is int and 400 <= reply < 600:  # RFC 5321, section 4.2.1
        yield Sign(T if reply < 500 else P, Basis.STATUS, f"smtp {reply}")
    if not isinstance(error, OSError) or not isinstance(error.errno, int):
        return
    root = type(error).__module__.partition(".")[0].lstrip("_")
    name = type(error).__name__
    if name in ("gaierror", "herror"):
        again = error.errno == -3  # EAI_AGAIN, of POSIX's getaddrinfo on Linux
        yield Sign(T if again else P, Basis.STATUS, f"name resolution {error.errno}")
    elif root == "ssl":
        reason = got(error, "reason")
        if isinstance(reason, str) and reason:
            yield _of_tls(reason)
    elif root in ("builtins", "socket", "aiohttp", "asyncio"):
        known = statuses.of_errno(error.errno)
        if known is not None:
            code, kind = known
            phased = kind is U or code in statuses.NOT_SENT
            if name.startswith("ClientConnector") and kind is U:
                kind = T  # the connection was never made
            yield Sign(kind, Basis.STATUS, f"errno {code}", phased)


def _of_tls(reason: str) -> Sign:
    if "EOF" in reason or "SYSCALL" in reason or reason.startswith("INTERNAL"):
        return Sign(U, Basis.STATUS, f"tls {reason}", by_phase=True)
    return Sign(P, Basis.STATUS, f"tls {reason}")


def _of_database(error: BaseException, facts: Facts) -> Iterator[Sign]:
    root = type(error).__module__.partition(".")[0]
    state = got(error, "sqlstate") or got(error, "pgcode")
    if isinstance(state, str) and len(state) == 5 and state.isalnum():
        kind = statuses.of_sqlstate(state)
        if kind is not None:
            yield Sign(kind, Basis.STATUS, f"sqlstate {state}")
    name = got(error, "sqlite_errorname")
    if isinstance(name, str) and name.startswith("SQLITE_"):
        known = statuses.SQLITE.get(name.split("_")[1])
        if known is not None:
            yield Sign(known, Basis.STATUS, f"sqlite {name}")
    number = error.args[0] if error.args else None
    if root in ("pymysql", "MySQLdb", "mysql", "aiomysql", "asyncmy") and type(number) is int:
        yield Sign(statuses.of_mysql(number), Basis.STATUS, f"mysql {number}")
    labels = got(error, "_error_labels")
    if root == "pymongo" and isinstance(labels, Iterable) and _AGAIN & set(labels):
        yield Sign(T, Basis.STATUS, "mongodb label: transient")
    if root == "redis" and facts.texts:
        word = facts.texts[0].split(" ", 1)[0]
        if word in statuses.REDIS:
            yield Sign(statuses.REDIS[word], Basis.STATUS, f"redis {word}")


def _of_grpc(error: BaseException) -> Iterator[Sign]:
    """grpc.RpcError and grpc.aio.AioRpcError have `code()`, google.api_core `grpc_status_code`."""
    code: Any = got(error, "grpc_status_code")
    if code is None:
        given = got(error, "code")
        if callable(given):
            try:
                code = given()
            except Exception:  # a foreign class; what can't be read says nothing
                return
        else:
            code = given
    name = got(code, "name")
    if isinstance(name, str) and name in statuses.GRPC:
        yield Sign(statuses.GRPC[name], Basis.STATUS, f"grpc {name}")
