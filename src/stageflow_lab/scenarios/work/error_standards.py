"""Every SQLSTATE class, errno, HTTP and gRPC code, and the exceptions of real drivers.

The labels are a person's, by the standards' own words; those of drivers are by what the driver's
documentation says that the exception means.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import importlib
import smtplib
import socket
import sqlite3
import ssl
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Final

from .error_cases import Label, P, R, ServiceError, T, Template, U

SQLSTATES: Final[tuple[tuple[Label, str], ...]] = (
    (
        P,
        "02000 03000 0A000 0B000 0F001 0L000 0P000 0Z000 10608 20000 21000 22001 22003 22007 22012",
    ),
    (
        P,
        "22P02 23502 23503 23505 23514 23P01 24000 25000 25001 25P02 26000 27000 28000 28P01 2B000",
    ),
    (
        P,
        "2D000 2F000 34000 38000 39000 3B000 3D000 3F000 40002 42501 42601 42703 42883 42P01 42P07",
    ),
    (P, "44000 54000 54001 55000 57P04 58P01 F0000 HV000 P0001 XX001 08P01 22023 23001 42704"),
    (T, "40001 40P01 53000 53200 53300 55P03 55006 57P03 57P01 57014 08001 25P03"),
    (U, "08006 08007 40003 08000"),
)
ERRNOS: Final[tuple[tuple[Label, str], ...]] = (
    (P, "EACCES EPERM ENOENT EEXIST EINVAL ENOTDIR EISDIR EROFS ENAMETOOLONG ELOOP EFBIG ENOEXEC"),
    (P, "ENOSYS EOPNOTSUPP EPROTONOSUPPORT EAFNOSUPPORT EBADF ENOTSOCK EXDEV E2BIG ENOSPC EDQUOT"),
    (P, "EADDRNOTAVAIL EMSGSIZE ENODEV ENXIO ENOTTY ESPIPE ENOTEMPTY EMLINK ENOPROTOOPT"),
    (T, "EAGAIN EINTR EBUSY ETXTBSY ENOMEM ENOBUFS EMFILE ENFILE EDEADLK EADDRINUSE ECONNREFUSED"),
    (T, "EHOSTUNREACH ENETUNREACH ENETDOWN EHOSTDOWN"),
    (U, "ECONNRESET EPIPE ECONNABORTED ETIMEDOUT"),
)
HTTP: Final[tuple[tuple[Label, str], ...]] = (
    (P, "400 401 402 403 404 405 406 407 409 410 411 412 413 414 415 416 417 418 422 424 426 428"),
    (P, "431 451 501 505 508 510 511"),
    (T, "408 425 423 500 502 503 529 521"),
    (R, "429"),
    (U, "504 524 499"),
)
GRPC: Final[tuple[tuple[Label, str], ...]] = (
    (P, "INVALID_ARGUMENT NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED FAILED_PRECONDITION"),
    (P, "OUT_OF_RANGE UNIMPLEMENTED DATA_LOSS UNAUTHENTICATED"),
    (T, "ABORTED UNAVAILABLE INTERNAL"),
    (R, "RESOURCE_EXHAUSTED"),
    (U, "DEADLINE_EXCEEDED CANCELLED UNKNOWN"),
)
Made = tuple[str, str, Label, Callable[[Any], Any], bool]
"""Module, name, kind, how to make it of the module, whether it was cut off after sending."""


class RpcError(Exception):
    """An error with `code()`, as grpc.aio.AioRpcError has it."""

    def __init__(self, name: str) -> None:
        super().__init__("rpc failed")
        self._name = name

    def code(self) -> Any:
        """Something with a name, as an enum's member."""
        return type("StatusCode", (), {"name": self._name})()


class StateError(Exception):
    """An error with `sqlstate`, as psycopg and asyncpg have it."""

    def __init__(self, state: str) -> None:
        super().__init__("statement failed")
        self.sqlstate = state


def _raised(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except Exception as error:  # what is wanted, whatever it is
        return error
    raise AssertionError("nothing was raised")


def _tls(reason: str, message: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] {message} (_ssl.c:1006)")
    error.reason = reason
    return error


def _sql(text: str) -> Callable[[Any], Any]:
    def make(module: Any) -> BaseException:
        with sqlite3.connect(":memory:") as made:
            made.execute("CREATE TABLE t (x INTEGER UNIQUE NOT NULL)")
            made.execute("INSERT INTO t VALUES (1)")
            return _raised(lambda: made.execute(text))

    return make


def _locked(module: Any) -> BaseException:
    address = "file:locked?mode=memory&cache=shared"
    first = sqlite3.connect(address, uri=True, isolation_level=None)
    second = sqlite3.connect(address, uri=True, isolation_level=None, timeout=0)
    try:
        first.execute("CREATE TABLE IF NOT EXISTS t (x)")
        first.execute("BEGIN IMMEDIATE")
        first.execute("INSERT INTO t VALUES (1)")
        return _raised(lambda: second.execute("INSERT INTO t VALUES (2)"))
    finally:
        second.close()
        first.close()


def _named(name: str, *arguments: Any) -> Callable[[Any], Any]:
    def make(module: Any) -> Any:
        found = module
        for part in name.split("."):
            found = getattr(found, part)
        return found(*arguments)

    return make


def _refused(module: Any) -> BaseException:
    """A real one: nobody listens on this port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if module.__name__ == "socket":
        return _raised(lambda: socket.create_connection(("127.0.0.1", port), timeout=1))
    if module.__name__ == "psycopg":
        return _raised(lambda: module.connect(f"host=127.0.0.1 port={port}", connect_timeout=1))
    if module.__name__ == "redis":
        return _raised(lambda: module.Redis(port=port, socket_timeout=1).ping())
    if module.__name__ == "requests":
        return _raised(lambda: module.get(f"http://127.0.0.1:{port}", timeout=1))
    client = module.Client(trust_env=False)
    try:
        return _raised(lambda: client.get(f"http://127.0.0.1:{port}"))
    finally:
        client.close()


DRIVERS: Final[tuple[Made, ...]] = (
    ("sqlite3", "syntax", P, _sql("SELEC 1"), False),
    ("sqlite3", "column", P, _sql("SELECT nothing FROM t"), False),
    ("sqlite3", "unique", P, _sql("INSERT INTO t VALUES (1)"), False),
    ("sqlite3", "null", P, _sql("INSERT INTO t VALUES (NULL)"), False),
    ("sqlite3", "locked", T, _locked, False),
    ("socket", "refused", T, _refused, False),
    ("socket", "no name", P, lambda m: m.gaierror(-2, "Name or service not known"), False),
    ("socket", "name later", T, lambda m: m.gaierror(-3, "Temporary failure"), False),
    ("socket", "timeout", U, lambda m: m.timeout("timed out"), True),
    ("asyncio", "timeout", U, lambda m: m.TimeoutError(), True),
    ("asyncio", "cut", U, lambda m: m.IncompleteReadError(b"", 4), True),
    ("http.client", "gone", U, _named("RemoteDisconnected", "closed without response"), True),
    ("http.client", "partial", U, _named("IncompleteRead", b"ab", 4), True),
    ("http.client", "url", P, _named("InvalidURL", "no"), False),
    ("subprocess", "slow", U, lambda m: m.TimeoutExpired("x", 3), True),
    ("ssl", "certificate", P, lambda m: m.SSLCertVerificationError(1, "verify failed"), False),
    ("ssl", "version", P, lambda m: _tls("WRONG_VERSION_NUMBER", "wrong version number"), False),
    ("ssl", "alert", P, lambda m: _tls("TLSV1_ALERT_UNKNOWN_CA", "unknown ca"), False),
    ("ssl", "handshake", P, lambda m: _tls("SSLV3_ALERT_HANDSHAKE_FAILURE", "alert"), False),
    ("ssl", "eof", U, lambda m: m.SSLEOFError(8, "EOF occurred in violation of protocol"), True),
    ("smtplib", "greylisted", T, lambda m: m.SMTPDataError(451, b"try later"), False),
    ("smtplib", "no mailbox", P, lambda m: m.SMTPResponseException(550, b"no such user"), False),
    ("smtplib", "login", P, lambda m: m.SMTPAuthenticationError(535, b"bad password"), False),
    ("smtplib", "gone", U, lambda m: m.SMTPServerDisconnected("Connection unexpectedly"), True),
    ("psycopg", "unique", P, _named("errors.UniqueViolation", "duplicate key value"), False),
    ("psycopg", "serialize", T, _named("errors.SerializationFailure", "could not"), False),
    ("psycopg", "deadlock", T, _named("errors.DeadlockDetected", "deadlock detected"), False),
    ("psycopg", "lock", T, _named("errors.LockNotAvailable", "canceling"), False),
    ("psycopg", "clients", T, _named("errors.TooManyConnections", "too many clients"), False),
    ("psycopg", "table", P, _named("errors.UndefinedTable", "does not exist"), False),
    ("psycopg", "denied", P, _named("errors.InsufficientPrivilege", "denied"), False),
    ("psycopg", "refused", T, _refused, False),
    (
        "psycopg",
        "lost",
        U,
        _named("OperationalError", "server closed the connection unexpectedly"),
        True,
    ),
    ("psycopg", "consuming", U, _named("OperationalError", "consuming input failed: EOF"), True),
    ("psycopg", "interface", P, _named("InterfaceError", "the cursor is closed"), False),
    ("redis", "loading", T, _named("exceptions.BusyLoadingError", "loading"), False),
    ("redis", "read only", T, _named("exceptions.ReadOnlyError", "replica"), False),
    ("redis", "type", P, _named("exceptions.ResponseError", "WRONGTYPE Operation"), False),
    ("redis", "password", P, _named("exceptions.AuthenticationError", "invalid"), False),
    ("redis", "refused", T, _refused, False),
    (
        "redis",
        "closed",
        U,
        _named("exceptions.ConnectionError", "Connection closed by server."),
        True,
    ),
    ("redis", "slow", U, _named("exceptions.TimeoutError", "Timeout reading from socket"), True),
    ("requests", "refused", T, _refused, False),
    ("requests", "connect", T, _named("exceptions.ConnectTimeout", "connect timed out"), False),
    ("requests", "read", U, _named("exceptions.ReadTimeout", "Read timed out."), True),
    ("requests", "tls", P, _named("exceptions.SSLError", "certificate verify failed"), False),
    ("requests", "url", P, _named("exceptions.MissingSchema", "no scheme"), False),
    ("requests", "chunk", U, _named("exceptions.ChunkedEncodingError", "broken"), True),
    ("urllib3", "read", U, lambda m: m.exceptions.ReadTimeoutError(None, "/", "read"), True),
    ("urllib3", "connect", T, lambda m: m.exceptions.ConnectTimeoutError("connect"), False),
    ("urllib3", "protocol", U, lambda m: m.exceptions.ProtocolError("Connection broken"), True),
    *(
        (module, name, label, _named(name, "x"), cut_off)
        for module in ("httpx", "httpx2")
        for label, cut_off, names in (
            (T, False, "ConnectTimeout ConnectError PoolTimeout"),
            (U, True, "ReadTimeout WriteTimeout ReadError RemoteProtocolError"),
            (P, False, "UnsupportedProtocol TooManyRedirects LocalProtocolError"),
        )
        for name in names.split()
    ),
    ("httpx2", "refused", T, _refused, False),
    ("aiohttp", "gone", U, lambda m: m.ServerDisconnectedError(), True),
    ("aiohttp", "payload", U, lambda m: m.ClientPayloadError("not completed"), True),
    ("aiohttp", "url", P, lambda m: m.InvalidURL("x"), False),
    ("aiohttp", "slow", U, lambda m: m.SocketTimeoutError("Timeout on reading data"), True),
    ("aiohttp", "connect", T, lambda m: m.ConnectionTimeoutError("Connection timeout"), False),
)


def standards() -> Iterator[Template]:
    """Templates of codes, then those of the drivers that are installed here."""
    for family, table, make in (
        ("sqlstate", SQLSTATES, StateError),
        ("http", HTTP, lambda code: ServiceError({"status": int(code)})),
        ("grpc", GRPC, RpcError),
        ("errno", ERRNOS, lambda code: OSError(getattr(errno, code), "failed")),
    ):
        for label, codes in table:
            for code in codes.split():
                yield Template(family, code, label, _of(make, code), cut_off=label == U)
    for label, sent in ((U, True), (T, False)):
        for code in ("ECONNRESET", "EPIPE", "ETIMEDOUT", "ECONNREFUSED"):
            make_error = _of(lambda code: OSError(getattr(errno, code), "failed"), code)
            told = f"{code} sent={sent}"
            yield Template("errno", told, label, make_error, sent=sent, cut_off=label == U)
    for module, name, label, make, cut_off in DRIVERS:
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        family = "tls" if module == "ssl" else "driver"
        unseen = module in ("subprocess", "http.client", "aiohttp", "httpx")
        yield Template(family, f"{module} {name}", label, _of(make, found), unseen, cut_off=cut_off)


def _of(make: Callable[[Any], Any], given: Any) -> Callable[[], Any]:
    return lambda: make(given)


_ = (asyncio, http.client, smtplib, subprocess)
"""Imported so that they are there: their exceptions are among the drivers'."""
