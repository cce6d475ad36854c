"""A stream of bytes as chunks: compressed one by one, each checksum covering all before it.

    stream   magic (4), chunk, chunk, ... , last chunk
    chunk    kind (1) | bytes packed (4) | bytes unpacked (4) | checksum (16) | packed bytes

The checksum is XXH3 of 128 bits (https://xxhash.com) over the previous one, the nine bytes before
it, and the packed bytes: it finds what was damaged, not what was forged. These are blocks of one
zstd frame (RFC 8878), flushed at the end of each chunk. So a byte that changed, a chunk that is
missing, moved or doubled, and a stream cut at any place are found before anything is unpacked.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NoReturn

from stageflow.model.errors import ContractError

MAGIC: Final = b"SFS\x01"
CHUNK_BYTES_MAX: Final = 1 << 30
"""Of what is in one chunk."""
LEVEL: Final = 2
"""Of compression. zstd's default, 3, takes a third longer for 2 to 8% less (CORE-002's mixes)."""
_HEAD: Final = struct.Struct(">BII")
_SUM: Final = 16
_MORE, _LAST = 1, 2


class ChunkWriter:
    """Makes the chunks of one stream. `begin`, then `chunk` any number of times, then `end`."""

    __slots__ = ("_compress", "_flush", "_flushed", "_sum")

    def __init__(self) -> None:
        zstandard = _loaded("zstandard")
        made = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._compress = made.compress
        self._flush = made.flush
        self._flushed = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._sum = b""

    def begin(self) -> bytes:
        """What a stream starts with."""
        self._sum = checksum(b"", MAGIC, b"")
        return MAGIC

    def chunk(self, body: bytes) -> bytes:
        """The next chunk, holding `body`."""
        return self._chunk(_MORE, self._compress(body) + self._flush(self._flushed), len(body))

    def end(self) -> bytes:
        """The last chunk, which says that nothing is missing."""
        return self._chunk(_LAST, b"", 0)

    def _chunk(self, kind: int, frame: bytes, length: int) -> bytes:
        head = _HEAD.pack(kind, len(frame), length)
        self._sum = checksum(self._sum, head, frame)
        return b"".join((head, self._sum, frame))


class ChunkReader:
    """Takes the bytes of one stream in pieces of any size and gives what is in whole chunks.

    Raises ContractError `codec.damaged`. What was given before came from chunks that are whole, of
    a stream that may be cut further on: only `end` tells that there was no more.
    """

    __slots__ = ("_buffer", "_decompress", "_ended", "_error", "_sum")

    def __init__(self) -> None:
        zstandard = _loaded("zstandard")
        self._error = zstandard.ZstdError
        self._decompress: Any = zstandard.ZstdDecompressor().decompressobj().decompress
        self._buffer = bytearray()
        self._sum: bytes | None = None
        """Of the last chunk; None before the magic was read."""
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What is in the chunks that `data` completes, one by one."""
        buffer = self._buffer
        buffer += data
        if self._sum is None:
            if len(buffer) < len(MAGIC) and MAGIC.startswith(bytes(buffer)):
                return
            if not buffer.startswith(MAGIC):
                _refuse("it does not begin as a stream does")
            del buffer[: len(MAGIC)]
            self._sum = checksum(b"", MAGIC, b"")
        start = _HEAD.size + _SUM
        while len(buffer) >= start:
            kind, length, inside = _HEAD.unpack_from(buffer)
            if kind not in (_MORE, _LAST) or max(length, inside) > CHUNK_BYTES_MAX:
                _refuse("a chunk's head is not one that is ever written")
            if len(buffer) < start + length:
                return
            with memoryview(buffer) as view:
                head, told = bytes(view[: _HEAD.size]), bytes(view[_HEAD.size : start])
                frame = bytes(view[start : start + length])
            del buffer[: start + length]
            self._sum = checksum(self._sum, head, frame)
            if told != self._sum or self._ended:
                _refuse("a chunk does not fit its checksum, or the one before it")
            if kind == _LAST:
                self._ended = True
            else:
                try:
                    body = self._decompress(frame)
                except self._error:
                    _refuse("what is in a chunk can't be unpacked")
                if len(body) != inside:
                    _refuse("a chunk holds more or less than it says")
                yield body

    def end(self) -> None:
        """There are no more bytes: the stream has to be whole."""
        if not self._ended or self._buffer:
            _refuse("it is cut, or goes on after its end")


def checksum(previous: bytes, head: bytes, frame: bytes) -> bytes:
    """Of one chunk, after the one with checksum `previous`."""
    digest = _loaded("xxhash").xxh3_128(previous + head)
    digest.update(frame)
    found: bytes = digest.digest()
    return found


@cache
def _loaded(name: str) -> Any:
    """A package of an extra of its own, loaded when first needed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ContractError(
            "codec.no_zstd",
            f"snapshots are dumped and loaded with zstandard and xxhash; {name} is not installed",
            expected="the packages zstandard and xxhash",
            fix="pip install 'stageflow[snapshots]'",
        ) from error


def _refuse(what: str) -> NoReturn:
    raise ContractError(
        "codec.damaged",
        f"the stored stream is damaged, or was written by a newer version: {what}",
        expected="whole chunks whose checksums fit, up to the last one",
        got="bytes that are not what was written",
        fix="restore it from a copy; no part of it is to be trusted",
    )
