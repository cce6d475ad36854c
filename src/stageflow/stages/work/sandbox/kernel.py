"""System calls that Python has no name for, and what this kernel answers to them. Linux only."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
from typing import Any, Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
_PR_PDEATHSIG, _PR_DUMPABLE, _PR_SECCOMP, _PR_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_FILTER: Final = 2
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_MOUNT_SETATTR: Final = 442
_OPENAT2: Final = 437
_NO_LINKS: Final = 0x02 | 0x04
_AT_RECURSIVE: Final = 0x8000
_CAPABILITY_VERSION: Final = 0x20080522


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def failed(what: str) -> OSError:
    """The error of the last call, named."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def syscall(number: int, *arguments: Any, check: bool = True) -> int:
    """The bare call. Raises OSError when it fails, unless `check` is False."""
    taken = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    answer = int(_libc().syscall(ctypes.c_long(number), *taken))
    if check and answer < 0:
        raise failed(f"system call {number}")
    return answer


def unshare(flags: int) -> None:
    """New namespaces for this process; CLONE_NEWPID only for its children. Raises OSError."""
    if _libc().unshare(flags) != 0:
        raise failed("unshare")


def mount(
    source: str, target: str, *, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    """mount(2). Raises OSError naming the target."""
    taken = [os.fsencode(each) if each is not None else None for each in (source, target, kind)]
    given = data.encode() if data else None
    if _libc().mount(*taken, ctypes.c_ulong(flags), given) != 0:
        raise failed(f"mount {target}")


def set_mount_attributes(target: str, attributes: int) -> None:
    """Sets `attributes` on a mount and all below it (mount_setattr, Linux 5.12)."""
    given = struct.pack("=QQQQ", attributes, 0, 0, 0)
    syscall(_MOUNT_SETATTR, -100, os.fsencode(target), _AT_RECURSIVE, given, len(given))


def open_without_links(path: str) -> int:
    """A descriptor that stands for `path` (O_PATH); OSError when any part of it is a link."""
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _NO_LINKS)
    return syscall(_OPENAT2, -100, os.fsencode(path), how, len(how))


def unmount(target: str) -> None:
    """Takes a mount away, at once for new users, at their end for present ones."""
    if _libc().umount2(os.fsencode(target), MNT_DETACH) != 0:
        raise failed(f"umount {target}")


def pivot_root(root: str, old: str) -> None:
    """Makes `root` the root; the former one is then at `old`, which lies in it."""
    syscall(_PIVOT_ROOT[os.uname().machine], os.fsencode(root), os.fsencode(old))


def die_with_parent() -> None:
    """SIGKILL for this process when the thread that started it ends."""
    _prctl(_PR_PDEATHSIG, 9)


def hide_memory() -> None:
    """Nobody without CAP_SYS_PTRACE here may read this process's memory or environment."""
    _prctl(_PR_DUMPABLE, 0)


def no_new_privileges() -> None:
    """From here on no program that is started gains rights, setuid or not."""
    _prctl(_PR_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Gives up every capability of this process for good."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    syscall(_CAPSET[os.uname().machine], header, bytes(24))


def install_filter(program: bytes) -> None:
    """Puts a seccomp filter on this thread and all it starts. Needs no_new_privs."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _prctl(_PR_SECCOMP, _SECCOMP_FILTER, header)


def set_loopback_up() -> None:
    """Brings `lo` up in this network namespace."""
    import fcntl  # not on every platform, and this file is imported on all of them
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS


def is_linux() -> bool:
    """Whether any of this can be asked for."""
    return sys.platform == "linux"


def _prctl(option: int, *arguments: Any) -> None:
    taken = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    taken += [ctypes.c_ulong(0)] * (4 - len(taken))
    if _libc().prctl(option, *taken) != 0:
        raise failed(f"prctl {option}")
