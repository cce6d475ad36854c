"""The simulated journal: acknowledged means durable, under every schedule, crash and owner."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stageflow.journal.store import RunHeader
from stageflow.model.errors import JournalError
from stageflow.model.record import Record, RecordType
from stageflow.sim import DiskFailure, DiskFaults, Sim, SimJournal, simulate

SEEDS = range(200)


def header(run: str, *, tenant: str = "t", created: float = 1.0) -> RunHeader:
    return RunHeader(run, tenant, "desk", None, None, None, None, created, {"a": "f"}, 7)


def started() -> tuple[Record, ...]:
    return (Record(RecordType.RUN_STARTED, 1, payload=b"inputs"),)


def outcome(seq: int, node: str = "a", *, revision: int = 0, payload: bytes = b"v") -> Record:
    return Record(
        RecordType.OUTCOME, seq, node, revision, 1, seq, data={"accepted": True}, payload=payload
    )


def intent(seq: int) -> Record:
    return Record(RecordType.INTENT, seq, "a", 0, 1, seq)


async def refused(asked: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(JournalError) as caught:
        await asked
    return caught.value.code


def run_all(main: Callable[[Sim], Coroutine[Any, Any, Any]], seeds: range = SEEDS) -> list[Any]:
    results = [simulate(main, seed=seed) for seed in seeds]
    assert all(result.leftover == () and result.unhandled == () for result in results)
    return [result.value for result in results]


def test_what_is_appended_is_loaded() -> None:
    records = (
        Record(
            RecordType.OUTCOME, 2, "ä", 3, 2, 2**62, -1.5,
            {"accepted": True, "deep": [1, None, {"k": "\ud800 \x00"}], "n": 10**40},
            "c0ffee", ("pii", "ü"), "key", bytes(range(256)),
        ),
        Record(RecordType.LATE, 3, payload=b""),
        Record(RecordType.RUN_ENDED, 4, data={"status": "ok", "reason": "r"}),
    )  # fmt: skip

    async def main(sim: Sim) -> None:
        journal = SimJournal(sim)
        assert await journal.create(header("r"), started()) == 1
        await journal.append("r", 1, records)
        for _ in range(2):
            loaded = await journal.load("r")
            assert loaded.header == header("r") and loaded.epoch == 1
            assert loaded.records == (*started(), *records)
            assert (loaded.status, loaded.reason) == ("ok", "r")
            journal.crash()
        await journal.close()

    run_all(main, range(50))


def test_every_check_of_the_stores_is_made() -> None:
    async def main(sim: Sim) -> None:
        journal = SimJournal(sim)
        other = journal.as_owner("other")
        await journal.create(header("r"), started())
        await journal.append("r", 1, (outcome(2),))
        append = journal.append
        assert await refused(journal.create(header("r"), started())) == "journal.run_exists"
        assert await refused(append("r", 1, (outcome(3),))) == "journal.already_accepted"
        assert await refused(append("r", 1, (intent(5),))) == "journal.out_of_order"
        assert await refused(append("r", 2, (intent(3),))) == "journal.stale_owner"
        assert await refused(append("x", 1, (intent(3),))) == "journal.unknown_run"
        assert await refused(journal.load("x")) == "journal.unknown_run"
        assert await refused(other.claim("x")) == "journal.unknown_run"
        assert await refused(other.claim("r")) == "journal.run_is_live"
        bad = intent(3)._replace(data={"object": object()})
        assert await refused(append("r", 1, (bad,))) == "journal.bad_record"
        assert len((await journal.load("r")).records) == 2
        journal.crash()
        assert len((await journal.load("r")).records) == 2

    run_all(main, range(50))


def test_acknowledged_appends_survive_every_crash() -> None:
    """
    1. five runs append side by side, at once or after a while
    2. the machine loses power at a random moment, perhaps within an fsync
    3. what was acknowledged is there; what was not is there whole, or not at all
    """

    async def main(sim: Sim) -> tuple[int, int, int]:
        journal = SimJournal(sim)
        acknowledged: dict[str, int] = {}
        asked: dict[str, int] = {}

        async def work(run: str) -> None:
            asked[run] = 1
            await journal.create(header(run), started())
            acknowledged[run] = 1
            for step in range(10):
                first = acknowledged[run] + 1
                count = sim.rng.randint(1, 3)
                asked[run] = first + count - 1
                await journal.append(
                    run,
                    1,
                    tuple(
                        outcome(
                            seq, revision=seq, payload=sim.rng.randbytes(sim.rng.randint(0, 900))
                        )
                        for seq in range(first, first + count)
                    ),
                )
                acknowledged[run] = first + count - 1
                await asyncio.sleep(sim.rng.choice((0, 0.001 * step)))

        async def power_loss() -> None:
            await asyncio.sleep(sim.rng.random() * 0.02)
            journal.crash()

        tasks = [asyncio.create_task(work(f"run{number}")) for number in range(5)]
        await power_loss()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(
            isinstance(error, asyncio.CancelledError | JournalError | None) for error in ended
        )
        ahead = 0
        for run, count in asked.items():
            if run not in acknowledged:
                continue
            loaded = await journal.load(run)
            found = len(loaded.records)
            assert found in (acknowledged[run], count)
            ahead += found > acknowledged[run]
            later = journal.as_owner("second")
            claimed = await later.claim(run)
            assert claimed.epoch == 2 and len(claimed.records) == found + 1
            await later.append(run, 2, (intent(found + 2),))
        return len(acknowledged), ahead, len(journal.dropped)

    values = run_all(main, range(500))
    # The load happened: crashes met runs, torn tails, and writes that were there unacknowledged.
    assert sum(runs for runs, _, _ in values) > 1_000
    assert sum(ahead for _, ahead, _ in values) > 20
    assert sum(dropped for _, _, dropped in values) > 50


def test_one_flush_serves_all_who_wait() -> None:
    async def main(sim: Sim) -> float:
        journal = SimJournal(sim, sim.disk(faults=DiskFaults(fsync_s=(1.0, 1.0))))
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(journal.create(header(f"r{number}"), started()))
        return sim.now()

    # The first asks alone or with others; whoever comes during its flush shares the second.
    assert set(run_all(main)) == {2.0}


def test_appends_of_one_run_keep_their_order() -> None:
    async def main(sim: Sim) -> None:
        journal = SimJournal(sim)
        await journal.create(header("r"), started())
        appends = [journal.append("r", 1, (intent(seq),)) for seq in range(2, 30)]
        tasks = []
        for append in appends:
            tasks.append(asyncio.create_task(append))
            # Half a fsync's least time: the task has begun, and the device works.
            await (tasks[-1] if sim.rng.random() < 0.2 else asyncio.sleep(0.000_1))
        await asyncio.gather(*tasks)
        assert [record.seq for record in (await journal.load("r")).records] == list(range(1, 30))

    run_all(main)


def test_a_cancelled_append_is_written_whole_or_not_at_all() -> None:
    async def main(sim: Sim) -> int:
        journal = SimJournal(sim)
        await journal.create(header("r"), started())
        task = asyncio.create_task(journal.append("r", 1, (intent(2), intent(3))))
        await asyncio.sleep(sim.rng.choice((0, 0.000_1, 0.001)))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await journal.close()
        return len((await journal.load("r")).records)

    assert set(run_all(main)) == {1, 3}


@pytest.mark.parametrize("operation", ["write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_fails_its_batch_and_nothing_else(operation: Any, code: int) -> None:
    async def main(sim: Sim) -> None:
        faults = DiskFaults(failures=(DiskFailure(operation, at=2, errno=code, times=2),))
        journal = SimJournal(sim, sim.disk(faults=faults))
        await journal.create(header("r"), started())
        for _ in range(2):
            with pytest.raises(JournalError) as caught:
                await journal.append("r", 1, (outcome(2),))
            assert caught.value.code == "journal.write_failed"
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == code
            assert len((await journal.load("r")).records) == 1
        await journal.append("r", 1, (outcome(2),))
        journal.crash()
        assert len((await journal.load("r")).records) == 2

    run_all(main)


def test_nothing_is_read_before_it_is_durable() -> None:
    async def main(sim: Sim) -> None:
        journal = SimJournal(sim, sim.disk(faults=DiskFaults(fsync_s=(1.0, 1.0))))
        await journal.create(header("r"), started())
        task = asyncio.create_task(journal.append("r", 1, (intent(2),)))
        await asyncio.sleep(0.5)
        assert len((await journal.load("r")).records) == 1
        await task
        assert len((await journal.load("r")).records) == 2

    run_all(main, range(50))


def test_damage_is_never_decoded() -> None:
    """Any flipped bits in acknowledged frames: a load refuses, at once and after a reboot."""

    async def main(sim: Sim) -> None:
        journal = SimJournal(sim)
        await journal.create(header("r"), started())
        await journal.append("r", 1, (outcome(2, payload=b"x" * 300),))
        journal.disk.flip("journal", sim.rng.randint(1, 8))
        assert await refused(journal.load("r")) == "journal.damaged"
        assert await refused(journal.runs()) == "journal.damaged"
        journal.crash()
        assert await refused(journal.load("r")) == "journal.damaged"
        later = journal.as_owner("later")
        assert await refused(later.append("r", 1, (intent(3),))) == "journal.damaged"
        reopened = SimJournal(sim, journal.disk)
        assert await refused(reopened.claim("r")) == "journal.damaged"

    run_all(main, range(1_000))


def test_a_run_is_claimed_only_from_the_dead() -> None:
    """
    1. a owns the run and dies; its process goes on for a while, as a zombie
    2. b claims; b lives, so c is refused
    3. the zombie's append carries the old epoch and is refused
    4. a new process under a's old name is another process, and alive
    """

    async def main(sim: Sim) -> None:
        journal = SimJournal(sim)
        a, b, c = (journal.as_owner(name) for name in "abc")
        await a.create(header("r"), started())
        assert await refused(b.claim("r")) == "journal.run_is_live"
        assert (await a.runs())[0].live is True
        journal.kill("a")
        assert (await a.runs())[0].live is False
        await a.append("r", 1, (intent(2),))
        loaded = await b.claim("r")
        assert loaded.epoch == 2 and loaded.records[-1].type is RecordType.CLAIMED
        assert await refused(c.claim("r")) == "journal.run_is_live"
        assert await refused(a.append("r", 1, (intent(4),))) == "journal.stale_owner"
        again = journal.as_owner("a")
        assert again.owner != a.owner and again.owner.is_alive() and not a.owner.is_alive()
        assert journal.as_owner("a").owner == again.owner
        journal.kill("b")
        assert (await again.claim("r")).epoch == 3
        assert await refused(c.claim("r")) == "journal.run_is_live"
        journal.crash()
        assert not again.owner.is_alive()
        assert (await c.load("r")).epoch == 3
        assert (await journal.as_owner("d").claim("r")).epoch == 4
        journal.kill("nobody")

    run_all(main)


def test_a_run_that_failed_goes_on_when_it_may_be_rerun() -> None:
    async def main(sim: Sim) -> None:
        journal = SimJournal(sim)
        await journal.create(header("r"), started())
        ended = Record(RecordType.RUN_ENDED, 2, data={"status": "failed", "reason": "x"})
        await journal.append("r", 1, (ended,))
        other = journal.as_owner("other")
        assert (await other.claim("r")).epoch == 1
        loaded = await other.claim("r", rerun=("a",))
        assert loaded.epoch == 2 and loaded.records[-1].data["rerun"] == ["a"]
        assert await refused(journal.claim("r")) == "journal.run_is_live"
        journal.crash()
        again = await journal.load("r")
        assert (again.epoch, again.records) == (2, loaded.records)

    run_all(main, range(50))


def test_a_power_loss_leaves_no_zombies() -> None:
    async def main(sim: Sim) -> None:
        journal = SimJournal(sim)
        killed = journal.as_owner("killed")
        journal.kill("killed")
        reborn = journal.as_owner("killed")
        await journal.create(header("r"), started())
        journal.crash()
        for view in (journal, killed, reborn):
            assert await refused(view.append("r", 1, (intent(2),))) == "journal.write_failed"
            assert await refused(view.claim("r")) == "journal.write_failed"
            assert len((await view.load("r")).records) == 1
        after = journal.as_owner("main")
        assert (await after.claim("r")).epoch == 2

    run_all(main, range(20))


def test_of_two_claims_at_once_one_wins() -> None:
    async def main(sim: Sim) -> str:
        journal = SimJournal(sim)
        a, b, c = (journal.as_owner(name) for name in "abc")
        await a.create(header("r"), started())
        journal.kill("a")
        first, second = await asyncio.gather(b.claim("r"), c.claim("r"), return_exceptions=True)
        errors = [each for each in (first, second) if isinstance(each, JournalError)]
        assert [error.code for error in errors] == ["journal.run_is_live"]
        assert (await a.load("r")).epoch == 2
        journal.crash()
        assert (await a.load("r")).epoch == 2
        return "b" if isinstance(second, JournalError) else "c"

    assert set(run_all(main)) == {"b", "c"}


def test_runs_are_listed_newest_first_by_tenant() -> None:
    async def main(sim: Sim) -> None:
        journal = SimJournal(sim)
        for number in range(6):
            tenant = "even" if number % 2 == 0 else "odd"
            await journal.create(header(f"r{number}", tenant=tenant, created=number), started())
        listed = await journal.runs(limit=3)
        assert [each.header.run for each in listed] == ["r5", "r4", "r3"]
        listed = await journal.runs(tenant="even")
        assert [each.header.run for each in listed] == ["r4", "r2", "r0"]

    run_all(main, range(20))


def test_a_write_that_a_crash_cut_off_says_so() -> None:
    async def main(sim: Sim) -> None:
        journal = SimJournal(sim)
        task = asyncio.create_task(journal.create(header("r"), started()))
        await asyncio.sleep(0.000_1)
        journal.crash()
        assert await refused(_awaited(task)) == "journal.write_failed"
        await asyncio.sleep(1)

    run_all(main)


async def _awaited(task: asyncio.Task[int]) -> int:
    return await task


def test_the_journal_is_deterministic() -> None:
    async def main(sim: Sim) -> bytes:
        journal = SimJournal(sim)
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(journal.create(header(f"r{number}"), started()))
        journal.crash()
        return journal.disk.read("journal")

    for seed in range(20):
        one, two = simulate(main, seed=seed), simulate(main, seed=seed)
        assert (one.value, one.trace_hash) == (two.value, two.trace_hash)
