"""Whether turn 1,000 of a session costs what turn 10 did, and what a session takes on disk.

    python benchmarks/session_turns.py [--turns 1000] [--rounds 3] [--folder DIR]

Turns of 1 KB with a SQLite journal (`synchronous=FULL`), one after another; each looks at the turn
before it, through a window of 32. Floor: one durable commit of the same 1 KB a turn to a table that
is only appended to, in the same round. Disk is that of the folder while the file is open, its log
included, and of the closed file.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from stageflow import Context, Pipeline, Runtime, transform

EARLY = slice(5, 16)
"""Turns around the tenth, without those that warm up."""
AROUND = 11


@transform
async def answer(text: str, ctx: Context) -> int:
    """Reads the last turn, as an agent would."""
    assert ctx.session is not None
    last = ctx.session.turns[-1].inputs["text"] if len(ctx.session) else ""
    return len(last) + len(text)


chat = Pipeline("chat", [answer], inputs={"text": str}, outputs=answer)


def text_of(turn: int) -> str:
    """999 characters."""
    return f"{turn:08d} " * 111


async def timed(turn: Callable[[int], Awaitable[None]], turns: int) -> list[float]:
    """Seconds of each turn."""
    taken = []
    for number in range(turns):
        begun = time.perf_counter()
        await turn(number)
        taken.append(time.perf_counter() - begun)
    return taken


def disk_mb(folder: Path) -> float:
    """Of all files in it."""
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**20


async def session(folder: Path, turns: int) -> tuple[list[float], float]:
    """Seconds of each turn, and the disk while the journal is open."""
    async with Runtime(journal=folder / "runs.db") as runtime:
        bound = chat.using(runtime=runtime, session="s")

        async def turn(number: int) -> None:
            run = await bound.run(text=text_of(number))
            assert run.status == "ok"

        return await timed(turn, turns), disk_mb(folder)


async def floor(folder: Path, turns: int) -> tuple[list[float], float]:
    """The same of a table that is only appended to."""
    file = sqlite3.connect(folder / "floor.db", isolation_level=None)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = FULL")
    file.execute("CREATE TABLE turns (number INTEGER PRIMARY KEY, text TEXT)")

    async def turn(number: int) -> None:
        file.execute("BEGIN IMMEDIATE")
        file.execute("INSERT INTO turns VALUES (?, ?)", (number, text_of(number)))
        file.execute("COMMIT")

    try:
        return await timed(turn, turns), disk_mb(folder)
    finally:
        file.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the files go; give one on the disk in question")
    options = parser.parse_args()
    told: dict[str, list[tuple[float, float, float, float]]] = {"floor": [], "session": []}
    for round_ in range(options.rounds):
        subjects = [("floor", floor), ("session", session)]
        for name, subject in subjects[:: 1 if round_ % 2 else -1]:
            with tempfile.TemporaryDirectory(dir=options.folder) as made:
                folder = Path(made)
                taken, open_mb = asyncio.run(subject(folder, options.turns))
                early = statistics.median(taken[EARLY])
                late = statistics.median(taken[-AROUND:])
                told[name].append((early, late, open_mb, disk_mb(folder)))
    print(f"{os.cpu_count()} cores, {options.turns} turns, median of {options.rounds} rounds")
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in told.items()
    }
    for name, (early, late, open_mb, closed_mb) in medians.items():
        print(
            f"{name:<8}turn 10 {early * 1e3:6.2f} ms, turn {options.turns} {late * 1e3:6.2f} ms"
            f" (x {late / early:.2f}); disk {open_mb:.2f} MiB open, {closed_mb:.2f} MiB closed"
        )
    ratios = [mine / bare for mine, bare in zip(medians["session"], medians["floor"], strict=True)]
    print(
        "session / floor: turn 10 {:.1f}, last {:.1f}, open {:.2f}, closed {:.2f}".format(*ratios)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
