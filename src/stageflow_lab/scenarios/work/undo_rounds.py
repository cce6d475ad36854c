"""Processes killed by SIGKILL in the middle of changes and undos, and others that take over.

`python -m stageflow_lab.scenarios.work.undo_rounds PLAN` runs beside the simulations, in a process
without threads, from which the workers are forked. It prints a line of JSON for each story.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .killed_lives import Lives, lived
from .undo_defects import applied
from .undo_facts import facts_of
from .undo_stories import Story, drawn
from .undo_worker import Job, prepare, seen_of, work_off

AT_ONCE: Final = 3
"""Stories that are lived side by side."""
STORIES_MAX: Final = 4
"""For each death that is wanted, when stories end before theirs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; JSON on the command line."""

    seed: int
    kills: int
    folder: str
    sabotage: str | None


class LivedStory(Lives):
    """One story. Two of four lie in PostgreSQL, and two of four are sealed."""

    def __init__(self, number: int, story: Story, plan: Plan, port: int) -> None:
        super().__init__()
        self.name = f"r{number}"
        self.story = story
        self.folder = Path(plan.folder) / self.name
        self.port = port
        self.schema = f"lab_{os.getpid()}_{plan.seed % 1_000_000}_{number}" if number % 2 else ""
        self.is_sealed = number % 4 > 1
        prepare(self._job())

    def _job(self) -> Job:
        return Job(
            self.name, self.story, self.life, self.folder, self.port, self.schema, self.is_sealed
        )

    def body(self) -> tuple[Callable[[Any], None], Any]:
        return work_off, self._job()

    def facts(self) -> dict[str, Any]:
        facts = facts_of(seen_of(self.name, self.folder))
        facts["counts"] |= {"over_postgres": bool(self.schema), "sealed": self.is_sealed}
        if not facts["wrong"]:
            shutil.rmtree(self.folder)
        return facts

    def remove(self) -> None:
        self._job().shop().remove()


def rounds(plan: Plan, port: int) -> Iterator[dict[str, Any]]:
    """What was seen of stories, until so many processes were killed."""
    stories = drawn(STORIES_MAX * plan.kills, plan.seed, deadly=True)

    def story(number: int) -> LivedStory:
        return LivedStory(number, stories[number], plan, port)

    for each in lived(story, kills=plan.kills, most=len(stories), at_once=AT_ONCE):
        yield each.facts()


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
