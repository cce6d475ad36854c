"""Snapshots of many megabytes: there and back bit by bit, in linear time, the loop running on.

What real systems get wrong: one call that encodes everything while nobody else runs, limits met
only in production (Temporal refuses payloads over 2 MB), integers past 64 bits that crash the
encoder, NaN and lone surrogates that come back as something else, and damage that decodes.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

from stageflow import ContractError, Pipeline, transform
from stageflow.contracts import chunks, splitting

from ...history import History
from ...metric import Measured, Metric, share
from ...ratio import ratio_of, slope
from ...sabotage import patched, sabotage
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from .snapshot_costs import Order, measured
from .snapshot_mixes import MIB

ALLOWANCE: Final = 64 * MIB
HARMS: Final = ("bit flipped", "cut")


@transform
def notes(seed: int) -> dict[str, Any]:
    """A value whose stream has several chunks and is small enough to be read ten thousand times."""
    rng = random.Random(seed)
    words = [f"{rng.getrandbits(40):x}" for _ in range(500)]
    return {"notes": [" ".join(rng.choices(words, k=40)) for _ in range(150)], "raw": b"\0" * 999}


LONG_MIB, SHORT_TIMES = 64, 16
"""Below this size one time is so short that there are more rounds, up to so many times as many."""
SMALL: Final = Pipeline("small", [notes], inputs={"seed": int}, outputs=notes)


def load(world: World) -> History:
    """Each size in a process of its own, one after the other; then damage."""
    history = History(world.size)
    sizes = sorted({world.size[name] for name in ("small_mib", "medium_mib", "largest_mib")})
    fresh = multiprocessing.get_context("spawn")
    at_once = (sizes[0], world.size["at_once_mib"])
    for done, mib in enumerate(sizes):
        keys = max(1, world.size["keys"] * mib // sizes[-1])
        order = Order(
            str(world.scratch),
            mib,
            keys,
            world.size["digits"],
            rounds=world.size["rounds"] * min(max(1, LONG_MIB // mib), SHORT_TIMES),
            concurrent=world.size["concurrent"] if mib in at_once else 1,
            seed=world.seed_for("mix", mib),
        )
        world.progress(done, len(sizes) + 1, f"{mib} MiB")
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            found = pool.submit(sabotaged, order, world.sabotage).result()
        history.record("size", mib=mib, keys=keys)
        for kind, events in found.items():
            for event in events:
                history.record(kind, **event)
    asyncio.run(_damage(world, history))
    return history


def sabotaged(order: Order, name: str | None) -> dict[str, list[dict[str, Any]]]:
    """In a process of its own: patches do not cross into it by themselves."""
    with SCENARIO.sabotaged(name):
        return measured(order)


async def _damage(world: World, history: History) -> None:
    """Records `harmed` per kind of damage: how often, and how often it was found."""
    rng = random.Random(world.seed_for("damage"))
    run = await SMALL.run(seed=world.seed_for("notes"))
    parts = [chunk async for chunk in SMALL.dump(run.snapshot)]
    whole = b"".join(parts)
    assert (await SMALL.load([whole])).content_hash == run.snapshot.content_hash
    history.record("target", chunks=len(parts), bytes=len(whole))
    found: Counter[tuple[str, str]] = Counter()
    for number in range(world.size["damages"]):
        harm = HARMS[number % len(HARMS)]
        if harm == "cut":
            data = whole[: rng.randrange(len(whole))]
        else:
            at = rng.randrange(len(whole))
            data = whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
        found[harm, await _outcome(data)] += 1
        if number % 500 == 0:
            world.progress(number, world.size["damages"], "damages")
    for (harm, outcome), times in sorted(found.items()):
        history.record("harmed", harm=harm, outcome=outcome, times=times)
    for harm in HARMS:
        history.fired(harm, sum(times for (each, _), times in found.items() if each == harm))


async def _outcome(data: bytes) -> str:
    try:
        await SMALL.load([data])
    except ContractError as error:
        return error.code
    except Exception as error:  # whatever else a damaged stream leads to is told by its type
        return type(error).__name__
    return "decoded"


def check(history: History) -> Judgement:
    """Judges the worst of the sizes; a size that was not measured decides nothing."""
    timed: dict[int, list[Any]] = defaultdict(list)
    for event in history.of("timed"):
        timed[event.data["mib"]].append(event.data)
    harmed = [event.data for event in history.of("harmed")]
    damages = sum(each["times"] for each in harmed)
    seen = sum(each["times"] for each in harmed if each["outcome"] == "codec.damaged")
    loads = list(history.of("loaded"))
    return Judgement(
        {
            "cost": _worst(timed),
            "slope": slope(
                [
                    (mib, statistics.median(r["subject_s"] for r in rounds))
                    for mib, rounds in timed.items()
                ]
            ),
            "longest_stall": _stall(timed),
            "extra_memory": _memory(history),
            "hash_equal": share(sum(event.data["same"] for event in loads), len(loads)),
            "damage_detected": share(seen, damages),
            "packed": _packed(timed),
        },
        unknown=_undecided(history, timed),
        notes=tuple(_notes(history, timed)),
    )


def _worst(timed: dict[int, list[Any]]) -> Measured:
    ratios = {
        mib: ratio_of([(each["subject_s"], each["floor_s"]) for each in rounds])
        for mib, rounds in timed.items()
    }
    if not ratios or any(each.empty for each in ratios.values()):
        return Measured(math.nan, n=0, note="not timed, or too briefly for the clock")
    mib = max(ratios, key=lambda each: ratios[each].bound or 0.0)
    shown = ", ".join(f"{each} MiB {ratios[each].value:.2f}" for each in sorted(ratios))
    worst = ratios[mib]
    return Measured(worst.value, n=worst.n, bound=worst.bound, note=f"worst of {shown}")


def _stall(timed: dict[int, list[Any]]) -> Measured:
    shares = {
        mib: statistics.median(each["stall_s"] / each["floor_s"] for each in rounds)
        for mib, rounds in timed.items()
    }
    if not shares:
        return Measured(math.nan, n=0, note="not timed")
    shown = ", ".join(f"{mib} MiB {shares[mib]:.1%}" for mib in sorted(shares))
    n = sum(map(len, timed.values()))
    return Measured(max(shares.values()), n=n, note=f"worst of {shown}; medians of the rounds")


def _packed(timed: dict[int, list[Any]]) -> Measured:
    if not timed:
        return Measured(math.nan, n=0, note="not timed")
    mib = max(timed)
    return Measured(timed[mib][-1]["bytes"] / (mib * MIB), n=len(timed[mib]))


def _memory(history: History) -> Measured:
    beyond, shown = [], []
    for event in history.of("memory"):
        mib = event.data["mib"]
        extra = max(event.data["dump"], event.data["load"])
        beyond.append((extra - ALLOWANCE) / (mib * MIB))
        told = (event.data[kind] // MIB for kind in ("dump", "load"))
        shown.append("{} MiB: {} dumping, {} loading".format(mib, *told))
    if not beyond:
        return Measured(math.nan, n=0, note="not measured")
    return Measured(max(0.0, *beyond), n=len(beyond), note="; ".join(shown))


def _undecided(history: History, timed: dict[int, list[Any]]) -> str | None:
    sizes = {history.sizes[name] for name in ("small_mib", "medium_mib", "largest_mib")}
    missing = sorted(sizes - timed.keys())
    if missing:
        return f"not measured: {missing} MiB"
    damages = int(history.total("harmed", "times"))
    if damages < history.sizes["damages"]:
        return f"{damages:,} of {history.sizes['damages']:,} damages were made"
    target = history.last("target")
    if target is None or target.data["chunks"] < 4:
        return "the damaged stream has no two chunks between its ends"
    return None


def _notes(history: History, timed: dict[int, list[Any]]) -> Iterator[str]:
    for mib, rounds in sorted(timed.items()):
        middle = {
            name: statistics.median(each[name] for each in rounds)
            for name in ("subject_s", "floor_s", "stall_s", "chunks", "bytes")
        }
        yield (
            f"{mib} MiB: {middle['subject_s'] * 1e3:.1f} ms of CPU there and back, floor"
            f" {middle['floor_s'] * 1e3:.1f}, longest turn {middle['stall_s'] * 1e3:.2f},"
            f" {middle['chunks']:.0f} chunks of {middle['bytes'] / MIB:.1f} MiB"
        )
    for event in history.of("harmed"):
        data = event.data
        yield f"{data['harm']}: {data['times']:,} {data['outcome']}"


@sabotage(metric="longest_stall")
def whole_buffer_encode_on_the_loop() -> Iterator[None]:
    """A value is encoded, packed and read back in one piece, however large it is."""
    with (
        patched(splitting, "TARGET_MIN", 1 << 40),
        patched(splitting, "TARGET_MAX", 1 << 40),
    ):
        yield


@sabotage(metric="damage_detected")
def checksum_over_the_header_only() -> Iterator[None]:
    """A chunk's checksum covers its head and not what is in it."""
    whole = chunks.checksum

    def of_head(previous: bytes, head: bytes, frame: bytes) -> bytes:
        return whole(previous, head, b"")

    with patched(chunks, "checksum", of_head):
        yield


SCENARIO = Scenario(
    row="CORE-002",
    claim=(
        "contexts up to 512 MiB round-trip bit-identically, in linear time, without freezing the"
        " loop, and no damaged byte ever decodes."
    ),
    sizes=Sizes(
        quick={
            "small_mib": 1,
            "medium_mib": 16,
            "largest_mib": 128,
            "at_once_mib": 1,
            "keys": 1_000_000,
            "digits": 10_000,
            "rounds": 3,
            "concurrent": 8,
            "damages": 10_000,
        },
        full={
            "small_mib": 1,
            "medium_mib": 128,
            "largest_mib": 512,
            "at_once_mib": 512,
            "keys": 1_000_000,
            "digits": 10_000,
            "rounds": 5,
            "concurrent": 8,
            "damages": 10_000,
        },
        fixed=("digits", "rounds", "concurrent", "at_once_mib"),
    ),
    metrics=(
        Metric(
            "cost",
            "<=",
            1.5,
            "x",
            doc="CPU of dump and load, against one call each of msgspec and zstd; worst size",
        ),
        Metric("slope", "<=", 1.1, doc="of CPU over size, log-log"),
        Metric(
            "longest_stall",
            "<=",
            0.05,
            doc="longest turn of the loop's thread, as a share of the floor's time; worst size",
        ),
        Metric(
            "extra_memory",
            "<=",
            1.25,
            "x payload",
            doc="resident bytes beside the values before and after, less 64 MiB; worst size",
        ),
        Metric(
            "hash_equal",
            "==",
            1.0,
            doc="loads whose snapshot has the same content hash, and dumps the same bytes",
        ),
        Metric(
            "damage_detected",
            "==",
            1.0,
            doc="flipped bits and cuts that were refused as damage: 10,000/10,000",
        ),
        Metric(
            "packed", "<=", 1.0, "x payload", gate=False, doc="bytes of the stream, largest size"
        ),
    ),
    faults=HARMS,
    sabotages=(whole_buffer_encode_on_the_loop, checksum_over_the_header_only),
    components=("python:zstandard",),
    load=load,
    check=check,
    wall_limit_s={"quick": 300.0, "full": 2 * 3_600.0},
    memory_limit_bytes=20 * 1024**3,
)
