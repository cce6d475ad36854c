"""What a sandboxed program may do: one frozen value, nothing allowed that is not named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NoReturn

from stageflow.model.errors import SandboxError
from stageflow.model.forms import form_of, is_number

MIB: Final = 1024 * 1024
MEMORY_MIN_BYTES: Final = 16 * MIB
"""Less than this no interpreter starts in."""
_HOST: Final = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")
_NAME: Final = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
ENDPOINTS_MAX: Final = 64
MOST: Final = 2**53
"""No cap is as large as this, so that infinity is none."""
_RESERVED: Final = ("/dev", "/proc", "/sys", "/program", "/tmp")
_LOADERS: Final = ("LD_", "GLIBC_TUNABLES")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host and TCP port of the allow-list."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPolicy:
    """Everything a sandboxed program is given; the default is a computer without a world.

    `read` and `write` are folders or files of the host, seen at their own paths, with all below
    them; what is named by neither does not exist inside, except the system's programs and
    libraries. `/tmp` inside is empty, writable, gone afterwards, and holds `scratch_bytes`.
    `network` lists "host:port"; TCP to these alone, none by default. `environment` is the whole
    environment: nothing of the caller's is inherited.

    The caps are on everything that one run does, all its processes together: `memory_bytes`, with
    what lies in /tmp (a guest in WebAssembly has that beside it), `cpu_s` of processor time,
    `wall_s` of real time, `tasks_max` processes and threads at once, `output_bytes` of standard
    output and error together. `open_files_max` and `file_bytes_max` are per process and per file.

    Raises SandboxError `sandbox.policy` naming the field.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    memory_bytes: int = 256 * MIB
    cpu_s: float = 10.0
    wall_s: float = 30.0
    tasks_max: int = 32
    output_bytes: int = MIB
    scratch_bytes: int = 64 * MIB
    open_files_max: int = 256
    file_bytes_max: int = 64 * MIB
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("read", "write", "network"):
            given: Any = getattr(self, name)
            object.__setattr__(self, name, _texts(name, given))
        object.__setattr__(self, "environment", _variables(self.environment))
        for name in ("read", "write"):
            for path in getattr(self, name):
                _check_path(name, path)
        for name, least in _LEAST.items():
            _check_number(name, getattr(self, name), least)
        if len(self.endpoints()) > ENDPOINTS_MAX:
            _refuse("network", f"at most {ENDPOINTS_MAX} endpoints", "more", "list fewer")

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The allow-list, parsed. Raises SandboxError `sandbox.policy`."""
        return tuple(_endpoint(each) for each in self.network)


_LEAST: Final[Mapping[str, float]] = MappingProxyType(
    {
        "memory_bytes": MEMORY_MIN_BYTES,
        "cpu_s": 0.1,
        "wall_s": 0.1,
        "tasks_max": 1,
        "output_bytes": 1,
        "scratch_bytes": 0,
        "open_files_max": 16,
        "file_bytes_max": 0,
    }
)
"""The smallest value of each cap. There is no way to say "without limit"."""


def _variables(given: Any) -> Mapping[str, str]:
    if not isinstance(given, Mapping):
        _refuse("environment", "a dict of texts", form_of(given), '{"LANG": "C"}')
    for name, value in given.items():
        if not _is_text(name) or not _NAME.match(name) or name.startswith(_LOADERS):
            _refuse(
                "environment",
                "names of letters, digits and underscores that don't steer the loader",
                repr(name)[:40],
                "rename or leave out this variable",
            )
        if not _is_text(value):
            told = f"a text that is none in {name}" if isinstance(value, str) else form_of(value)
            _refuse("environment", "texts without NUL or lone surrogates", told, "mend it")
    return MappingProxyType(dict(given))


def _texts(name: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str | bytes):
        _refuse(name, "a tuple of texts", "one text", f"{name}=(...,)")
    if not isinstance(given, Iterable):
        _refuse(name, "a tuple of texts", form_of(given), f"{name}=(...,)")
    texts = []
    for each in given:
        text = os.fspath(each) if isinstance(each, os.PathLike) and name != "network" else each
        if not _is_text(text):
            _refuse(name, "texts without NUL or lone surrogates", form_of(each), f"{name}=(...,)")
        texts.append(text)
    return tuple(texts)


def _is_text(value: Any) -> bool:
    """Whether a program can be given it: a text that has bytes, none of them NUL."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _endpoint(text: str) -> Endpoint:
    host, colon, port = text.rpartition(":")
    if not colon or not _HOST.match(host) or not port.isdecimal() or not 0 < int(port) < 65_536:
        _refuse("network", '"host:port", such as "api.example.com:443"', "another form", "mend it")
    return Endpoint(host.lower(), int(port))


def _check_path(name: str, path: str) -> None:
    if not path.startswith("/") or os.path.normpath(path) != path:
        _refuse(name, "an absolute path without . or ..", path[:80], "os.path.abspath(path)")
    if path == "/" or any(path == each or path.startswith(f"{each}/") for each in _RESERVED[:4]):
        _refuse(
            name,
            f"a path of your own, not / or one below {', '.join(_RESERVED[:4])}",
            path[:80],
            "name the folders that the program needs",
        )
    if path == "/tmp":
        _refuse(name, "a folder in /tmp, not all of it", path, "give the program one folder")
    if not os.path.lexists(path):
        _refuse(name, "a folder or file that exists", path[:80], "make it first")


def _check_number(name: str, value: Any, least: float) -> None:
    is_time = name in ("cpu_s", "wall_s")
    if not is_number(value) or not (is_time or isinstance(value, int)) or not least <= value < MOST:
        expected = f"{'seconds' if is_time else 'a whole number'} from {least:,} on"
        got = repr(value)[:40] if isinstance(value, int | float) else form_of(value)
        _refuse(name, expected, got, f"{name}={least:_}")


def _refuse(name: str, expected: str, got: str, fix: str) -> NoReturn:
    raise SandboxError(
        "sandbox.policy",
        f"a sandbox policy has a value for {name} that it can't have",
        field=name,
        expected=expected,
        got=got,
        fix=fix,
    )
