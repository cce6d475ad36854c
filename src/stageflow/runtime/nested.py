"""Runs that stages start: under a journal, found again by whoever executes or undoes the stage.

A child's id follows from its parent's run, its node and its key, so whoever executes the stage
again meets the same child: one that ended ok gives its recorded output, any other goes on where it
stopped. So a run that broke 200 levels deep is resumed at the broken stage, and not at the top.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stageflow.journal.store import LoadedRun
from stageflow.model.errors import JournalError
from stageflow.model.record import UNDO_RUN
from stageflow.runtime.deps import Fakes
from stageflow.runtime.driver import Driver
from stageflow.runtime.history import changed_inputs, decode_inputs
from stageflow.runtime.recovery import is_taken_back, recovered
from stageflow.runtime.sealing import shredded_inputs
from stageflow.scheduler import Action

if TYPE_CHECKING:
    from stageflow.runtime.pipeline import Pipeline
    from stageflow.runtime.runtime import Runtime


def child_run_id(parent: str, node: str, key: str, number: int = 1) -> str:
    """26 characters, as of every run id; equal for equal arguments.

    `number` counts the runs under one key: one that took itself back is followed by another.
    """
    # Lengths first: ("a", "bc") and ("ab", "c") are two children.
    text = f"{len(parent)} {len(node)} {parent}{node}{key}"
    if number > 1:
        text = f"again {number} {text}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()
    return base64.b32hexencode(digest)[:26].decode().lower()


def fakes_for(run: str, pipeline: Pipeline[Any], parent: Driver | None) -> Fakes | None:
    """The fakes of a run: those of its pipeline, and behind them those of the run it serves."""
    outer = None if parent is None else parent.fakes
    own = pipeline.options.fakes
    return outer if own is None else Fakes(own, run, outer)


async def latest_child(
    parent: Driver, pipeline: Pipeline[Any], *, node: str, key: str
) -> tuple[str, LoadedRun | None]:
    """The run that `key` stands for now, and what the journal holds of it; None when it never
    began. A child that took itself back is over, and its key stands for the next."""
    runtime, number = parent.runtime, 1
    assert runtime.journal is not None, "only journalled runs have children that are found again"
    while True:
        run = child_run_id(parent.identity.run, node, key, number)
        try:
            seen = await runtime.load(run)
        except JournalError as error:
            if error.code == "journal.unknown_run":
                return run, None
            raise
        if not is_taken_back(pipeline, seen):
            return run, seen
        number += 1


async def taken_up(
    runtime: Runtime,
    parent: Driver,
    pipeline: Pipeline[Any],
    *,
    seen: LoadedRun,
    node: str,
    inputs: Mapping[str, Any],
    deadline_s: float,
) -> tuple[Driver, list[Action]]:
    """The child as it stands in the journal.

    Raises JournalError `resume.diverged` when it was started with other inputs, and whatever
    `recovered` raises.
    """
    run = seen.header.run
    given = pipeline.admit_inputs(inputs, runtime.freezer)
    before = decode_inputs(pipeline.plan, seen.records[0])
    changed = changed_inputs(given, before, shredded_inputs(seen.records[0]))
    if changed:
        raise JournalError(
            "resume.diverged",
            f"stage {node!r} asks for a child run again, with other inputs than before",
            pipeline=parent.plan.name,
            node=node,
            field=changed[0],
            expected="the inputs that the run of this key was started with",
            got=f"another value of {', '.join(changed[:8])}",
            fix="a key of its own for each ctx.run, and inputs that follow from the stage's own",
        )
    driver, actions = await recovered(
        runtime,
        run,
        pipeline=pipeline,
        rerun=(),
        events=parent.events[len(runtime.events) :],
        seen=seen,
    )
    driver.depth = parent.depth + 1
    driver.fakes = fakes_for(run, pipeline, parent)
    driver.deadline_s = deadline_s
    return driver, actions


async def to_take_back(
    parent: Driver, pipeline: Pipeline[Any], *, node: str, key: str
) -> tuple[Driver, list[Action]] | None:
    """The journalled child that `node` ran under `key`, about to be undone; None when there is
    none, or it took itself back already."""
    runtime = parent.runtime
    run, seen = await latest_child(parent, pipeline, node=node, key=key)
    if seen is None:
        return None
    driver, actions = await recovered(
        runtime,
        run,
        pipeline=pipeline,
        rerun=(UNDO_RUN,),
        events=parent.events[len(runtime.events) :],
        seen=seen,
    )
    driver.depth = parent.depth + 1
    driver.fakes = fakes_for(run, pipeline, parent)
    return driver, actions


def taken_back(child: Driver) -> tuple[Driver, list[Action]]:
    """A driver that undoes a child which has ended in this process, where no journal keeps it."""
    actions = child.scheduler.undo("undone")
    driver = Driver(
        child.runtime,
        child.program,
        identity=child.identity,
        inputs=child.inputs,
        seed=child.seed,
        depth=child.depth,
        events=child.events[len(child.runtime.events) :],
        scheduler=child.scheduler,
    )
    driver.bag, driver.held, driver.fakes = child.bag, child.held, child.fakes
    driver.session, driver.flows = child.session, child.flows
    if child.flows:
        driver.flow.follow(child.flow)
    driver.failures.update(child.failures)
    driver.kept_results.update(child.kept_results)
    driver.kept_children.update(child.kept_children)
    return driver, actions
