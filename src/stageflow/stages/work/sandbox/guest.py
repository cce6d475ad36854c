"""One program in WebAssembly, in the process that calls this; it never returns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

TRAPPED = 134
"""Exit status of a guest that broke a rule of WebAssembly, such as the end of its stack."""


def run_guest(
    loaded: tuple[Any, Any],
    *,
    argv: Sequence[str],
    environment: Mapping[str, str],
    folders: Sequence[tuple[str, str, bool]],
    memory_bytes: int,
) -> NoReturn:
    """Runs the module's `_start` with `folders` as (here, inside, writable) and ends the process.

    Standard input, output and error are this process's.
    """
    import wasmtime  # heavy, and an extra

    engine, module = loaded
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_limits(memory_size=memory_bytes, instances=1, memories=1)
    wasi = wasmtime.WasiConfig()
    wasi.argv = list(argv)
    wasi.env = list(environment.items())
    wasi.inherit_stdin()
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    for here, inside, writable in folders:
        wasi.preopen_dir(here, inside, writable)
    store.set_wasi(wasi)
    try:
        instance = linker.instantiate(store, module)
        start = instance.exports(store)["_start"]
        assert isinstance(start, wasmtime.Func), "every WASI command has this function"
        start(store)
        os._exit(0)
    except wasmtime.ExitTrap as ended:
        os._exit(int(ended.code) & 0xFF)
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        os.write(2, f"{str(error)[:2000]}\n".encode())
        os._exit(TRAPPED)
