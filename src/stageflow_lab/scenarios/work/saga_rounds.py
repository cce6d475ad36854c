"""Processes killed by SIGKILL in the middle of sagas, and others that take over: the real part.

`python -m stageflow_lab.scenarios.work.saga_rounds PLAN` runs beside the simulations, in a process
without threads, from which the workers are forked. It prints a line of JSON for each branch.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from .killed_lives import Lives, lived
from .saga_books import Followed
from .saga_defects import applied
from .saga_facts import Facts, facts_of
from .saga_specs import Death, Saga, deaths_of, long, short
from .saga_worker import Job, SQLiteBooks, work_off

AT_ONCE: Final = 6
"""Branches that are worked on side by side."""
SAGAS: Final = 3
"""Of a branch."""
BRANCHES_MAX: Final = 4
"""For each death that is wanted, when sagas end before theirs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done; JSON on the command line."""

    seed: int
    kills: int
    folder: str
    sabotage: str | None


def sagas_of(branch: int, seed: int) -> tuple[Saga, ...]:
    """Those of a branch: the first dies, at another point in each branch."""
    rng = random.Random(f"{seed}/{branch}")
    number = rng.randrange(1_000_000)
    if branch % 5 == 4:
        first = long(rng, name=f"b{branch}n0", branch=branch)
    else:
        first = short(number, rng, name=f"b{branch}n0", branch=branch)
    places = [death for death in deaths_of(len(first.legs())) if death is not None]
    deaths: list[Death] = [places[branch * 7 % len(places)]]
    if rng.random() < 0.5:
        deaths.append(Death("record", rng.randint(1, 8)))
    others = (
        short(number + each, rng, name=f"b{branch}n{each}", branch=branch)
        for each in range(1, SAGAS)
    )
    return (replace(first, deaths=tuple(deaths)), *(replace(each, deaths=()) for each in others))


class Branch(Lives):
    """One branch, from its first process to its last."""

    def __init__(self, number: int, plan: Plan) -> None:
        super().__init__()
        self.sagas = sagas_of(number, plan.seed)
        self.folder = Path(plan.folder) / f"branch{number}"
        self.folder.mkdir()
        self.seed = plan.seed

    def body(self) -> tuple[Callable[[Any], None], Any]:
        told = {line["saga"] for line in self.told() if "saga" in line}
        left = tuple(saga for saga in self.sagas if saga.name not in told)
        return work_off, Job(left, self.life, self.folder, self.seed)

    def told(self) -> Iterator[dict[str, Any]]:
        """What its processes told; a line that a death cut short is left out."""
        for life in range(self.life + 1):
            path = self.folder / f"told{life}"
            if path.exists():
                for line in path.read_text("utf-8").split("\n")[:-1]:
                    yield {**json.loads(line), "life": life}

    def facts(self) -> Facts:
        found = {saga.name: Followed(saga) for saga in self.sagas}
        reads: dict[int, dict[str, int]] = {}
        for line in self.told():
            if "reads" in line:
                reads[line["life"]] = line["reads"]
                continue
            followed = found[line["saga"]]
            followed.status, followed.reason = line["status"], line["reason"]
            followed.stuck, followed.dishonest = line["stuck"], line["dishonest"]
        first = found[self.sagas[0].name]
        first.died = [death.point for death in first.saga.deaths[: self.life]]
        total: Counter[str] = Counter()
        for each in reads.values():
            total.update(each)
        books = SQLiteBooks(self.folder / "books.db")
        try:
            return facts_of(list(found.values()), books.posts(), books, total)
        finally:
            books.close()


def rounds(plan: Plan) -> Iterator[Facts]:
    """What was seen of branches, until so many processes were killed."""

    def branch(number: int) -> Branch:
        return Branch(number, plan)

    most = BRANCHES_MAX * plan.kills
    for each in lived(branch, kills=plan.kills, most=most, at_once=AT_ONCE):
        yield each.facts()


def command(plan: Plan) -> list[str]:
    """The command that carries it out."""
    return [sys.executable, "-m", __spec__.name, json.dumps(asdict(plan))]


def main(arguments: list[str]) -> int:
    """Carry the plan out and print what was seen."""
    plan = Plan(**json.loads(arguments[0]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ended early, it ends its workers
    with applied(plan.sabotage):
        for facts in rounds(plan):
            sys.stdout.write(json.dumps(facts) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
