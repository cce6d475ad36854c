"""Code blocks of Markdown pages, and what is asked of them.

A block begins with three backticks and its language at the start of a line. More in that line, or
an indented fence, is refused: not every reader of Markdown takes it for a block. What can't be run
says why in a comment above it, which pages do not show:

    <!-- not run: takes minutes -->
    ```console
    $ make test
    ```
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FENCE = re.compile(r"(?P<indent>\s*)(?P<mark>`{3,}|~{3,})(?P<info>.*)")
NOT_RUN = re.compile(r"<!-- not run: (?P<why>\S.*) -->")
RUN = ("python", "console")
DATA = ("json", "toml", "text")
"""Languages that are looked at but not run; `text` is for output and drawings."""
BEGUN = re.compile(r"^run (\w{20,})$", re.MULTILINE)
"""How `stageflow run` tells the id of its run."""
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """One block of a page."""

    language: str
    code: str
    line: int
    """Of the page, from 1, where the code begins."""
    not_run: str | None
    """Why the block is not run; None when it is."""


class BadBlock(Exception):
    """A block is not of the form that this module describes."""


def blocks(text: str) -> tuple[CodeBlock, ...]:
    """The code blocks of a page, from top to bottom. Raises BadBlock."""
    found, lines = [], iter(enumerate(text.splitlines(), 1))
    before = ""
    for number, line in lines:
        fence = FENCE.fullmatch(line)
        if fence is None:
            before = line if line.strip() else before
            continue
        code = list(_until_closed(lines, number))
        why = NOT_RUN.fullmatch(before.strip())
        language = fence["info"]
        if fence["indent"] or fence["mark"] != "```" or not re.fullmatch(r"\w+", language):
            raise BadBlock(
                f"line {number}: {line!r} is not three backticks and one language; what can't be "
                "run says why in a comment above it, <!-- not run: WHY -->"
            )
        if why is None and language not in RUN + DATA:
            raise BadBlock(
                f"line {number}: {language} is not run; add <!-- not run: WHY --> above it"
            )
        found.append(CodeBlock(language, "\n".join(code) + "\n", number + 1, why and why["why"]))
        before = ""
    return tuple(found)


def _until_closed(lines: Iterator[tuple[int, str]], opened: int) -> Iterator[str]:
    for _, line in lines:
        if FENCE.fullmatch(line):
            return
        yield line
    raise BadBlock(f"line {opened}: this block is never closed")


def compiled(block: CodeBlock, page: str) -> types.CodeType:
    """A python block with the line numbers of its page; `await` may stand outside functions."""
    code = "\n" * (block.line - 1) + block.code
    return compile(code, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def run_python(block: CodeBlock, module: types.ModuleType, page: str) -> None:
    """Runs a block in a module as `python -m asyncio` would."""
    # The block is made the module's source, since annotations are read with the module's names.
    result = types.FunctionType(compiled(block, page), vars(module))()
    if inspect.iscoroutine(result):
        asyncio.run(result)


class Console:
    """Runs the console blocks of a page in a folder, as somebody would who reads it downwards.

    `RUN` in a command stands for the run that an earlier command began.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun: str | None = None

    def run(self, block: CodeBlock) -> str:
        """Runs the lines that begin with `$ `, and returns what they print.

        Raises AssertionError when a command does not print the lines shown below it, one after the
        other, in which `...` stands for anything; or when it fails and nothing is shown below it.
        """
        printed = []
        for written, shown in _commands(block):
            command = re.sub(r"\bRUN\b", self._begun or "RUN", written)
            done = _shell(command, self._folder)
            _check(done, command, shown)
            for begun in BEGUN.findall(done.stdout):
                self._begun = begun
            printed.append(done.stdout)
        return "".join(printed)


def _check(done: subprocess.CompletedProcess[str], command: str, shown: list[str]) -> None:
    succeeded = done.returncode == 0
    assert shown or succeeded, f"$ {command}\nexits {done.returncode}:\n{done.stdout}"
    lines = [re.escape(line.strip()).replace(r"\.\.\.", ".*") for line in shown]
    wanted = r"^\s*" + r"\s*\n\s*".join(lines) + r"\s*$"
    found = not lines or re.search(wanted, done.stdout, re.MULTILINE)
    assert found, f"$ {command}\nprints\n{done.stdout}not\n{shown}"


def printed_by(block: CodeBlock, folder: Path) -> str:
    """What the commands of a block print, whether they succeed or not."""
    return "".join(_shell(command, folder).stdout for command, _ in _commands(block))


def _commands(block: CodeBlock) -> Iterator[tuple[str, list[str]]]:
    """Each command, and the lines of output shown below it."""
    parts = re.split(r"^\$ ", block.code, flags=re.MULTILINE)
    if parts[0].strip() or len(parts) == 1:
        raise BadBlock(f"line {block.line}: a console block begins with `$ ` and a command")
    for part in parts[1:]:
        command, *shown = [line for line in part.splitlines() if line.strip()]
        yield command, shown


def _shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command as somebody types it who has installed the project and stands in its root."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
    }
    with subprocess.Popen(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            printed, _ = shell.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired as slow:
            raise AssertionError(f"$ {command}\ntakes more than {LIMIT_S:.0f} s") from slow
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, shell.returncode, printed)
