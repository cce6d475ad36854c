"""Values of a given size, mixed as contexts are, and the floor that writes and reads them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import zstandard

MIB: Final = 1024 * 1024
LEVEL: Final = 3
SHARES: Final[Mapping[str, float]] = {
    "texts": 0.45,
    "bytes": 0.25,
    "keys": 0.20,
    "integers": 0.04,
    "floats": 0.04,
    "odd": 0.02,
}
"""Of a mix's bytes; the odd ones are texts with lone surrogates."""
_WORDS_SEEN: Final = 20_000


def mix(size: int, seed: int, *, keys: int, digits: int) -> dict[str, Any]:
    """About `size` bytes of everything, `keys` small keys and integers of `digits` digits in it."""
    rng = random.Random(seed)
    words = _words(rng)
    share = {name: int(size * part) for name, part in SHARES.items()}
    return {
        "texts": _texts(share["texts"], rng, words),
        "bytes": [rng.randbytes(n) for n in _lengths(share["bytes"], rng)],
        "keys": {f"key {number:09d}": rng.getrandbits(48) for number in range(keys)},
        "integers": [
            rng.getrandbits(bits) | 1 << bits
            for bits in (round(digits / math.log10(2)),)
            for _ in range(max(1, 8 * share["integers"] // bits))
        ],
        "floats": [
            float("nan") if number % 7 == 0 else rng.random()
            for number in range(share["floats"] // 9)
        ],
        "odd": [
            f"{word} " * 20 + "\ud83d" for word in words[: 1 + share["odd"] // 180 % _WORDS_SEEN]
        ],
    }


def prepared(value: Any) -> Any:
    """What MessagePack can write: huge integers and lone surrogates as tagged bytes. The least that
    a writer by hand would do, who knows where they are."""
    return {
        **value,
        "integers": [
            {1: each.to_bytes(each.bit_length() // 8 + 1, "big")} for each in value["integers"]
        ],
        "odd": [{2: each.encode("utf-8", "surrogatepass")} for each in value["odd"]],
    }


def restored(value: Any) -> Any:
    """What `prepared` was made from."""
    return {
        **value,
        "integers": [int.from_bytes(each[1], "big") for each in value["integers"]],
        "odd": [each[2].decode("utf-8", "surrogatepass") for each in value["odd"]],
    }


def floor_write(value: Any) -> bytes:
    """One call each: msgspec, zstd."""
    packed = msgspec.msgpack.encode(prepared(value))
    return zstandard.ZstdCompressor(level=LEVEL).compress(packed)


def floor_read(data: bytes) -> Any:
    """One call each: zstd, msgspec."""
    packed = zstandard.ZstdDecompressor().decompress(data)
    return restored(msgspec.msgpack.decode(packed, strict=False))


def _words(rng: random.Random) -> list[str]:
    letters = "etaoinshrdlu" * 3 + "cmfwypvbgkqjxz" + "äéñøж中"
    return ["".join(rng.choices(letters, k=rng.randint(2, 12))) for _ in range(_WORDS_SEEN)]


def _lengths(total: int, rng: random.Random) -> list[int]:
    """Lengths from 100 bytes to 1 MiB, each order of magnitude as often; together `total`."""
    found = []
    while total > 0:
        found.append(min(total, int(100 * 10 ** rng.uniform(0, 4))))
        total -= found[-1]
    return found


def _texts(total: int, rng: random.Random, words: list[str]) -> list[str]:
    """Texts of words, pieced together from pages, since making 60 MiB word by word takes long."""
    pages = [" ".join(rng.choices(words, k=400)) for _ in range(400)]
    found = []
    for length in _lengths(total, rng):
        text = " ".join(rng.choices(pages, k=1 + length // 2_500))
        found.append(text[: max(1, int(length * 0.9))])
    return found
