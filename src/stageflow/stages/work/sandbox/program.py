"""A Python program as files: its text, its inputs, and the few lines that run it inside.

Pure. `inputs` is a global of the program; what it leaves in a global `output` comes back as JSON,
behind a mark at the end of standard output that no other run has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stageflow.model.errors import SandboxError

OUT_OF_MEMORY: Final = 113
"""Exit status of a program whose MemoryError nobody caught. WASI has none above 125."""
CODE_LENGTH_MAX: Final = 4 * 1024 * 1024
START: Final = "start.py"
_START: Final = """
import sys
if sys.platform == "wasi":
    # Its C stack holds some 70 levels of memoised recursion; Python's own wrapper needs none of it.
    import _functools
    del _functools._lru_cache_wrapper
def run(code, inputs):
    scope = {{"__name__": "__main__", "__builtins__": __builtins__, "inputs": inputs}}
    sys.argv = ["program.py"]
    try:
        exec(compile(code, "program.py", "exec"), scope)
    except MemoryError:
        sys.stderr.write("MemoryError\\n")
        sys.exit({out_of_memory})
    except SystemExit:
        raise
    except BaseException as error:
        import traceback
        error.__traceback__ = error.__traceback__.tb_next
        traceback.print_exception(error)
        sys.exit(1)
    if "output" in scope:
        import json
        sys.stdout.write({mark!r} + json.dumps(scope["output"]))
run({code!r}, {inputs!r})
"""


@dataclass(frozen=True, slots=True)
class PythonProgram:
    """The files of one program, by the name they have inside, and the mark of its value."""

    files: Mapping[str, bytes]
    mark: bytes


def python_program(code: str, inputs: Mapping[str, Any], *, nonce: str) -> PythonProgram:
    """`nonce` is hexadecimal and never used twice. Raises SandboxError `sandbox.inputs`."""
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
    start = _START.format(
        out_of_memory=OUT_OF_MEMORY, mark=mark, code=code, inputs=json.loads(given)
    )
    return PythonProgram({START: start.encode("utf-8", "backslashreplace")}, mark.encode())


def value_in(stdout: bytes, mark: bytes) -> tuple[bytes, Any]:
    """What was printed, and the value behind the mark; None when there is none, or no JSON."""
    printed, found, rest = stdout.rpartition(mark)
    if not found:
        return stdout, None
    try:
        return printed, json.loads(rest)
    except (ValueError, RecursionError):
        return printed, None
