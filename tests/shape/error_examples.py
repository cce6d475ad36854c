"""Runs the blocks of each error page and says which codes the first one met, as JSON.

`python error_examples.py PAGE...` runs each page in a forked child with an empty folder of its own:
an example may close descriptors, exhaust limits or end its process without hurting the others.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import traceback
import types
from pathlib import Path

from code_blocks import RUN, CodeBlock, blocks, printed_by, run_python

from stageflow.model.errors import BuildErrors, StageflowError

LIMIT_S = 30
CODE = re.compile(r"^\[([a-z]+\.[a-z_]+)\]", re.MULTILINE)


def run(page: Path) -> list[str]:
    """The codes that the page's first block met, and a line for each thing that went wrong.

    Later blocks show what to do, so they must run, in the module that the first one left.
    """
    module = types.ModuleType("example")
    sys.modules[module.__name__] = module
    example, *mended = [block for block in blocks(page.read_text("utf-8")) if block.language in RUN]
    met = [page.stem] if example.not_run else _met(example, module, page)
    for block in mended:
        if not block.not_run:
            met += [f"line {block.line} meets {code}" for code in _met(block, module, page)]
    return met or ["nothing was raised"]


def _met(block: CodeBlock, module: types.ModuleType, page: Path) -> list[str]:
    """The codes that a block meets; or one line that says what happened instead.

    A stage's failure is data: the codes that a variable `run` tells of are met as well.
    """
    if block.language == "console":
        return CODE.findall(printed_by(block, Path.cwd()))
    vars(module).pop("run", None)
    try:
        run_python(block, module, str(page.name))
    except BuildErrors as error:
        return [error.code, *(each.code for each in error.errors)]
    except StageflowError as error:
        return [error.code, *_recorded(module)]
    except BaseException as error:  # whatever an example raises is what this program reports
        return [traceback.format_exception_only(error)[-1].strip()]
    return _recorded(module)


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
