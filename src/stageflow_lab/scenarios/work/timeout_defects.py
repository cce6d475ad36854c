"""What a deadline gets wrong, as sabotages of WORK-007."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Iterator
from typing import Any, Final

from stageflow.model.record import RecordType
from stageflow.runtime import (
    attempt,
    children,
    driver,
    heartbeat,
    history,
    process_tree,
    processes,
    produced,
    threads,
)

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="cleanups")
def finally_blocks_skipped() -> Iterator[None]:
    """A stage that is out of time is left where it stands, and nothing is raised in it."""
    abandoned = []
    stop = attempt.Attempt.stop

    def stop_at_once(self: attempt.Attempt, why: str, grace_s: float) -> None:
        self.killed = True
        stop(self, why, grace_s)

    def close(self: attempt.Attempt) -> None:
        abandoned.append(self.coroutine)

    with (
        patched(attempt.Attempt, "stop", stop_at_once),
        patched(attempt.Attempt, "close", close),
    ):
        yield


@sabotage(metric="surviving_processes")
def parent_process_killed_alone() -> Iterator[None]:
    """The child process is killed, and what it has started goes on."""

    async def end(self: Any, grace_s: float) -> None:
        if self.process.returncode is None:
            self.process.kill()

    with patched(processes._Child, "end", end):
        yield


@sabotage(metric="surviving_processes")
def only_the_session_is_killed() -> Iterator[None]:
    """All that shares the child's session is ended; what has one of its own goes on."""

    members = process_tree.ProcessTree.members

    def own_session(self: Any) -> set[int]:
        return {pid for pid in members(self) if _session_of(pid) == self._root}

    with patched(process_tree.ProcessTree, "members", own_session):
        yield


@sabotage(metric="chunks_kept")
def chunks_thrown_away() -> Iterator[None]:
    """What a stage had produced goes with it when it is cut off."""

    def end(self: Any, node: int, kept: Any) -> produced.Chunks:
        return produced.NO_CHUNKS

    with patched(produced.Produced, "end", end):
        yield


@sabotage(metric="chunks_kept")
def chunks_not_journalled() -> Iterator[None]:
    """They are in the account that the caller gets, and not in the journal's."""
    with patched(history.History, "_told", lambda self, chunks: {}):
        yield


@sabotage(metric="late_virtual")
def grace_without_end() -> Iterator[None]:
    """Who does not end when told to is waited for."""
    with patched(attempt.Attempt, "kill", lambda self: None):
        yield


@sabotage(metric="late_virtual")
def grace_given_twice() -> Iterator[None]:
    """What a stage left behind has a grace period after that of the stage."""
    end_tasks = driver.Driver._end_tasks

    async def end_anew(self: driver.Driver) -> None:
        self.cut_by_s = None
        await end_tasks(self)

    with patched(driver.Driver, "_end_tasks", end_anew):
        yield


@sabotage(metric="late_virtual")
def grace_a_moment_longer() -> Iterator[None]:
    """Who does not end when told to has a tenth of a millisecond more: less than what the journal
    takes afterwards, and no part of it."""
    stop = attempt.Attempt.stop

    def stop_late(self: attempt.Attempt, why: str, grace_s: float) -> None:
        stop(self, why, grace_s + 0.000_1)

    with patched(attempt.Attempt, "stop", stop_late):
        yield


@sabotage(metric="answered_early")
def answered_before_it_is_durable() -> Iterator[None]:
    """Whoever called is told how it ended while the journal is still at it."""
    commit = history.History.commit
    writing: set[asyncio.Task[None]] = set()

    async def commit_soon(self: history.History, run: driver.Driver) -> None:
        task = run.loop.create_task(commit(self, run))
        if any(record.type is RecordType.RUN_ENDED for record in run.scheduler.records):
            writing.add(task)
            task.add_done_callback(writing.discard)
        else:
            await task

    with patched(history.History, "commit", commit_soon):
        yield


@sabotage(metric="heartbeat_killed")
def heartbeats_not_heard() -> Iterator[None]:
    """A sign of life changes nothing."""

    def give(self: Any, node: int, attempt: int, now_s: float, details: Any) -> None:
        pass

    with patched(heartbeat.Heartbeats, "give", give):
        yield


@sabotage(metric="stuck_refused")
def stuck_threads_not_counted() -> Iterator[None]:
    """However many threads never came back, another one is begun."""
    with patched(threads.ThreadPool, "_check_stuck", lambda self: None):
        yield


@sabotage(metric="budgets_exceeded")
def budget_of_its_own() -> Iterator[None]:
    """A tool below a tool has all the time that it asks for."""
    run_child = children.run_child

    async def run_freely(
        of: driver.Driver, number: int, pipeline: Any, key: str, inputs: Any, deadline_s: float
    ) -> Any:
        return await run_child(of, number, pipeline, key, inputs, math.inf)

    with patched(children, "run_child", run_freely):
        yield


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


DEFECTS: Final[tuple[Sabotage, ...]] = (
    finally_blocks_skipped,
    parent_process_killed_alone,
    only_the_session_is_killed,
    chunks_thrown_away,
    chunks_not_journalled,
    grace_without_end,
    grace_given_twice,
    grace_a_moment_longer,
    answered_before_it_is_durable,
    heartbeats_not_heard,
    stuck_threads_not_counted,
    budget_of_its_own,
)
