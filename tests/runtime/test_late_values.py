"""A value that comes after its attempt was closed is refused, told, and kept in the journal."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from stageflow import (
    Allow,
    Context,
    Decision,
    Event,
    EventType,
    JournalError,
    Limits,
    Pipeline,
    Redact,
    Retry,
    Runtime,
    Subscription,
    enrich,
    guard,
    transform,
)
from stageflow.contracts import contract_of
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore
from stageflow.journal.store import Append
from stageflow.model.record import Record, RecordType
from stageflow.model.values import thaw

SOON_S = 0.1
PATIENCE_S = 10.0


def late(records: tuple[Record, ...]) -> list[Record]:
    return [record for record in records if record.type is RecordType.LATE]


def value_of(record: Record) -> object:
    assert record.payload is not None
    return thaw(contract_of(list[int]).decode(record.payload))


def late_events(events: list[Event]) -> list[tuple[str | None, int]]:
    return [(event.node, event.attempt) for event in events if event.type is EventType.LATE_WRITE]


async def told(events: Subscription) -> list[tuple[str | None, int]]:
    """The first late write; the clock only bounds a failing test."""
    async with asyncio.timeout(PATIENCE_S):
        async for event in events:
            if event.type is EventType.LATE_WRITE:
                return [(event.node, event.attempt)]
    return []


def test_what_a_stage_returns_after_its_timeout_is_refused_and_kept() -> None:
    """
    1. attempt 1 is stopped by its timeout, swallows that and returns a value
    2. the attempt has failed; its value is late
    3. attempt 2 returns the value that counts
    """

    @enrich(timeout=SOON_S, retry=Retry(attempts=2, base_s=0.0))
    async def found(ctx: Context, x: int) -> list[int]:
        if ctx.attempt == 1:
            try:
                await asyncio.sleep(PATIENCE_S)
            except asyncio.CancelledError:
                return [x, 1]
        return [x, ctx.attempt]

    pipeline = Pipeline("late", [found], inputs={"x": int}, outputs=found)

    async def main() -> None:
        events = Subscription()
        async with Runtime(journal=GroupCommit(MemoryStore())) as runtime:
            run = await pipeline.using(runtime=runtime, run_id="r", events=events).run(x=7)
            loaded = await runtime.load("r")
        assert run.output == [7, 2]
        (record,) = late(loaded.records)
        assert (record.node, record.attempt, record.token) == ("found", 1, 1)
        assert value_of(record) == [7, 1]
        assert late_events(events.drain()) == [("found", 1)]

    asyncio.run(main())


def test_a_thread_that_comes_back_beside_the_next_attempt_is_refused_and_kept() -> None:
    """
    1. attempt 1 times out; its thread is past its grace and runs on
    2. attempt 2 runs, and lets the thread of attempt 1 return its value
    3. that value arrives while attempt 2 still runs: the node is RUNNING, the token is old
    4. attempt 2 returns the value that counts
    """
    go_on, refused = threading.Event(), threading.Event()

    @enrich(timeout=SOON_S, retry=Retry(attempts=2, base_s=0.0))
    def found(ctx: Context, x: int) -> list[int]:
        if ctx.attempt == 1:
            go_on.wait(PATIENCE_S)
        else:
            go_on.set()
            refused.wait(SOON_S / 2)
        return [x, ctx.attempt]

    pipeline = Pipeline("late", [found], inputs={"x": int}, outputs=found)

    async def main() -> None:
        store, events = MemoryStore(), Subscription()
        async with Runtime(journal=GroupCommit(store), limits=Limits(grace_s=0.001)) as runtime:
            run = await pipeline.using(runtime=runtime, run_id="r", events=events).run(x=7)
            assert run.output == [7, 2]
            assert await told(events) == [("found", 1)]
        (record,) = late(store.load("r").records)
        assert (record.attempt, record.token) == (1, 1)
        assert record.data["current"] == 2
        assert value_of(record) == [7, 1]
        assert runtime.threads.stuck == 0

    asyncio.run(main())


def test_a_thread_that_comes_back_after_the_run_is_told_and_kept_before_closing() -> None:
    """
    1. attempt 1 times out and its thread runs on; attempt 2 succeeds; the run ends
    2. the thread returns: the run is over, its journal is not
    3. closing the runtime waits for the record
    """
    go_on = threading.Event()

    @enrich(timeout=SOON_S, retry=Retry(attempts=2, base_s=0.0))
    def found(ctx: Context, x: int) -> list[int]:
        if ctx.attempt == 1:
            go_on.wait(PATIENCE_S)
        return [x, ctx.attempt]

    pipeline = Pipeline("late", [found], inputs={"x": int}, outputs=found)

    async def main() -> None:
        store, events = MemoryStore(), Subscription()
        async with Runtime(journal=GroupCommit(store), limits=Limits(grace_s=0.001)) as runtime:
            run = await pipeline.using(runtime=runtime, run_id="r", events=events).run(x=7)
            assert run.output == [7, 2]
            assert late(store.load("r").records) == []
            assert runtime.threads.stuck == 1
            go_on.set()
            assert await told(events) == [("found", 1)]
        loaded = store.load("r")
        assert loaded.status == "ok"
        (record,) = late(loaded.records)
        assert (record.attempt, value_of(record)) == (1, [7, 1])

    asyncio.run(main())


class HeldStore(MemoryStore):
    """Keeps the first late value waiting until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.came, self.go_on = threading.Event(), threading.Event()

    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        if any(record.type is RecordType.LATE for append in batch for record in append.records):
            self.came.set()
            self.go_on.wait(PATIENCE_S)
        return super().commit(batch)


def test_a_run_is_taken_up_anew_when_what_was_late_is_written() -> None:
    """
    1. two stages time out, their threads run on, and the run fails
    2. the first thread is back, and its value is being written when the second is back
    3. the run is resumed: once it is claimed, its former driver may write nothing any more
    4. both values are kept, and the run is done
    """
    go_on = [threading.Event(), threading.Event()]
    tries = []

    def returning(place: int) -> Callable[[int], list[int]]:
        def found(x: int) -> list[int]:
            tries.append(place)
            if len(tries) <= 2:
                go_on[place].wait(PATIENCE_S)
            return [x, place]

        return found

    stages = [
        enrich(timeout=SOON_S, name=f"s{place}", on_failure="isolate")(returning(place))
        for place in (0, 1)
    ]
    pipeline = Pipeline("late", stages, inputs={"x": int}, outputs=stages)

    async def main() -> None:
        store, events = HeldStore(), Subscription()
        async with Runtime(journal=GroupCommit(store), limits=Limits(grace_s=0.001)) as runtime:
            run = await pipeline.using(runtime=runtime, run_id="r", events=events).run(x=7)
            assert run.status == "partial"
            go_on[0].set()
            await asyncio.to_thread(store.came.wait, PATIENCE_S)
            go_on[1].set()
            async with asyncio.timeout(PATIENCE_S):
                while runtime.threads.stuck:  # noqa: ASYNC110 - it tells nobody of its threads
                    await asyncio.sleep(SOON_S / 10)
            resumed = asyncio.create_task(runtime.resume("r", pipeline=pipeline))
            await asyncio.sleep(SOON_S)
            store.go_on.set()
            assert (await resumed).status == "ok"
        records = store.load("r").records
        kept = [value_of(record) for record in late(records)]
        assert sorted(kept, key=repr) == [[7, 0], [7, 1]]
        assert sorted(late_events(events.drain()), key=repr) == [("s0", 1), ("s1", 1)]

    asyncio.run(main())


def test_a_late_guard_leaves_no_redaction_behind() -> None:
    """
    1. the guard's attempt 1 times out and returns a redaction all the same: late, refused
    2. attempt 2 allows the value, which is released as it is
    """

    @transform
    def draft(text: str) -> str:
        return text

    @guard(timeout=SOON_S, retry=Retry(attempts=2, base_s=0.0))
    async def secrets(ctx: Context, draft: str) -> Decision:
        if ctx.attempt == 1:
            try:
                await asyncio.sleep(PATIENCE_S)
            except asyncio.CancelledError:
                return Redact("[gone]")
        return Allow()

    pipeline = Pipeline("late", [draft, secrets], inputs={"text": str}, outputs=draft)

    async def main() -> None:
        run = await pipeline.run(text="plain")
        assert run.output == "plain"

    asyncio.run(main())
