"""Stages that raise the cases under a Retry: how often each was attempted, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from stageflow import Pipeline, Retry, enrich, work
from stageflow.sim import Sim, simulate

from .error_cases import Case, ServiceError

ATTEMPTS: Final = 3
AGAIN: Final = Retry(attempts=ATTEMPTS, base_s=0.01, max_s=0.05, retry_after_max_s=0.1)
CHUNK: Final = 100
"""Runs of one simulation."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One stage that raised one case, always."""

    case: Case
    kind: str
    """`read`, `work`, or `keyed`: what the stage is."""
    attempts: int
    state: str
    """Of the node, in the end."""


def tried(asked: Sequence[tuple[Case, str]], seed: int) -> list[Tried]:
    """Runs the stages in virtual time."""
    found: list[Tried] = []
    for first in range(0, len(asked), CHUNK):
        part = asked[first : first + CHUNK]

        async def main(sim: Sim, part: Sequence[tuple[Case, str]] = part) -> list[Tried]:
            return [await _tried(case, kind) for case, kind in part]

        found += simulate(main, seed=seed + first).value
    return found


async def _tried(case: Case, kind: str) -> Tried:
    made = 0

    async def calls(x: int) -> int:
        nonlocal made
        made += 1
        raise _error(case)

    stage: Any
    if kind == "read":
        stage = enrich(calls, name="calls", retry=AGAIN)
    else:
        stage = work(calls, name="calls", retry=AGAIN, keyed=kind == "keyed")
    pipeline = Pipeline("tool", [stage], inputs={"x": int}, outputs=stage)
    run = await pipeline.run(x=1)
    return Tried(case, kind, made, run.nodes["calls"].state)


def _error(case: Case) -> BaseException:
    """A new error each time: one that was raised before has a history."""
    subject = case.make()
    return subject if isinstance(subject, BaseException) else ServiceError(subject)
