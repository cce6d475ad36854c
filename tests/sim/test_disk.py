"""The simulated disk: what fsync promised survives, and the rest may be anything."""

from __future__ import annotations

import asyncio
import errno

import pytest

from stageflow.sim import DiskFailure, DiskFaults, Sim, SimDisk, simulate

SEEDS = range(300)


def test_synced_bytes_survive_every_crash() -> None:
    async def main(sim: Sim) -> None:
        disk, synced = sim.disk(), b""
        for number in range(10):
            disk.write("log", bytes([number]) * sim.rng.randint(1, 1_500))
            if sim.rng.random() < 0.5:
                await disk.fsync("log")
                synced = disk.read("log")
            if sim.rng.random() < 0.5:
                disk.crash()
                assert disk.read("log")[: len(synced)] == synced
                disk.truncate("log", len(synced))
        assert disk.promised("log") == len(synced)

    for seed in SEEDS:
        simulate(main, seed=seed)


def test_unsynced_bytes_may_be_kept_cut_torn_or_garbage() -> None:
    written = bytes(range(1, 256)) * 20

    def left(seed: int) -> str:
        async def main(sim: Sim) -> str:
            disk = sim.disk()
            disk.write("log", written)
            disk.crash()
            return _kind(disk.read("log"), written)

        return simulate(main, seed=seed).value

    assert {left(seed) for seed in SEEDS} == {"nothing", "all", "prefix", "garbage", "sectors"}


def _kind(found: bytes, written: bytes) -> str:
    if not found:
        return "nothing"
    if found == written:
        return "all"
    if written.startswith(found):
        return "prefix"
    size = 512
    pieces = range(0, len(written), size)
    same = [found[at : at + size] == written[at : at + size] for at in pieces]
    return (
        "sectors"
        if len(found) == len(written) and same.count(False) < same.count(True) + len(same) // 2
        else "garbage"
    )


def test_a_torn_write_is_cut_at_any_byte() -> None:
    async def main(sim: Sim) -> int:
        disk = sim.disk()
        disk.write("log", b"x" * 20)
        disk.crash()
        return len(disk.read("log").rstrip(b"\0"))

    assert {simulate(main, seed=seed).value for seed in range(600)} >= set(range(21))


def test_what_was_written_after_an_fsync_began_is_not_covered() -> None:
    async def main(sim: Sim) -> None:
        disk = sim.disk()
        disk.write("log", b"a" * 10)
        syncing = asyncio.create_task(disk.fsync("log"))
        await asyncio.sleep(0)
        await asyncio.sleep(0.000_1)
        disk.write("log", b"b" * 10)
        await syncing
        assert disk.promised("log") == 10

    for seed in range(50):
        simulate(main, seed=seed)


def test_what_was_written_after_a_truncation_is_not_covered_either() -> None:
    async def main(sim: Sim) -> None:
        disk = sim.disk()
        disk.write("log", b"a" * 10)
        syncing = disk.start_fsync("log")
        disk.truncate("log", 4)
        disk.write("log", b"b" * 10)
        await syncing
        assert disk.promised("log") == 4

    simulate(main, seed=1)


def test_fsync_takes_its_drawn_time_and_outlives_its_caller() -> None:
    async def main(sim: Sim) -> float:
        disk = sim.disk(faults=DiskFaults(fsync_s=(1.0, 2.0)))
        disk.write("log", b"a")
        task = asyncio.create_task(disk.fsync("log"))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.sleep(5)
        assert disk.promised("log") == 1 and task.cancelled()
        started = sim.now()
        await disk.fsync("log")
        return sim.now() - started

    times = [simulate(main, seed=seed).value for seed in range(50)]
    assert all(1.0 <= time <= 2.0 for time in times) and len(set(times)) == 50


def test_an_fsync_in_flight_fails_with_the_crash() -> None:
    async def main(sim: Sim) -> None:
        disk = sim.disk()
        disk.write("log", b"a")
        syncing = disk.start_fsync("log")
        disk.crash()
        with pytest.raises(OSError, match="simulated fsync"):
            await syncing
        assert disk.promised("log") == 0

    simulate(main, seed=1)


def test_a_failed_fsync_is_not_mended_by_a_later_one() -> None:
    """
    1. "lost" is written and its fsync fails: the bytes are still read, and are on no platter
    2. "kept" is written and its fsync succeeds
    3. after the crash "lost" is zeros and "kept" is there
    """

    async def main(sim: Sim) -> None:
        disk = sim.disk()
        disk.write("log", b"lost")
        disk.fail("fsync")
        with pytest.raises(OSError) as caught:
            await disk.fsync("log")
        assert caught.value.errno == errno.EIO and disk.read("log") == b"lost"
        disk.write("log", b"kept")
        await disk.fsync("log")
        disk.crash()
        assert disk.read("log") == b"\0\0\0\0kept"

    for seed in range(20):
        simulate(main, seed=seed)


def test_failures_come_on_schedule() -> None:
    faults = DiskFaults(
        failures=(
            DiskFailure("write", at=2, errno=errno.ENOSPC, times=2),
            DiskFailure("fsync", at=1),
        )
    )

    async def main(sim: Sim) -> list[int | None]:
        disk = sim.disk(faults=faults)
        met: list[int | None] = []
        for _ in range(4):
            try:
                disk.write("log", b"abc")
                met.append(None)
            except OSError as error:
                met.append(error.errno)
        for _ in range(2):
            try:
                await disk.fsync("log")
                met.append(None)
            except OSError as error:
                met.append(error.errno)
        assert 6 <= disk.size("log") <= 12
        return met

    for seed in range(50):
        assert simulate(main, seed=seed).value == [
            None, errno.ENOSPC, errno.ENOSPC, None, errno.EIO, None,
        ]  # fmt: skip


def test_a_full_disk_keeps_at_most_what_fits() -> None:
    async def main(sim: Sim) -> int:
        disk = sim.disk(faults=DiskFaults(capacity_bytes=10))
        disk.write("a", b"x" * 6)
        with pytest.raises(OSError) as caught:
            disk.write("b", b"y" * 6)
        assert caught.value.errno == errno.ENOSPC
        disk.truncate("a", 0)
        disk.truncate("b", 0)
        disk.write("b", b"y" * 10)
        return disk.size("b")

    for seed in range(50):
        assert simulate(main, seed=seed).value == 10


def test_flips_change_that_many_bits() -> None:
    async def main(sim: Sim) -> None:
        disk = sim.disk()
        disk.write("log", bytes(100))
        offsets = disk.flip("log", 7)
        found = disk.read("log")
        assert sum(byte.bit_count() for byte in found) == 7
        assert {at for at, byte in enumerate(found) if byte} == set(offsets)
        assert disk.flip("empty", 3) == ()

    for seed in range(50):
        simulate(main, seed=seed)


def test_disks_are_told_apart_by_name_and_equal_by_seed() -> None:
    async def main(sim: Sim) -> tuple[bytes, ...]:
        assert sim.disk("a") is sim.disk("a") is not sim.disk("b")
        for name in "ab":
            sim.disk(name).write("log", b"x" * 5_000)
            sim.disk(name).crash()
        assert sim.disk("a").files() == ("log",)
        return tuple(sim.disk(name).read("log") for name in "ab")

    runs = [simulate(main, seed=seed).value for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2] and any(a != b for a, b in runs)


def test_a_disk_is_usable_without_a_simulation() -> None:
    disk = SimDisk(seed=1, faults=DiskFaults())
    disk.write("log", b"abc")
    assert disk.read("log") == b"abc"
