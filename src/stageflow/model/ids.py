"""Run ids: sortable by time, unique without coordination."""

from __future__ import annotations

import base64
import os
import time


def run_id() -> str:
    """26 characters: 48 bits of milliseconds, then 80 random bits from the operating system.

    The random part comes from the kernel for every id, so a fork or a cloned process can't repeat
    it. Layout as ULID (https://github.com/ulid/spec); letters as base32hex (RFC 4648, section 7),
    lower case, which keep the order of the bits.
    """
    number = (time.time_ns() // 1_000_000 << 80) | int.from_bytes(os.urandom(10), "big")
    return base64.b32hexencode(number.to_bytes(16, "big"))[:26].decode().lower()
