"""A process that runs a journalled chain, or resumes it, and kills itself at a given moment.

`python -m stageflow_lab.scenarios.dag.killed_chain ORDER`: ORDER is an `Order` as JSON. Each stage
appends its depth to the order's file before it does anything else, so the file tells what was
executed whatever happened to the process. A process that lives prints its account as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from stageflow import Runtime
from stageflow.journal.journal import GroupCommit
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import Append
from stageflow.model.errors import JournalError

from .chain import chain
from .depth_defects import applied

MOMENTS: Final = ("in_stage", "before_commit", "after_commit", "from_outside")
"""Where SIGKILL comes: in the body of a stage, around a commit of the journal, or at any time."""
LINE_BYTES: Final = 9


@dataclass(frozen=True, slots=True)
class Order:
    """What one process has to do."""

    journal: str
    run: str
    depth: int
    executed: str
    """File to which the depths of executed stages are appended."""
    is_new: bool
    """True to start the run, False to resume it."""
    moment: str | None
    """One of MOMENTS; None to live."""
    at: int
    """in_stage, from_outside: the depth. Around commits: how many stages this process has run."""
    sabotage: str | None

    def arguments(self) -> list[str]:
        """The command that carries it out."""
        return [sys.executable, "-m", __name__, json.dumps(asdict(self))]


class DeadlyStore(SQLiteStore):
    """Kills its process just before or just after the first commit in which `is_due()`."""

    def __init__(self, order: Order, executed: Sequence[int]) -> None:
        super().__init__(order.journal)
        self._order = order
        self._executed = executed

    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        due = len(self._executed) >= self._order.at
        if due and self._order.moment == "before_commit":
            die()
        answers = super().commit(batch)
        if due and self._order.moment == "after_commit":
            die()
        return answers


def die() -> None:
    """End this process as a power cut would: nothing is flushed, nothing is closed."""
    os.kill(os.getpid(), signal.SIGKILL)


def depths(path: Path) -> list[int]:
    """The depths that a process wrote; a line that its death cut short counts as executed."""
    return [int(line) for line in path.read_text("ascii").split()] if path.exists() else []


async def carried_out(order: Order) -> dict[str, Any]:
    """The account of the run when nothing killed it."""
    descriptor = os.open(order.executed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    executed: list[int] = []

    def visit(depth: int) -> None:
        os.write(descriptor, b"%08d\n" % depth)
        executed.append(depth)
        if order.moment == "in_stage" and depth == order.at:
            die()

    pipeline = chain(order.depth, visit)
    journal = GroupCommit(DeadlyStore(order, executed))
    try:
        async with Runtime(journal=journal) as runtime:
            if order.is_new:
                run = await pipeline.using(runtime=runtime, run_id=order.run).run(x=0)
            else:
                run = await runtime.resume(order.run, pipeline=pipeline)
            return {"status": run.status, "output": run.output}
    finally:
        os.close(descriptor)


def main(arguments: list[str]) -> int:
    """Carry the order out; 0 when the process lived and told its account."""
    order = Order(**json.loads(arguments[0]))
    with applied(order.sabotage):
        account = asyncio.run(carried_out(order))
    sys.stdout.write(json.dumps(account))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
