"""A snapshot of 100,000 records, 98 MB, dumped and loaded, beside a call each of msgspec and zstd.

    python benchmarks/snapshot_streams.py [ROUNDS]

Ratios of CPU time, both sides taking turns; the longest turn is how long the loop's thread worked
while nobody else could run.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zstandard

from stageflow import Pipeline, transform

RECORDS = 100_000
LETTERS = "etaoin shrdlu cmfwyp vbgkqj"


def records() -> list[dict[str, Any]]:
    """Records of about 980 bytes as MessagePack."""
    rng = random.Random(7)
    texts = ["".join(rng.choices(LETTERS, k=215)) for _ in range(5_000)]
    return [
        {
            "id": number,
            "name": f"record {number}",
            "score": rng.random(),
            "tags": rng.sample(["red", "green", "blue", "black", "white"], 3),
            "text": " ".join(rng.choices(texts, k=4)),
            "nested": {"a": [1, 2, 3], "b": {"ok": True, "none": None}},
        }
        for number in range(RECORDS)
    ]


@transform
def context() -> list[dict[str, Any]]:
    """The records, as a stage's output."""
    return records()


DESK = Pipeline("records", [context], outputs=context)


def floor(value: Any) -> tuple[float, float, int]:
    """CPU seconds of writing and of reading, and bytes."""
    started = time.thread_time()
    data = zstandard.ZstdCompressor(level=3).compress(msgspec.msgpack.encode(value))
    written = time.thread_time()
    back = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data))
    read = time.thread_time()
    del back
    return written - started, read - written, len(data)


async def stream(snapshot: Any) -> tuple[float, float, float, int]:
    """The same of a snapshot's stream, and CPU seconds of the longest turn."""
    longest, over = 0.0, False

    async def beat() -> None:
        nonlocal longest
        last = time.thread_time()
        while not over:
            await asyncio.sleep(0)
            longest, last = max(longest, time.thread_time() - last), time.thread_time()

    beating = asyncio.create_task(beat())
    started = time.thread_time()
    chunks = [chunk async for chunk in DESK.dump(snapshot)]
    written = time.thread_time()
    back = await DESK.load(chunks)
    read = time.thread_time()
    over = True
    await beating
    del back  # what it takes to free all of it is no part of loading
    return written - started, read - written, longest, sum(map(len, chunks))


async def main(rounds: int) -> None:
    """Prints medians."""
    value = records()
    run = await DESK.run()
    rows = []
    for _ in range(rounds + 1):
        gc.collect()
        least = floor(value)
        gc.collect()
        rows.append((*least, *await stream(run.snapshot)))
    rows = rows[1:]
    size = len(msgspec.msgpack.encode(value)) / 1e6

    def middle(of: Callable[[Any], float]) -> float:
        return statistics.median(map(of, rows))

    wrote, took, longest = (middle(lambda row, n=n: row[n]) for n in (0, 1, 5))
    dumped, loaded = (middle(lambda row, n=n: row[n]) for n in (3, 4))
    ratio = middle(lambda row: (row[3] + row[4]) / (row[0] + row[1]))
    share = middle(lambda row: row[5] / (row[0] + row[1]))
    print(f"{RECORDS:,} records, {size:.0f} MB, in an output; medians of {rounds} rounds")
    print(f"  floor         write {wrote:.2f} s, read {took:.2f} s")
    print(f"  snapshot      dump  {dumped:.2f} s, load {loaded:.2f} s")
    print(f"  of the floor  {ratio:.2f}, goal 1.5; bytes {middle(lambda r: r[6] / r[2]):.2f}")
    print(f"  longest turn  {longest * 1e3:.1f} ms, {share:.1%} of the floor's time, goal 5%")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
