"""Processes killed by SIGKILL in the middle of changes and undos, and others that take over.

`python -m stageflow_lab.scenarios.work.undo_rounds PLAN` runs beside the simulations, in a process
without threads, from which the workers are forked. It prints a line of JSON for each story.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from .undo_defects import applied
from .undo_facts import facts_of
from .undo_stories import Story, drawn
from .undo_worker import Job, prepare, seen_of, work_off

AT_ONCE: Final = 3
"""Stories that are lived side by side."""
LOOK_EVERY_S: Final = 0.005
STORIES_MAX: Final = 4
"""For each death that is wanted, when stories end before theirs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; JSON on the command line."""

    seed: int
    kills: int
    folder: str
    sabotage: str | None


class Told:
    """One story, from its first process to its last."""

    def __init__(self, number: int, story: Story, plan: Plan, port: int) -> None:
        self.name = f"r{number}"
        self.story = story
        self.folder = Path(plan.folder) / self.name
        self.port = port
        self.schema = f"lab_{os.getpid()}_{plan.seed % 1_000_000}_{number}" if number % 2 else ""
        self.is_sealed = number % 4 > 1  # of either database
        self.life = 0
        prepare(self._job())
        self.process = self._forked()

    def _job(self) -> Job:
        return Job(
            self.name, self.story, self.life, self.folder, self.port, self.schema, self.is_sealed
        )

    def _forked(self) -> BaseProcess:
        job = self._job()
        process = multiprocessing.get_context("fork").Process(
            target=work_off, args=(job,), daemon=True
        )
        process.start()
        return process

    def is_over(self) -> bool:
        """Looks after the process: a killed one is followed by another."""
        if self.process.exitcode is None:
            return False
        self.process.join()
        if self.process.exitcode == -signal.SIGKILL:
            self.life += 1
            self.process = self._forked()
            return False
        if self.process.exitcode:
            raise SystemExit(f"a worker failed with {self.process.exitcode}")
        return True

    def facts(self) -> dict[str, Any]:
        """What was seen, once it is over; its folder goes when nothing is wrong."""
        facts = facts_of(seen_of(self.name, self.folder))
        facts["counts"] |= {"over_postgres": bool(self.schema), "sealed": self.is_sealed}
        if not facts["wrong"]:
            shutil.rmtree(self.folder)
        return facts

    def end(self) -> None:
        """Nothing of it runs on, or is left in a server."""
        self.process.kill()
        self.process.join()
        self._job().shop().remove()


def rounds(plan: Plan, port: int) -> Iterator[dict[str, Any]]:
    """Stories, one after another, until so many processes were killed."""
    stories = drawn(STORIES_MAX * plan.kills, plan.seed, deadly=True)
    killed, number = 0, 0
    living: list[Told] = []
    try:
        while True:
            wanted = killed < plan.kills and number < len(stories)
            while wanted and len(living) < AT_ONCE:
                living.append(Told(number, stories[number], plan, port))
                number += 1
            for each in list(living):
                if each.is_over():
                    facts = each.facts()
                    each.end()
                    living.remove(each)
                    killed += each.life
                    yield facts
            if not living and not wanted:
                return
            time.sleep(LOOK_EVERY_S)
    finally:
        for each in living:
            each.end()


def command(plan: Plan) -> list[str]:
    """The command that carries it out."""
    return [sys.executable, "-m", __spec__.name, json.dumps(asdict(plan))]


def main(arguments: list[str]) -> int:
    """Carry the plan out and print what was seen."""
    plan = Plan(**json.loads(arguments[0]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ended early, it ends its workers
    with subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.undo_server"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with applied(plan.sabotage):
                for facts in rounds(plan, port):
                    sys.stdout.write(json.dumps(facts) + "\n")
                    sys.stdout.flush()
        finally:
            server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
