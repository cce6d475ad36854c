"""Sandboxed programs as bodies of WORK stages: a tool that an agent may hand anything to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

from stageflow.model.errors import SandboxError
from stageflow.model.forms import form_of
from stageflow.stages.work.sandbox.result import SandboxResult
from stageflow.stages.work.sandbox.sandbox import Sandbox

PythonTool: TypeAlias = Callable[[str, Sandbox], Awaitable[SandboxResult]]
CommandTool: TypeAlias = Callable[[list[str], Sandbox], Awaitable[SandboxResult]]


def python_tool() -> PythonTool:
    """A body with the parameters `code`, Python text, and `sandbox`, a dep: what came of it.

    A program that fails, or is ended by a cap, is a result like any other: whoever wrote the
    program reads it. Only a sandbox that can't be started raises. Cancelling the stage ends the
    program and all it started.
    """

    async def python(code: str, sandbox: Sandbox) -> SandboxResult:
        return await sandbox.run_python(code)

    return python


def command_tool(*, allowed: Sequence[str]) -> CommandTool:
    """As `python_tool`, with a parameter `command`, a list of texts whose first is a program among
    `allowed`. Another one is SandboxError `sandbox.command`: a sandbox bounds what a program may
    do, and this list which programs are asked at all. SandboxError `sandbox.policy` for `allowed`
    that is no list of names.
    """
    names = frozenset(_programs(allowed))

    async def command(command: list[str], sandbox: Sandbox) -> SandboxResult:
        if not command or command[0] not in names:
            raise SandboxError(
                "sandbox.command",
                "this tool does not run that program",
                field="command",
                expected=", ".join(sorted(names)) or "none is allowed",
                got=command[0][:80] if command else "an empty command",
                fix="ask for one of these, or add it to allowed=",
            )
        return await sandbox.run(command)

    return command


def _programs(allowed: Any) -> list[str]:
    """The names, as a list. A text alone would allow each of its letters."""
    is_list = isinstance(allowed, Iterable) and not isinstance(allowed, str | bytes)
    names: list[Any] = list(allowed) if is_list else [None]
    for name in names:
        if not (isinstance(name, str) and name):
            raise SandboxError(
                "sandbox.policy",
                "a tool was given something that is no list of programs",
                field="allowed",
                expected="names of programs",
                got=form_of(name if is_list else allowed),
                fix='command_tool(allowed=["sort", "wc"])',
            )
    return names
