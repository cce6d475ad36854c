"""Run ids: sortable by time, unique without coordination."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def run_id() -> str:
    """26 characters: 48 bits of milliseconds, then 80 random bits from the operating system.

    The random part comes from the kernel for every id, so a fork or a cloned process can't repeat
    it. Layout: ULID (https://github.com/ulid/spec), lower case.
    """
    number = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10), "big")
    letters = [""] * 26
    for place in range(25, -1, -1):
        letters[place] = _ALPHABET[number & 31]
        number >>= 5
    return "".join(letters)
