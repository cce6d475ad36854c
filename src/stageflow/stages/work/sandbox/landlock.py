"""Landlock: which files, ports and processes a program may reach, held by the kernel.

A second wall behind the mounts. Source: landlock(7), include/uapi/linux/landlock.h. What an older
kernel does not know is not asked of it; the mounts, namespaces and seccomp hold that by themselves.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final

from stageflow.stages.work.sandbox.kernel import failed, syscall

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""The same numbers on every architecture."""
_BENEATH: Final = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FILE_ONLY: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_ALL_BY_ABI: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
LIST: Final = _READ_DIR
DEVICE: Final = _READ_FILE | _WRITE_FILE
_BIND_TCP: Final = 1 << 0
_CONNECT_TCP: Final = 1 << 1
_SCOPES: Final = 0b11
"""Abstract UNIX sockets and signals, from ABI 6 on: both stay among the sandboxed."""


def all_rights(abi: int) -> int:
    """Every filesystem right that `abi` knows."""
    return _ALL_BY_ABI[max(known for known in _ALL_BY_ABI if known <= abi)]


def writing(abi: int) -> int:
    """Rights on a folder that may be changed: all but those on devices."""
    return all_rights(abi) & ~_IOCTL_DEV


def ruleset_attributes(abi: int, *, tcp: bool) -> bytes:
    """struct landlock_ruleset_attr as `abi` has it. Without `tcp` no TCP port may be used."""
    net = 0 if tcp else _BIND_TCP | _CONNECT_TCP
    if abi < 4:
        return struct.pack("=Q", all_rights(abi))
    if abi < 6:
        return struct.pack("=QQ", all_rights(abi), net)
    return struct.pack("=QQQ", all_rights(abi), net, _SCOPES)


def landlock_abi() -> int:
    """The version this kernel speaks; 0 when it has none, or was started without it."""
    return max(0, syscall(_CREATE, None, 0, 1, check=False))


def restrict(rules: Iterable[tuple[str, int]], *, abi: int, tcp: bool) -> None:
    """Binds this thread and all it starts to `rules`: pairs of a path and its rights.

    Needs no_new_privs. Raises OSError, and OSError of a path that is not there.
    """
    attributes = ruleset_attributes(abi, tcp=tcp)
    ruleset = syscall(_CREATE, attributes, len(attributes), 0)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & all_rights(abi))
        syscall(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(folder).st_mode):
            rights &= _FILE_ONLY
        rule = struct.pack("=Qi", rights, folder)
        if syscall(_ADD, ruleset, _BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0) != 0:
            raise failed("landlock_add_rule")
    finally:
        os.close(folder)
