"""A Python program as bytes: its text and its inputs, read by the few lines that run it inside.

Pure. The interpreter is started with START alone, before a program is known, and reads the program
from its standard input; what follows there is the program's own. `inputs` is a global of the
program; what it leaves in a global `output` comes back as JSON, behind a mark at the end of
standard output that no other run has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stageflow.model.errors import SandboxError
from stageflow.model.forms import form_of

OUT_OF_MEMORY: Final = 113
"""Exit status of a program whose MemoryError nobody caught. WASI has none above 125."""
CODE_LENGTH_MAX: Final = 4 * 1024 * 1024
START_NAME: Final = "start.py"
_LENGTH_DIGITS: Final = 12
START: Final = f"""
import posix, sys
def read(left):
    parts = []
    while left:
        part = posix.read(0, left)
        if not part: sys.exit(0)
        parts.append(part)
        left -= len(part)
    return b"".join(parts).decode("utf-8", "surrogatepass")
if sys.platform == "wasi":
    # Its C stack holds some 70 levels of memoised recursion; Python's own wrapper needs none of it.
    import _functools
    del _functools._lru_cache_wrapper
def run(mark, code, inputs):
    scope = {{"__name__": "__main__", "__builtins__": __builtins__, "inputs": inputs}}
    sys.argv = ["program.py"]
    try:
        exec(compile(code, "program.py", "exec"), scope)
    except MemoryError:
        sys.stderr.write("MemoryError\\n")
        sys.exit({OUT_OF_MEMORY})
    except SystemExit:
        raise
    except BaseException as error:
        import traceback
        error.__traceback__ = error.__traceback__.tb_next
        traceback.print_exception(error)
        sys.exit(1)
    if "output" in scope:
        import json
        sys.stdout.write(mark + json.dumps(scope["output"]))
run(*eval(read(int(read({_LENGTH_DIGITS})))))
"""
"""Waits for a program without importing anything that it does not need."""


@dataclass(frozen=True, slots=True)
class PythonProgram:
    """What the interpreter reads, and the mark of the program's value."""

    told: bytes
    mark: bytes


def python_program(code: str, inputs: Mapping[str, Any], *, nonce: str) -> PythonProgram:
    """`nonce` is hexadecimal and never used twice. Raises SandboxError `sandbox.inputs`."""
    if not isinstance(code, str):
        raise SandboxError(
            "sandbox.inputs",
            "a sandboxed program is Python text",
            field="code",
            expected="a str",
            got=form_of(code),
            fix='run_python("output = 6 * 7")',
        )
    try:
        given = json.dumps(dict(inputs), allow_nan=False)
    except (TypeError, ValueError):
        raise SandboxError(
            "sandbox.inputs",
            "inputs of a sandboxed program are handed over as JSON",
            field="inputs",
            expected="texts, numbers, booleans, None, lists and dicts with text keys",
            got="a value that JSON has no form for",
            fix="give plain data, such as model.model_dump(mode='json')",
        ) from None
    if len(code) + len(given) > CODE_LENGTH_MAX:
        raise SandboxError(
            "sandbox.inputs",
            "a program and its inputs are too large to be handed over",
            field="inputs",
            expected=f"at most {CODE_LENGTH_MAX} characters",
            got=f"{len(code) + len(given)} characters",
            fix="write the data to a file and name its folder in the policy's read",
        )
    mark = f"\x1e{nonce}\x1e"
    # Values that came from JSON are their own Python source, which needs no module to be read.
    told = repr((mark, code, json.loads(given))).encode("utf-8", "surrogatepass")
    return PythonProgram(f"{len(told):0{_LENGTH_DIGITS}}".encode() + told, mark.encode())


def value_in(stdout: bytes, mark: bytes) -> tuple[bytes, Any]:
    """What was printed, and the value behind the mark; None when there is none, or no JSON."""
    printed, found, rest = stdout.rpartition(mark)
    if not found:
        return stdout, None
    try:
        return printed, json.loads(rest)
    except (ValueError, RecursionError):
        return printed, None
