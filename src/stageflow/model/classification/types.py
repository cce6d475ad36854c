"""What types of exceptions mean, by the root of their module and their name: nothing is imported.

A class is looked up along its bases, so that a client's own subclass means what its parent does.
Where a phase is known it is part of the type: a connect timeout was never sent, a read timeout was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from stageflow.model.classification.names import of_name
from stageflow.model.classification.reading import got
from stageflow.model.classification.sign import Basis, ErrorKind, Sign

P, T = ErrorKind.PERMANENT, ErrorKind.TRANSIENT
R, U = ErrorKind.THROTTLED, ErrorKind.UNKNOWN

_HTTPX: Final = (
    (T, "ConnectTimeout PoolTimeout ConnectError ProxyError"),
    (U, "ReadTimeout WriteTimeout ReadError WriteError CloseError RemoteProtocolError"),
    (U, "TimeoutException NetworkError ConnectionNotAvailable"),
    (P, "LocalProtocolError UnsupportedProtocol InvalidURL TooManyRedirects DecodingError"),
    (P, "CookieConflict StreamConsumed StreamClosed ResponseNotRead RequestNotRead"),
)
_ROOTS: Final[Mapping[str, tuple[tuple[ErrorKind, str], ...]]] = MappingProxyType(
    {
        "httpx": _HTTPX,
        "httpx2": _HTTPX,
        "httpcore": _HTTPX,
        "httpcore2": _HTTPX,
        "aiohttp": (
            (T, "ClientConnectorError ClientProxyConnectionError ConnectionTimeoutError"),
            (T, "ClientConnectorDNSError ServerConnectionError_ ClientHttpProxyError"),
            (U, "ServerDisconnectedError ServerTimeoutError SocketTimeoutError ClientOSError"),
            (U, "ClientPayloadError ClientConnectionResetError ClientConnectionError"),
            (
                P,
                "ClientConnectorCertificateError ClientConnectorSSLError ClientSSLError InvalidURL",
            ),
            (P, "ContentTypeError TooManyRedirects InvalidUrlClientError NonHttpUrlClientError"),
            (P, "ServerFingerprintMismatch WSServerHandshakeError"),
        ),
        "requests": (
            (T, "ConnectTimeout ProxyError"),
            (U, "ReadTimeout Timeout ChunkedEncodingError ConnectionError"),
            (P, "SSLError InvalidURL MissingSchema InvalidSchema InvalidHeader TooManyRedirects"),
            (P, "InvalidProxyURL ContentDecodingError StreamConsumedError UnrewindableBodyError"),
            (P, "JSONDecodeError InvalidJSONError"),
        ),
        "urllib3": (
            (T, "ConnectTimeoutError NewConnectionError NameResolutionError ProxyError"),
            (T, "EmptyPoolError FullPoolError"),
            (U, "ReadTimeoutError ProtocolError IncompleteRead TimeoutError InvalidChunkLength"),
            (P, "SSLError LocationParseError LocationValueError DecodeError UnrewindableBodyError"),
            (P, "ClosedPoolError HostChangedError URLSchemeUnknown ProxySchemeUnknown"),
        ),
        "http": (
            (U, "RemoteDisconnected IncompleteRead BadStatusLine LineTooLong"),
            (P, "InvalidURL CannotSendRequest CannotSendHeader UnknownProtocol"),
            (P, "ImproperConnectionState"),
            (T, "NotConnected"),
        ),
        "redis": (
            (T, "BusyLoadingError ReadOnlyError TryAgainError ClusterDownError MasterDownError"),
            (T, "MasterNotFoundError SlaveNotFoundError MaxConnectionsError LockError WatchError"),
            (T, "AskError MovedError SlotNotCoveredError"),
            (U, "TimeoutError ConnectionError InvalidResponse"),
            (P, "AuthenticationError AuthorizationError NoPermissionError NoScriptError DataError"),
            (P, "AuthenticationWrongNumberOfArgsError ResponseError OutOfMemoryError"),
            (P, "ExecAbortError CrossSlotTransactionError ClusterCrossSlotError ModuleError"),
            (P, "PubSubError InvalidPipelineStack LockNotOwnedError"),
        ),
        "psycopg": (
            (T, "ConnectionTimeout"),
            (P, "DataError IntegrityError ProgrammingError NotSupportedError InterfaceError"),
            (U, "OperationalError"),
        ),
        "psycopg_pool": ((T, "PoolTimeout TooManyRequests"), (P, "PoolClosed")),
        "asyncpg": (
            (U, "ConnectionDoesNotExistError PostgresConnectionError"),
            (T, "CannotConnectNowError TooManyConnectionsError"),
            (P, "InterfaceError DataError InternalClientError"),
        ),
        "sqlite3": (
            (P, "IntegrityError ProgrammingError DataError NotSupportedError InterfaceError"),
        ),
        "sqlalchemy": (
            (T, "TimeoutError"),
            (P, "IntegrityError ProgrammingError DataError NotSupportedError ArgumentError"),
            (P, "InvalidRequestError CompileError NoResultFound MultipleResultsFound"),
            (U, "DisconnectionError"),
        ),
        "botocore": (
            (T, "EndpointConnectionError ConnectTimeoutError ProxyConnectionError"),
            (U, "ReadTimeoutError ConnectionClosedError HTTPClientError IncompleteReadError"),
            (P, "NoCredentialsError PartialCredentialsError ParamValidationError"),
            (P, "NoRegionError SSLError"),
        ),
        "ssl": (
            (P, "SSLCertVerificationError CertificateError"),
            (U, "SSLEOFError SSLZeroReturnError SSLSyscallError"),
            (T, "SSLWantReadError SSLWantWriteError"),
        ),
        "asyncio": (
            (U, "IncompleteReadError"),
            (T, "QueueFull"),
            (P, "LimitOverrunError InvalidStateError QueueShutDown"),
        ),
        "anyio": (
            (U, "BrokenResourceError EndOfStream IncompleteRead"),
            (T, "BusyResourceError WouldBlock"),
            (P, "ClosedResourceError"),
        ),
        "subprocess": ((U, "TimeoutExpired"),),
        "concurrent": ((U, "BrokenExecutor BrokenProcessPool BrokenThreadPool"),),
        "websockets": (
            (U, "ConnectionClosedError ConnectionClosed"),
            (P, "InvalidURI InvalidHandshake"),
        ),
        "zipfile": ((P, "BadZipFile"),),
    }
)
_TYPES: Final = {
    (root, name): kind
    for root, rows in _ROOTS.items()
    for kind, names in rows
    for name in names.split()
}
_SYSTEM: Final[Mapping[str, ErrorKind]] = {
    name: kind
    for kind, names in (
        (P, "PermissionError FileNotFoundError FileExistsError IsADirectoryError"),
        (P, "NotADirectoryError ChildProcessError ProcessLookupError herror"),
        (T, "BlockingIOError InterruptedError ConnectionRefusedError MemoryError"),
        (U, "ConnectionResetError ConnectionAbortedError BrokenPipeError ConnectionError"),
        (U, "TimeoutError EOFError"),
    )
    for name in names.split()
}
"""Of Python's own: what the operating system says."""
_PROGRAM: Final = frozenset(
    "TypeError AttributeError NameError ImportError SyntaxError NotImplementedError AssertionError "
    "LookupError ArithmeticError ValueError RecursionError BufferError".split()
)
"""Of Python's own: what a program says of itself. The same call raises it again."""
_PHASED: Final = frozenset(
    "TimeoutError ConnectionResetError ConnectionAbortedError BrokenPipeError ConnectionError "
    "EOFError ConnectionRefusedError ConnectTimeout ConnectError PoolTimeout ReadTimeout "
    "WriteTimeout ReadError WriteError TimeoutException NetworkError Timeout".split()
)
_VAGUE: Final = frozenset(
    (root, name)
    for root, names in (
        ("psycopg", "OperationalError"),
        ("redis", "ConnectionError TimeoutError ResponseError"),
        ("requests", "ConnectionError Timeout"),
        ("urllib3", "ProtocolError TimeoutError"),
        ("aiohttp", "ClientConnectionError ServerTimeoutError ClientOSError"),
        ("asyncpg", "PostgresConnectionError InterfaceError"),
        ("http", "BadStatusLine"),
    )
    for name in names.split()
)
"""Types that mean one thing or the other, so that a message that is known outweighs them."""
_UNTOLD: Final = frozenset("Exception BaseException OSError RuntimeError object".split())


def of_type(error: BaseException) -> Sign | None:
    """What the nearest known class says; None when no class of it is known."""
    for cls in type(error).__mro__:
        root = cls.__module__.partition(".")[0].lstrip("_")
        name = cls.__name__
        known = _TYPES.get((root, name))
        if known is not None:
            by_phase = name in _PHASED or known is U
            basis = Basis.WORDING if (root, name) in _VAGUE else Basis.TYPE
            return Sign(known, basis, f"type {root}.{name}", by_phase)
        if root in ("builtins", "socket", "asyncio"):
            found = _of_own(name)
            if found is not None or name in _UNTOLD:
                return found
        elif root not in ("abc", "typing"):
            told = of_name(name)
            if told is not None:
                return Sign(told, Basis.TYPE, f"type {root}.{name}", told is U)
    return None


def _of_own(name: str) -> Sign | None:
    kind = _SYSTEM.get(name)
    if kind is not None:
        return Sign(kind, Basis.TYPE, f"type {name}", name in _PHASED)
    if name in _PROGRAM:
        return Sign(P, Basis.PROGRAM, f"type {name}")
    return None


_LINKS: Final = (
    "reason",
    "original",
    "orig",
    "original_error",
    "os_error",
    "inner",
    "last_attempt",
)
LINKS_MAX: Final = 32


def links(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """The error and what it was made from, outermost first; each with whether it was only in the
    making when the one before was raised. Groups are not opened. Bounded, and each one once."""
    seen: set[int] = set()
    todo: list[tuple[BaseException, bool]] = [(error, False)]
    while todo and len(seen) < LINKS_MAX:
        current, loose = todo.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current, loose
        causes: list[object] = [got(current, name) for name in _LINKS]
        causes += [each for each in current.args[:8] if isinstance(each, BaseException)]
        if current.__cause__ is not None:
            causes.append(current.__cause__)
        elif not current.__suppress_context__ and current.__context__ is not None:
            todo.append((current.__context__, True))
        todo[:0] = [(each, loose) for each in causes if isinstance(each, BaseException)]
