"""What numbers and codes of standards mean for another attempt.

Sources: RFC 9110 and the IANA registry of HTTP status codes, with those that Cloudflare and nginx
add; gRPC status codes (https://grpc.github.io/grpc/core/md_doc_statuscodes.html); SQLSTATE as in
PostgreSQL, appendix A; result codes of SQLite (https://sqlite.org/rescode.html); errno of POSIX.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from stageflow.model.classification.sign import ErrorKind

P, T = ErrorKind.PERMANENT, ErrorKind.TRANSIENT
R, U = ErrorKind.THROTTLED, ErrorKind.UNKNOWN


def _table(*rows: tuple[ErrorKind, str]) -> Mapping[str, ErrorKind]:
    return MappingProxyType({name: kind for kind, names in rows for name in names.split()})


_HTTP: Final = _table(
    (T, "408 421 423 425 500 502 503 520 521 522 523 525 527 529 530 440 449"),
    (R, "420 429 430 509"),
    (U, "460 499 504 524 598 599"),
    (P, "501 505 506 507 508 510 511 526"),
)
GRPC: Final = _table(
    (U, "CANCELLED UNKNOWN DEADLINE_EXCEEDED"),
    (
        P,
        "INVALID_ARGUMENT NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED FAILED_PRECONDITION "
        "OUT_OF_RANGE UNIMPLEMENTED DATA_LOSS UNAUTHENTICATED",
    ),
    (T, "ABORTED INTERNAL UNAVAILABLE"),
    (R, "RESOURCE_EXHAUSTED"),
)
GRPC_NUMBERS: Final = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS "
    "PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED "
    "INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
).split()
_SQLSTATE: Final = _table(
    (T, "08001 08003 08004 25006 25P03 25P04 40001 40P01 40000 55006 55P03 57014 57P01 57P02"),
    (T, "57P03 57P05 58000 58030 72000 HV00N"),
    (U, "08000 08006 08007 40003"),
    (P, "08P01 40002 57P04"),
)
_SQLSTATE_CLASSES: Final = _table((U, "08"), (T, "40 53 57"))
SQLITE: Final = _table(
    (T, "BUSY LOCKED NOMEM INTERRUPT PROTOCOL SCHEMA IOERR ABORT"),
    (P, "ERROR INTERNAL PERM READONLY CORRUPT NOTFOUND FULL CANTOPEN EMPTY TOOBIG CONSTRAINT"),
    (P, "MISMATCH MISUSE NOLFS AUTH FORMAT RANGE NOTADB"),
)
_MYSQL: Final = _table(
    (T, "1040 1053 1129 1158 1159 1160 1161 1203 1205 1213 1614 2002 2003 3024 3058 3572"),
    (R, "1226"),
    (U, "2006 2013 2055"),
)
_ERRNO: Final = _table(
    (T, "EAGAIN EWOULDBLOCK EINTR EBUSY ETXTBSY ENOMEM ENOBUFS EMFILE ENFILE EDEADLK EDEADLOCK"),
    (T, "ENOLCK EADDRINUSE EALREADY EINPROGRESS ECONNREFUSED EHOSTUNREACH ENETUNREACH ENETDOWN"),
    (T, "EHOSTDOWN ENONET ENOTCONN EUSERS ESTALE ERESTART ETIME"),
    (U, "ETIMEDOUT ECONNRESET EPIPE ECONNABORTED ENETRESET ESHUTDOWN EIO EREMOTEIO ECANCELED"),
)
NOT_SENT: Final = frozenset(
    "ECONNREFUSED EHOSTUNREACH ENETUNREACH ENETDOWN EHOSTDOWN ENONET ENOTCONN".split()
)
JSON_RPC: Final = MappingProxyType(
    {-32700: P, -32600: P, -32601: P, -32602: P, -32603: T, -32800: U, -32801: T, -32802: T}
)
"""JSON-RPC 2.0, section 5.1, and what the Language Server Protocol adds."""
REDIS: Final = _table(
    (T, "BUSY LOADING CLUSTERDOWN TRYAGAIN MASTERDOWN READONLY NOREPLICAS MISCONF ASK MOVED"),
    (T, "NOGOODSLAVE INPROG BUSYKEY UNBLOCKED"),
    (P, "WRONGTYPE NOAUTH WRONGPASS NOPERM NOSCRIPT NOPROTO BUSYGROUP NOGROUP CROSSSLOT EXECABORT"),
    (P, "OOM ERR DENIED INVALIDOBJ UNKILLABLE NOTBUSY"),
)
"""The first word of an error reply: https://redis.io/docs/latest/develop/reference/protocol-spec/"""


def of_http(status: int) -> ErrorKind | None:
    """The kind of an HTTP status; None below 300 and for what is no status."""
    known = _HTTP.get(str(status))
    if known is not None:
        return known
    if 300 <= status < 500:
        return P
    return T if 500 <= status < 600 else None


def of_sqlstate(state: str) -> ErrorKind | None:
    """The kind of a SQLSTATE, by code and then by class; None for success and warnings."""
    if state[:2] in ("00", "01"):
        return None
    return _SQLSTATE.get(state) or _SQLSTATE_CLASSES.get(state[:2]) or P


def of_errno(number: int) -> tuple[str, ErrorKind] | None:
    """Name and kind of an errno; None for a number that this system does not know."""
    name = errno.errorcode.get(number)
    return None if name is None else (name, _ERRNO.get(name, P))


def of_mysql(number: int) -> ErrorKind:
    """The kind of an error number of MySQL or MariaDB."""
    return _MYSQL.get(str(number), P)
