"""An interpreter of BPF programs as seccomp runs them, for tests of filters."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def answer(program: bytes, *, arch: int, number: int, arguments: Sequence[int] = ()) -> int:
    """What the filter returns for one call."""
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number, arch, 0, *(each & (2**64 - 1) for each in given))
    code = list(struct.iter_unpack("=HBBI", program))
    at, held = 0, 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            (held,) = struct.unpack_from("=I", data, value)
        elif operation == 0x54:
            held &= value
        elif operation == 0x15:
            at += yes if held == value else no
        elif operation == 0x35:
            at += yes if held >= value else no
        else:
            assert operation == 0x06, f"unknown operation {operation:#x}"
            return int(value)
