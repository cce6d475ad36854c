"""Reading what comes from outside, and no further than the cap."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from stageflow.model.errors import ToolError
from stageflow.stages.work.tools.refusals import not_text, too_large, truncated

CHUNK_MAX: Final = 64 * 1024
SHARE: Final = 10
"""A reader is asked for at most this part of the cap at once, and for one byte past it at last."""


@runtime_checkable
class ByteReader(Protocol):
    """What gives at most `n` bytes when asked, and none at its end: an asyncio.StreamReader."""

    def read(self, n: int, /) -> Awaitable[bytes]: ...


Source: TypeAlias = bytes | bytearray | memoryview | str | AsyncIterable[bytes] | ByteReader


@dataclass(frozen=True, slots=True)
class Incoming:
    """What a tool's function returns when it was told how much is to come, as a Content-Length."""

    source: Source
    bytes_expected: int | None = None


def whole(given: bytes | bytearray | memoryview | str, bytes_max: int) -> bytes:
    """The bytes of what is already here. ToolError `tool.output_size`, `tool.output_encoding`."""
    if isinstance(given, str):
        if len(given) > bytes_max:  # a character is a byte at least
            raise too_large(bytes_max, f"{len(given):,} characters")
        try:
            data = given.encode()
        except UnicodeEncodeError:
            raise not_text("a lone surrogate") from None
    else:
        if memoryview(given).nbytes > bytes_max:
            raise too_large(bytes_max, f"{memoryview(given).nbytes:,} bytes")
        data = bytes(given)
    if len(data) > bytes_max:
        raise too_large(bytes_max, f"{len(data):,} bytes")
    return data


async def read(source: Source, bytes_max: int, *, bytes_expected: int | None = None) -> bytes:
    """All bytes of `source`; stops, and closes it, with the first chunk past the cap.

    From a reader at most `bytes_max + 1` bytes are taken. An iterator's chunks are of its own
    size: at most the cap and one chunk are taken. `bytes_expected`, as a Content-Length, is held
    against what came. ToolError `tool.output_size`, `tool.output_truncated`.
    """
    if bytes_expected is not None and bytes_expected > bytes_max:
        raise too_large(bytes_max, f"{bytes_expected:,} bytes announced")
    if isinstance(source, (bytes, bytearray, memoryview, str)):
        data = whole(source, bytes_max)
    elif isinstance(source, AsyncIterable) and not isinstance(source, ByteReader):
        data = await _iterated(source, bytes_max)
    else:
        data = await _asked(source, bytes_max)
    if bytes_expected is not None and len(data) != bytes_expected:
        raise truncated(f"{len(data):,} bytes", expected=f"{bytes_expected:,} bytes, as announced")
    return data


async def _iterated(source: AsyncIterable[bytes], bytes_max: int) -> bytes:
    taken = bytearray()
    iterator = aiter(source)
    try:
        async for chunk in iterator:
            taken += chunk
            if len(taken) > bytes_max:
                raise too_large(bytes_max, f"more than {bytes_max:,} bytes")
    except (EOFError, ConnectionError) as error:
        raise truncated(f"{type(error).__name__} after {len(taken):,} bytes") from error
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
    return bytes(taken)


async def _asked(source: Any, bytes_max: int) -> bytes:
    taken = bytearray()
    step = max(1, min(CHUNK_MAX, bytes_max // SHARE))
    while True:
        try:
            chunk = source.read(min(step, bytes_max + 1 - len(taken)))
            if inspect.isawaitable(chunk):
                chunk = await chunk
        except (EOFError, ConnectionError) as error:
            raise truncated(f"{type(error).__name__} after {len(taken):,} bytes") from error
        if not chunk:
            return bytes(taken)
        taken += chunk
        if len(taken) > bytes_max:
            raise too_large(bytes_max, f"more than {bytes_max:,} bytes")


def decoded(data: bytes) -> str:
    """As UTF-8, a byte order mark left in. ToolError `tool.output_encoding`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _unreadable(data, error) from None


def _unreadable(data: bytes, error: UnicodeDecodeError) -> ToolError:
    if error.reason == "unexpected end of data" and error.end == len(data):
        return truncated("half a character at the end")
    return not_text(f"a byte that is none at {error.start:,}")
