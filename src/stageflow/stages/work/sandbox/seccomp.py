"""The seccomp filter of a sandbox: a pure function from what is allowed to a BPF program.

Layout: the architecture first (a call through another ABI ends the program), then one comparison a
call, most calls allowed outright, a few by their arguments. Source: seccomp(2),
Documentation/userspace-api/seccomp_filter.rst. A filter sees registers and never memory, so that
clone3, whose flags lie in memory, is answered ENOSYS: C libraries then use clone.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Final

from stageflow.stages.work.sandbox.syscalls import ALLOWED, KILLED, Architecture

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
"""SECCOMP_RET_KILL_PROCESS: the program ends as by SIGSYS."""
_ERRNO: Final = 0x00050000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data."""
_X32_FROM: Final = 0x40000000
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _TYPE_FLAGS = 1, 0o2004000
"""SOCK_NONBLOCK and SOCK_CLOEXEC are asked for in the type."""
_CLONE_NEW: Final = 0x7E020080
"""CLONE_NEWNS, CLONE_NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME."""
_INPUT_PUSHERS: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX type into the terminal of whoever started the program (CVE-2017-5226)."""
_PERSONALITIES: Final = (0x0, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a filter depends on: TCP or none, and whether there may be more than one task."""

    tcp: bool
    tasks: bool


@dataclass(frozen=True, slots=True)
class Test:
    """Compares the low 32 bits of argument `at`, masked by `mask`, with each of `values`."""

    at: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """`then` when all `tests` hold, else `otherwise`: actions, as the filter returns them."""

    tests: tuple[Test, ...]
    then: int
    otherwise: int


def denied(number: int = errno.EPERM) -> int:
    """The action that answers `number` as errno and does not make the call."""
    return _ERRNO | number


def rules(allowance: Allowance) -> dict[str, Rule]:
    """The calls that are looked at closer, or are allowed under conditions, by name.

    Pairs of connected UNIX stream sockets stay: event loops wake themselves through one, and it
    reaches nobody. A datagram pair would reach any socket by its address.
    """
    no = denied()
    stream = Test(1, (_SOCK_STREAM,), mask=0xFFFFFFFF & ~_TYPE_FLAGS)
    found = {
        "socketpair": Rule((Test(0, (_AF_UNIX,)), stream), ALLOW, no),
        "ioctl": Rule((Test(1, _INPUT_PUSHERS),), no, ALLOW),
        "personality": Rule((Test(0, _PERSONALITIES),), ALLOW, no),
        "clone": Rule((Test(0, (0,), mask=_CLONE_NEW),), ALLOW, no),
        "clone3": Rule((), denied(errno.ENOSYS), no),
        **socket_rules(allowance),
    }
    for name in () if allowance.tasks else ("clone", "fork", "vfork"):
        found[name] = Rule((), denied(errno.EAGAIN), no)
    for name in ("fork", "vfork") if allowance.tasks else ():
        found[name] = Rule((), ALLOW, no)
    return found


def socket_rules(allowance: Allowance) -> dict[str, Rule]:
    """Who may make and connect sockets: TCP over IP when there is an allow-list, else nobody."""
    no = denied()
    names = ("socket", "connect", "bind", "listen", "accept", "accept4")
    if not allowance.tcp:
        return dict.fromkeys(names, Rule((), no, no))
    stream = Test(1, (_SOCK_STREAM,), mask=0xFFFFFFFF & ~_TYPE_FLAGS)
    inet = Test(0, (_AF_INET, _AF_INET6))
    tcp = Rule((inet, stream, Test(2, (0, 6))), ALLOW, no)
    return {
        **dict.fromkeys(names, Rule((), no, no)),
        "socket": tcp,
        "connect": Rule((), ALLOW, no),
    }


def filter_program(architecture: Architecture, allowance: Allowance) -> bytes:
    """The BPF program: struct sock_filter one after another, at most 4096 of them."""
    looked_at = rules(allowance)
    code: list[bytes] = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, architecture.audit, yes=1),
        _op(_RETURN, KILL),
        _op(_LOAD, _NUMBER),
    ]
    if architecture.x32:
        code += [_op(_AT_LEAST, _X32_FROM, no=1), _op(_RETURN, KILL)]
    for name, number in sorted(architecture.numbers.items(), key=lambda each: each[1]):
        body = _body(name, looked_at.get(name))
        code += [_op(_EQUAL, number, no=len(body)), *body]
    code.append(_op(_RETURN, denied(errno.ENOSYS)))
    assert len(code) <= 4096, "BPF_MAXINSNS"
    return b"".join(code)


def _body(name: str, rule: Rule | None) -> list[bytes]:
    """Instructions for one call, each path of which returns."""
    if name in KILLED:
        return [_op(_RETURN, KILL)]
    if rule is None:
        return [_op(_RETURN, ALLOW if name in ALLOWED else denied())]
    blocks = [_tested(test) for test in rule.tests]
    return [each for block in blocks for each in _with_exit(block, rule.otherwise)] + [
        _op(_RETURN, rule.then)
    ]


def _tested(test: Test) -> list[bytes]:
    """Loads the masked argument and compares; falls through on a match, else jumps one ahead."""
    loaded = [_op(_LOAD, _ARGUMENTS + 8 * test.at)]
    if test.mask != 0xFFFFFFFF:
        loaded.append(_op(_AND, test.mask))
    left = len(test.values)
    compares = [
        # A match jumps over the other comparisons and the exit; the last mismatch goes to the exit.
        _op(_EQUAL, value, yes=left - at)
        for at, value in enumerate(test.values)
    ]
    return loaded + compares


def _with_exit(block: list[bytes], action: int) -> list[bytes]:
    return [*block, _op(_RETURN, action)]


def _op(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """struct sock_filter: opcode, jump if true, jump if false, constant."""
    return struct.pack("=HBBI", code, yes, no, value)
