"""Runs handed to a queue: put into the journal for workers, and read when they are over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stageflow.journal.journal import QueueJournal
from stageflow.journal.queue import QueueBounds
from stageflow.journal.store import QUEUED, RUNNING
from stageflow.model.errors import BuildError, JournalError, RunError
from stageflow.runtime.arguments import check_pipeline, check_wait
from stageflow.runtime.outcome import Run
from stageflow.runtime.recovery import account_of, locate
from stageflow.runtime.request import Request

if TYPE_CHECKING:
    from stageflow.runtime.pipeline import Pipeline
    from stageflow.runtime.runtime import Runtime

LOOK_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Between looks at a run that is not over; the last one again and again."""


def queue_of(runtime: Runtime) -> QueueJournal:
    """The runtime's journal, if runs can be queued in it."""
    journal = runtime.needs_journal()
    if not isinstance(journal, QueueJournal):
        raise BuildError(
            "runtime.no_queue",
            "this journal has no queue",
            expected="a journal in PostgreSQL or SQLite, or one that implements QueueJournal",
            got=type(journal).__name__,
            fix="Runtime(journal='postgresql://...') or Runtime.local()",
        )
    return journal


async def submit(runtime: Runtime, pipeline: Pipeline[Any], inputs: Mapping[str, Any]) -> str:
    """Puts a new run of `pipeline` into the queue and returns its id, once that is durable.

    Of a request that was made before, its run's id; RunError `run.request_changed` when it was
    another request.
    """
    queue = queue_of(runtime)
    driver = runtime.begin(pipeline, inputs)
    if driver.turn is not None:
        driver.turn.leave()  # its place is in the journal's line, and a worker drives it
    assert driver.history is not None, "a runtime with a journal gives a history"
    limits, run = runtime.limits, driver.identity.run
    try:
        await queue.enqueue(
            driver.history.header,
            (await driver.history.first_record(driver),),
            priority=pipeline.options.priority,
            bounds=QueueBounds(limits.queued, limits.queued_per_tenant),
        )
    except JournalError as error:
        if error.code != "journal.run_exists" or pipeline.options.request_key is None:
            raise
        Request(runtime, pipeline, driver).check_recorded(await runtime.load(run))
    return run


async def result(
    runtime: Runtime, run: str, *, pipeline: Pipeline[Any] | None, wait_s: float
) -> Run[Any]:
    """The account of a run that is over, or suspended; waits for it at most `wait_s`."""
    check_pipeline(pipeline)
    check_wait(wait_s)
    loop = asyncio.get_running_loop()
    until_s = loop.time() + wait_s
    looks = 0
    while True:
        loaded = await runtime.load(run)
        if loaded.status not in (RUNNING, QUEUED):
            found = locate(loaded.header) if pipeline is None else pipeline
            return await account_of(runtime, loaded, found)
        left_s = until_s - loop.time()
        if left_s <= 0:
            raise RunError(
                "run.not_over",
                f"run {run} is not over",
                pipeline=loaded.header.pipeline,
                expected="a run that has ended or is suspended",
                got=loaded.status,
                fix="runtime.result(run, wait_s=...), and see that a worker runs",
            )
        await asyncio.sleep(min(left_s, LOOK_S[min(looks, len(LOOK_S) - 1)]))
        looks += 1
