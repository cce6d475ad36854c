"""Pipelines made of a tree: leaves with their fates, stages that run children, and a last look."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from stageflow import Context, Pipeline, Retry, Stage, enrich

from .pipeline_trees import GIVEN, LAST, Fate, Tree, TreeNode
from .tree_log import LOG, OUTSIDE, ROOT, VALUE, Author

TIMEOUT_UNITS: Final = 8
"""Of leaves that may come late."""
GRACE_UNITS: Final = 3
HANG_UNITS: Final = 40
LATE_SHARE: Final = 0.5
ATTEMPTS: Final = 2
ATTEMPTS_THREADED: Final = 4
INPUT: Final = (Author(OUTSIDE, "", GIVEN, "x1").text,)
"""What every run of a root is given."""

Body = Callable[..., Any]


class LeafBroke(Exception):
    """What a failing leaf raises."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take."""

    unit_s: float
    blocks: bool
    """True when a leaf in a thread blocks it; else the pool takes the time (simulation)."""

    @property
    def grace_s(self) -> float:
        return GRACE_UNITS * self.unit_s

    def thread_s(self, rng: random.Random) -> float:
        """How long a call in a thread takes: in time, or past its attempt, then until the next one
        is at work, or past the run."""
        if rng.random() < LATE_SHARE:
            until = rng.choice((2 * TIMEOUT_UNITS, 6 * TIMEOUT_UNITS))
            return rng.randint(TIMEOUT_UNITS + 2, until) * self.unit_s
        return rng.randrange(TIMEOUT_UNITS // 2, TIMEOUT_UNITS) * self.unit_s


VIRTUAL: Final = Pace(unit_s=0.001, blocks=False)
REAL: Final = Pace(unit_s=0.004, blocks=True)


def pipeline_of(tree: Tree, pace: Pace, path: str = ROOT) -> Pipeline[Any]:
    """The pipeline of a tree, with all its children."""
    stages: list[Stage[..., Any]] = []
    for node in tree.nodes:
        if node.child is None:
            stages.append(_leaf(node, pace, path))
        else:
            child = pipeline_of(node.child, pace, f"{path}.{node.name}")
            made = _placed(node, child) if node.way == "stage" else _caller(node, child, path)
            stages.append(_patient(node, made, pace))
    stages.append(_last(tree, path))
    return Pipeline(
        path.replace(".", "_"),
        stages,
        inputs={GIVEN: VALUE},
        outputs=list(tree.outputs) if path != ROOT else [LAST],
    )


def _placed(node: TreeNode, child: Pipeline[Any]) -> Stage[..., Any]:
    stage = child.as_stage(node.name, exports=dict(node.exports))
    return stage.named(bind={GIVEN: node.takes[0]}) if node.takes else stage


def _caller(node: TreeNode, child: Pipeline[Any], path: str) -> Stage[..., Any]:
    async def calls(ctx: Context, given: list[str]) -> list[str]:
        log = LOG.get()
        passed = list(given)
        source = node.takes[0] if node.takes else GIVEN
        before = log.enter(ctx, path, {source: given})
        try:
            log.got(ctx, await ctx.run(child, key="only", given=passed))
        finally:
            log.leave(ctx, before)
        return log.value(ctx, path)

    stage = enrich(calls, name=node.name)
    return stage.named(bind={GIVEN: node.takes[0]}) if node.takes else stage


def _patient(node: TreeNode, stage: Stage[..., Any], pace: Pace) -> Stage[..., Any]:
    isolated = "isolate" if node.isolates else "stop"
    if not node.patience:
        return stage.named(on_failure=isolated, timeout=math.inf)  # type: ignore[arg-type]
    return stage.named(
        on_failure=isolated,  # type: ignore[arg-type]
        timeout=node.patience * pace.unit_s,
        retry=_again(pace),
    )


def _last(tree: Tree, path: str) -> Stage[..., Any]:
    """Looks at its run when all others have ended, and takes what is there of an own key and of an
    export: whatever children did, both are still what they were."""
    own = next(node.name for node in tree.nodes if node.child is None)
    exports = [name for node in tree.nodes for name, _ in node.exports]

    def look(ctx: Context, **taken: list[str] | None) -> list[str]:
        log = LOG.get()
        names = dict(zip(("one", "two"), (own, *exports), strict=False))
        there = {names[name]: value for name, value in taken.items() if value is not None}
        log.leave(ctx, log.enter(ctx, path, there))
        return log.value(ctx, path)

    async def alone(ctx: Context, one: list[str] | None = None) -> list[str]:
        return look(ctx, one=one)

    async def both(
        ctx: Context, one: list[str] | None = None, two: list[str] | None = None
    ) -> list[str]:
        return look(ctx, one=one, two=two)

    stage = enrich(both if exports else alone, name=LAST, after=[n.name for n in tree.nodes])
    return stage.named(bind={"one": own, **({"two": exports[0]} if exports else {})})


# -- leaves ------------------------------------------------------------------------------------


def _leaf(node: TreeNode, pace: Pace, path: str) -> Stage[..., Any]:
    body = _threaded(node, pace, path) if node.fate == "threaded" else _async(node, pace, path)
    late = node.fate in ("stubborn", "threaded", "hangs")
    options: dict[str, Any] = {"timeout": TIMEOUT_UNITS * pace.unit_s} if late else {}
    if node.fate in ("stubborn", "fails_once"):
        options["retry"] = _again(pace)
    if node.fate == "threaded":
        options |= {"place": "thread", "retry": _again(pace, ATTEMPTS_THREADED)}
    return enrich(
        body,
        name=node.name,
        on_failure="isolate" if node.isolates else "stop",
        **options,
    ).named(bind=dict(zip(("one", "two"), node.takes, strict=False)))


def _again(pace: Pace, attempts: int = ATTEMPTS) -> Retry:
    return Retry(attempts=attempts, base_s=pace.unit_s, factor=1.0, jitter="none", on=(LeafBroke,))


def _async(node: TreeNode, pace: Pace, path: str) -> Body:
    fate = _FATES[node.fate]

    async def perform(ctx: Context, given: list[str], *taken: list[str]) -> list[str]:
        log = LOG.get()
        before = log.enter(ctx, path, _told(node, given, taken))
        try:
            await fate(node, pace, ctx.attempt)
        finally:
            log.leave(ctx, before)
        return log.value(ctx, path)

    if not node.takes:

        async def alone(ctx: Context, given: list[str]) -> list[str]:
            return await perform(ctx, given)

        return alone
    if len(node.takes) == 1:

        async def single(ctx: Context, given: list[str], one: list[str]) -> list[str]:
            return await perform(ctx, given, one)

        return single

    async def double(ctx: Context, given: list[str], one: list[str], two: list[str]) -> list[str]:
        return await perform(ctx, given, one, two)

    return double


def _threaded(node: TreeNode, pace: Pace, path: str) -> Body:
    def perform(ctx: Context, given: list[str], *taken: list[str]) -> list[str]:
        log = LOG.get()
        before = log.enter(ctx, path, _told(node, given, taken))
        if pace.blocks:
            rng = random.Random(f"{ctx.identity.run}/{node.name}/{ctx.attempt}")
            time.sleep(pace.thread_s(rng))
        log.leave(ctx, before)
        return log.value(ctx, path)

    if not node.takes:

        def alone(ctx: Context, given: list[str]) -> list[str]:
            return perform(ctx, given)

        return alone
    if len(node.takes) == 1:

        def single(ctx: Context, given: list[str], one: list[str]) -> list[str]:
            return perform(ctx, given, one)

        return single

    def double(ctx: Context, given: list[str], one: list[str], two: list[str]) -> list[str]:
        return perform(ctx, given, one, two)

    return double


def _told(node: TreeNode, given: list[str], taken: tuple[list[str], ...]) -> dict[str, list[str]]:
    return {GIVEN: given, **dict(zip(node.takes, taken, strict=True))}


async def _calm(node: TreeNode, pace: Pace, attempt: int) -> None:
    await asyncio.sleep(node.waits * pace.unit_s)


async def _fails(node: TreeNode, pace: Pace, attempt: int) -> None:
    await asyncio.sleep(node.waits * pace.unit_s)
    raise LeafBroke(node.name)


async def _fails_once(node: TreeNode, pace: Pace, attempt: int) -> None:
    await asyncio.sleep(node.waits * pace.unit_s)
    if attempt == 1:
        raise LeafBroke(node.name)


async def _stubborn(node: TreeNode, pace: Pace, attempt: int) -> None:
    """Its first attempt swallows whatever stops it, and goes on for a while."""
    if attempt > 1:
        return await _calm(node, pace, attempt)
    try:
        await asyncio.sleep(2 * TIMEOUT_UNITS * pace.unit_s)
    except asyncio.CancelledError:
        await asyncio.sleep(pace.unit_s)
    return None


async def _hangs(node: TreeNode, pace: Pace, attempt: int) -> None:
    await asyncio.sleep(HANG_UNITS * pace.unit_s)


_FATES: Final[Mapping[Fate, Callable[[TreeNode, Pace, int], Awaitable[None]]]] = {
    "calm": _calm,
    "fails": _fails,
    "fails_once": _fails_once,
    "stubborn": _stubborn,
    "hangs": _hangs,
}
