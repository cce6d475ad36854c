"""Runs the first Python block of each error page and says which codes it met, as JSON.

`python error_examples.py PAGE...` runs each page in a forked child with an empty folder of its own:
an example may close descriptors, exhaust limits or end its process without hurting the others.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import signal
import sys
import tempfile
import traceback
import types
from pathlib import Path

from stageflow.model.errors import BuildErrors, StageflowError

FENCE = re.compile(r"^```python([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LIMIT_S = 30


def run(page: Path) -> list[str]:
    """The codes that the page's example met; or one line that says what happened instead.

    A stage's failure is data: the codes that a variable `run` tells of are met as well.
    """
    text = page.read_text(encoding="utf-8")
    block = FENCE.search(text)
    if block is None:
        return [page.stem] if "```console" in text else ["no example"]
    if "fragment" in block[1]:
        return [page.stem]
    module = types.ModuleType("example")
    sys.modules[module.__name__] = module
    try:
        code = compile(block[2], str(page.name), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = types.FunctionType(code, vars(module))()
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except BuildErrors as error:
        return [error.code, *(each.code for each in error.errors)]
    except StageflowError as error:
        return [error.code, *_recorded(module)]
    except BaseException as error:  # whatever an example raises is what this program reports
        return [traceback.format_exception_only(error)[-1].strip()]
    return _recorded(module) or ["nothing was raised"]


def _recorded(module: types.ModuleType) -> list[str]:
    ended = vars(module).get("run")
    return [failure.reason for failure in ended.failures.values()] if ended is not None else []


def run_apart(page: Path) -> list[str]:
    """`run` in a forked child; this process has no threads, so that forking it is safe."""
    with tempfile.TemporaryDirectory() as folder:
        reply = Path(folder, "reply.json")
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_S)
            try:
                scratch = Path(folder, "scratch")
                scratch.mkdir()
                os.chdir(scratch)
                reply.write_text(json.dumps(run(page.absolute())), encoding="utf-8")
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if reply.exists():
            met: list[str] = json.loads(reply.read_text(encoding="utf-8"))
            return met
        return [f"the process ended with status {status}"]


if __name__ == "__main__":
    pages = [Path(name).absolute() for name in sys.argv[1:]]
    sys.stdout.write(json.dumps({page.stem: run_apart(page) for page in pages}))
