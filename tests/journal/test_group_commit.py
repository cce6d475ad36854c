"""Group commit: what is awaited is durable, order is kept, bounds hold, nothing hangs."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from stageflow.journal.journal import GroupCommit, Journal
from stageflow.journal.memory import MemoryStore
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import Append, Owner, RunHeader
from stageflow.model.errors import JournalError
from stageflow.model.record import Record, RecordType


def header(run: str = "run", tenant: str = "default") -> RunHeader:
    return RunHeader(run, tenant, "desk", None, None, None, None, 0.0, {}, 0)


def step(seq: int, payload: bytes = b"") -> tuple[Record, ...]:
    return (Record(RecordType.STEP, seq, payload=payload),)


class HeldStore(MemoryStore):
    """A store whose commits wait until they are let go, as on a slow disk."""

    def __init__(self) -> None:
        super().__init__()
        self.may_commit = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)
        self.batches: list[list[Append]] = []
        self.failure: Exception | None = None

    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        self.batches.append(list(batch))
        self.has_begun.release()
        self.may_commit.acquire()
        if self.failure is not None:
            raise self.failure
        return super().commit(batch)


@pytest.fixture
async def store() -> HeldStore:
    return HeldStore()


@pytest.fixture
async def journal(store: HeldStore) -> AsyncIterator[GroupCommit]:
    opened = GroupCommit(store, queue_max=5)
    yield opened
    store.may_commit.release(1000)
    await opened.close()


async def begun(store: HeldStore) -> None:
    """Until the writer is inside a commit; bounded, so that a lost wake-up fails the test."""
    assert await asyncio.to_thread(store.has_begun.acquire, timeout=10.0)


async def turns(count: int = 10) -> None:
    """Let tasks that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_group_commit_is_a_journal(journal: GroupCommit, store: HeldStore) -> None:
    store.may_commit.release(1000)
    as_journal: Journal = journal
    assert await as_journal.create(header(), step(1)) == 1
    await as_journal.append("run", 1, step(2))
    assert [record.seq for record in (await as_journal.load("run")).records] == [1, 2]
    assert (await as_journal.claim("run")).epoch == 2
    assert [line.header.run for line in await as_journal.runs(tenant="default")] == ["run"]
    with pytest.raises(JournalError) as caught:
        await as_journal.append("run", 1, step(4))
    assert caught.value.code == "journal.stale_owner"


async def test_a_lone_append_is_flushed_at_once_and_answered_when_durable(
    journal: GroupCommit, store: HeldStore
) -> None:
    await journal.create(header(), step(1))
    waiting = asyncio.create_task(journal.append("run", 1, step(2)))
    await begun(store)
    await turns()
    assert not waiting.done(), "not before the commit has ended"
    store.may_commit.release()
    await waiting
    assert len((await journal.load("run")).records) == 2


async def test_what_arrives_while_a_flush_runs_goes_into_the_next_one(store: HeldStore) -> None:
    journal = GroupCommit(store)
    runs = [f"run{number}" for number in range(50)]
    for run in ("first", *runs):
        await journal.create(header(run), step(1))
    first = asyncio.create_task(journal.append("first", 1, step(2)))
    await begun(store)
    others = [asyncio.create_task(journal.append(run, 1, step(2))) for run in runs]
    await turns()
    store.may_commit.release(2)
    await first
    for other in others:
        await other
    assert [len(batch) for batch in store.batches] == [1, 50]
    await journal.close()


async def test_one_runs_appends_keep_their_order_and_a_refusal_is_its_own(
    journal: GroupCommit, store: HeldStore
) -> None:
    store.may_commit.release(1000)
    await journal.create(header(), step(1))
    await journal.create(header("other"), step(1))
    answers = await asyncio.gather(
        *(journal.append("run", 1, step(seq)) for seq in range(2, 40)),
        journal.append("other", 7, step(2)),
        journal.append("other", 1, step(2)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if answer is not None]
    assert [error.code for error in refused if isinstance(error, JournalError)] == [
        "journal.stale_owner"
    ]
    assert len(refused) == 1
    assert len((await journal.load("run")).records) == 39


async def test_batches_have_a_bound_in_bytes(store: HeldStore) -> None:
    journal = GroupCommit(store, batch_bytes_max=10_000)
    await journal.create(header(), step(1))
    store.may_commit.release(1000)
    await asyncio.gather(
        *(journal.append("run", 1, step(seq, bytes(4000))) for seq in range(2, 20))
    )
    assert max(len(batch) for batch in store.batches) <= 3
    await journal.close()


async def test_a_full_queue_makes_callers_wait_in_order(
    journal: GroupCommit, store: HeldStore
) -> None:
    await journal.create(header(), step(1))
    tasks = [asyncio.create_task(journal.append("run", 1, step(2)))]
    await begun(store)
    tasks += [asyncio.create_task(journal.append("run", 1, step(seq))) for seq in range(3, 32)]
    await turns()
    assert journal.queued == 5, "the queue is full, not longer"
    store.may_commit.release(1000)
    for task in tasks:
        await task
    assert [record.seq for record in (await journal.load("run")).records] == list(range(1, 32))
    assert max(len(batch) for batch in store.batches) <= 5


async def test_an_append_cancelled_outside_a_full_queue_is_never_written(
    journal: GroupCommit, store: HeldStore
) -> None:
    await journal.create(header(), step(1))
    tasks = [asyncio.create_task(journal.append("run", 1, step(2)))]
    await begun(store)
    tasks += [asyncio.create_task(journal.append("run", 1, step(seq))) for seq in range(3, 8)]
    await turns()
    outside = asyncio.create_task(journal.append("run", 1, step(8, b"cancelled")))
    await turns()
    outside.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outside
    store.may_commit.release(1000)
    for task in tasks:
        await task
    await journal.append("run", 1, step(8, b"kept"))
    assert (await journal.load("run")).records[-1].payload == b"kept"


async def test_a_cancelled_append_that_was_queued_hurts_nobody(
    journal: GroupCommit, store: HeldStore
) -> None:
    await journal.create(header(), step(1))
    waiting = asyncio.create_task(journal.append("run", 1, step(2)))
    await begun(store)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    store.may_commit.release(1000)
    await journal.append("run", 1, step(3))
    assert len((await journal.load("run")).records) == 3, "it was written all the same"


async def test_a_failing_store_fails_its_batch_and_only_that(
    journal: GroupCommit, store: HeldStore
) -> None:
    for run in ("one", "two"):
        await journal.create(header(run), step(1))
    store.failure = OSError(28, "No space left on device")
    tasks = [asyncio.create_task(journal.append(run, 1, step(2))) for run in ("one", "two")]
    store.may_commit.release(2)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, JournalError)
        assert answer.code == "journal.write_failed"
        assert answer.__cause__ is store.failure
    assert answers[0] is not answers[1], "each has its own traceback"
    store.failure = None
    store.may_commit.release(1000)
    await journal.append("one", 1, step(2))


async def test_a_stores_own_error_keeps_its_code(journal: GroupCommit, store: HeldStore) -> None:
    await journal.create(header(), step(1))
    store.failure = JournalError("journal.damaged", "the journal is not what was written")
    store.may_commit.release()
    with pytest.raises(JournalError) as caught:
        await journal.append("run", 1, step(2))
    assert caught.value.code == "journal.damaged"
    store.failure = None


async def test_close_writes_what_was_appended_before_it(store: HeldStore) -> None:
    journal = GroupCommit(store, queue_max=3)
    await journal.create(header(), step(1))
    tasks = [asyncio.create_task(journal.append("run", 1, step(seq))) for seq in range(2, 12)]
    await begun(store)
    closing = [asyncio.create_task(journal.close()) for _ in range(2)]
    await turns()
    with pytest.raises(JournalError) as caught:
        await journal.append("run", 1, step(12))
    assert caught.value.code == "journal.closed"
    store.may_commit.release(1000)
    for task in (*tasks, *closing):
        await task
    await journal.close()
    assert len(store.load("run").records) == 11
    assert not [thread for thread in threading.enumerate() if thread.name == "stageflow-journal"]


async def test_a_journal_that_was_never_used_closes_its_store(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db")
    await GroupCommit(store).close()
    with pytest.raises(JournalError):
        store.load("run")


def test_a_loop_that_is_gone_does_not_stop_the_writer() -> None:
    """
    1. A first loop queues an append and is closed while the commit runs.
    2. The commit ends; its answer has nowhere to go.
    3. A second loop appends through the same journal.
    """
    store = HeldStore()
    journal = GroupCommit(store)
    first = asyncio.new_event_loop()
    first.run_until_complete(journal.create(header(), step(1)))
    left = first.create_task(journal.append("run", 1, step(2)))
    first.run_until_complete(asyncio.sleep(0))
    assert store.has_begun.acquire(timeout=10.0)
    left.cancel()
    first.run_until_complete(asyncio.gather(left, return_exceptions=True))
    first.run_until_complete(first.shutdown_default_executor())
    first.close()
    store.may_commit.release(1000)

    async def second() -> None:
        await journal.append("run", 1, step(3))
        assert len((await journal.load("run")).records) == 3
        await journal.close()

    asyncio.run(second())


def test_several_loops_share_a_journal(tmp_path: Path) -> None:
    journal = GroupCommit(SQLiteStore(tmp_path / "runs.db"))
    failures: list[BaseException] = []

    async def one(name: str) -> None:
        await journal.create(header(name), step(1))
        for seq in range(2, 50):
            await journal.append(name, 1, step(seq))

    def live(name: str) -> None:
        try:
            asyncio.run(one(name))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=live, args=(f"run{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number in range(4):
        loaded = asyncio.run(journal.load(f"run{number}"))
        assert len(loaded.records) == 49
    asyncio.run(journal.close())


def test_a_forked_child_has_a_writer_and_an_owner_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    journal = GroupCommit(SQLiteStore(path))
    asyncio.run(journal.create(header("parent"), step(1)))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(journal.create(header("child"), step(1)))
            asyncio.run(journal.append("child", 1, step(2)))
            assert journal.owner == Owner.this_process()
            asyncio.run(journal.close())
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    asyncio.run(journal.append("parent", 1, step(2)))
    assert len(asyncio.run(journal.load("child")).records) == 2
    asyncio.run(journal.close())
