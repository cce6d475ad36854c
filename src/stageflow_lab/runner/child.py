"""One scenario, run once: `python -m stageflow_lab.runner.child REQUEST FD PARENT`.

PARENT is the process that started it, with which it ends. Reads the request file, writes
`outcome.json` and evidence into the request's folder, and tells progress as JSON lines on the
inherited file descriptor FD.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from stageflow.model.marks import counting

from .. import discovery
from ..coverage import Coverage
from ..errors import LabError
from ..history import History
from ..plain import plain as default_plain
from ..power import unreachable
from ..results import Result
from ..scenario import Judgement, Scenario
from ..verdict import Verdict, rule
from ..world import World
from .components import absent
from .limits import set_memory_limit, set_process_limits
from .request import Request
from .versions import versions

OUTCOME: Final = "outcome.json"
_PROGRESS_EVERY_S: Final = 0.1


class ParentPipe:
    """The pipe to the parent. A parent that has gone is not this child's failure."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._next_at = 0.0

    def tell(self, event: str, **data: Any) -> None:
        """Send one message."""
        with suppress(OSError):
            os.write(self._descriptor, json.dumps({"event": event, **data}).encode() + b"\n")

    def progress(self, done: int, total: int, note: str) -> None:
        """Send progress, at most ten times a second."""
        now = time.monotonic()
        if now >= self._next_at or done >= total:
            self._next_at = now + _PROGRESS_EVERY_S
            self.tell("progress", done=done, total=total, note=note[:60])


def main(arguments: list[str]) -> int:
    """Run the request; 0 whenever an outcome was written, whatever its verdict."""
    set_process_limits(int(arguments[2]))
    request = Request.read(Path(arguments[0]))
    line = ParentPipe(int(arguments[1]))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    before = time.monotonic()
    result = replace(
        _outcome(request, line), started=started, duration_s=round(time.monotonic() - before, 3)
    )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime
    result = replace(
        result,
        cpu_s=round(cpu_s, 3),
        memory_peak_bytes=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        versions=versions(),
    )
    part = request.evidence / f"{OUTCOME}.part"
    part.write_text(json.dumps(result.to_json(), allow_nan=False), "utf-8")
    part.replace(request.evidence / OUTCOME)
    return 0


def _outcome(request: Request, line: ParentPipe) -> Result:
    blank = Result(
        row=request.found.row,
        verdict=Verdict.ERROR,
        size=request.size,
        seed=request.seed,
        scale=request.scale,
        sabotage=request.sabotage,
        folders=request.folders,
        scenario_hash=request.found.text_hash(),
    )
    try:
        scenario = discovery.load(request.found)
        lacking = absent(scenario.components)
    except LabError as error:
        package = discovery.package_missing(request.found, error)
        if package is not None:
            reason = f"needs python:{package}"
            return replace(blank, verdict=Verdict.SKIPPED, reason=reason)
        (request.evidence / "traceback-import.txt").write_text(traceback.format_exc(), "utf-8")
        return replace(blank, reason=str(error).splitlines()[0])
    if lacking:
        return replace(blank, verdict=Verdict.SKIPPED, reason=f"needs {', '.join(lacking)}")
    params = scenario.sizes.params(request.size, scale=request.scale)
    if params is None:
        reason = f"has no size {request.size}"
        return replace(blank, verdict=Verdict.SKIPPED, reason=reason)
    blank = replace(blank, params=dict(params))
    if request.mode == "judge" and request.scale == 1.0:
        beyond = unreachable(scenario, request.size, params)
        if beyond:  # before anything runs: no result of this size could decide
            return replace(blank, verdict=Verdict.UNKNOWN, reason="; ".join(beyond))
    limit_s = scenario.wall_limit(request.size)
    line.tell("ready", wall_limit_s=limit_s)
    set_memory_limit(scenario.memory_limit_bytes)
    world = World(
        seed=request.seed,
        size=params,
        scratch=request.scratch,
        size_name=request.size,
        scale=request.scale,
        deadline=time.monotonic() + limit_s,
        sabotage=request.sabotage,
        report=line.progress,
    )
    if request.mode == "plain":
        return _plain(scenario, world, request, blank)
    return _judge(scenario, world, request, blank)


def _judge(scenario: Scenario, world: World, request: Request, blank: Result) -> Result:
    caught: list[str] = []
    history: History | None = None
    with (
        _witness(request.evidence, "load", caught),
        scenario.sabotaged(request.sabotage),
        counting(world.marks),
    ):
        history = scenario.load(world)
    blank = replace(blank, marks=world.marks.all())
    if caught:
        return replace(blank, reason=f"the load raised {caught[0]}")
    if not isinstance(history, History):
        return replace(blank, reason=f"the load returned {type(history).__name__}, not a History")
    history.save(request.evidence / "history.jsonl")
    coverage = Coverage.of(history, world.marks.all())
    blank = replace(blank, fired=coverage.fired)
    judgement: Judgement | None = None
    with _witness(request.evidence, "check", caught):
        judgement = scenario.check(history)
        ruling = rule(
            scenario,
            judgement,
            size=request.size,
            coverage=coverage,
            scaled=request.scale != 1.0,
            lacking=absent(each.component for each in scenario.metrics if each.component),
        )
    if caught or judgement is None:
        reason = f"the check raised {caught[0] if caught else 'nothing and returned None'}"
        return replace(blank, verdict=Verdict.UNKNOWN, reason=reason)
    return replace(
        blank,
        verdict=ruling.verdict,
        reason=ruling.reason,
        metrics=ruling.metrics,
        notes=judgement.notes,
        pictures=judgement.pictures,
    )


def _plain(scenario: Scenario, world: World, request: Request, blank: Result) -> Result:
    caught: list[str] = []
    use: Callable[[World], None] = scenario.plain or default_plain
    with _witness(request.evidence, "plain", caught), scenario.sabotaged(request.sabotage):
        use(world)
    if caught:
        return replace(blank, reason=f"plain use raised {caught[0]}")
    return replace(blank, verdict=Verdict.PASS)


@contextmanager
def _witness(evidence: Path, stage: str, caught: list[str]) -> Iterator[None]:
    """Turn whatever foreign code raises into evidence: the scenario boundary."""
    try:
        yield
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        text = traceback.format_exc()
        (evidence / f"traceback-{stage}.txt").write_text(text, "utf-8")
        first = next(iter(str(error).splitlines()), "")
        caught.append(f"{type(error).__name__}: {first}"[:300])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
