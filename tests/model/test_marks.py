"""Marks: counted only while somebody counts, in tasks and carried threads, each placed in code."""

from __future__ import annotations

import ast
import asyncio
import threading
from pathlib import Path

import pytest

import stageflow
from stageflow import Allow, Block, Pipeline, Redact, Retry, Runtime, guard, transform
from stageflow.model.marks import MARKS, MarkCounts, carrying, counting, reached

SOURCES = Path(stageflow.__file__).parent


def test_nobody_counts_unless_asked() -> None:
    reached("late_write")
    with counting(MarkCounts()) as counts:
        assert counts.all() == {}
        reached("late_write")
        reached("late_write")
    reached("late_write")
    assert counts.all() == {"late_write": 2}


def test_inner_counting_takes_over_and_gives_back() -> None:
    with counting(MarkCounts()) as outer:
        with counting(MarkCounts()) as inner:
            reached("guard_blocked")
        reached("late_write")
    assert (outer.all(), inner.all()) == ({"late_write": 1}, {"guard_blocked": 1})


def test_tasks_count_where_their_maker_counts() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(asyncio.to_thread(reached, "late_write"))

    with counting(MarkCounts()) as counts:
        asyncio.run(main())
    assert counts.all() == {"late_write": 3}


def test_a_thread_counts_only_when_what_it_runs_was_carried() -> None:
    def target() -> None:
        reached("late_write")

    with counting(MarkCounts()) as counts:
        for each in (target, carrying(target)):
            thread = threading.Thread(target=each)
            thread.start()
            thread.join()
    assert counts.all() == {"late_write": 1}
    assert carrying(target) is target, "while nobody counts, nothing is wrapped"


def test_no_count_is_lost_between_threads() -> None:
    counts = MarkCounts()

    def work() -> None:
        for _ in range(2_000):
            counts.add("late_write")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.all() == {"late_write": 8_000}


def test_every_mark_has_its_place_and_every_place_its_mark() -> None:
    placed = set()
    for path in SOURCES.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "reached":
                assert isinstance(call.args[0], ast.Constant), f"{path.name}: name it by a literal"
                placed.add(call.args[0].value)
    assert placed == set(MARKS)
    with pytest.raises(AssertionError, match="is no mark"):
        MarkCounts().add("no_such_place")


def test_guards_and_retries_leave_their_marks() -> None:
    tries = []

    @transform(retry=Retry(attempts=2, base_s=0.0))
    def text(word: str) -> str:
        tries.append(word)
        if len(tries) % 2:
            raise ConnectionError("away")
        return word

    @guard
    def clean(text: str) -> Allow | Block | Redact:
        if text == "rude":
            return Block("rude")
        return Redact("***") if text == "secret" else Allow()

    desk = Pipeline("desk", [text, clean], inputs={"word": str}, outputs=text)
    with counting(MarkCounts()) as counts:
        asyncio.run(desk.run(word="fine"))
    assert counts.all() == {"retry_handed_out": 1}
    with counting(MarkCounts()) as counts:
        asyncio.run(desk.run(word="secret"))
        asyncio.run(desk.run(word="rude"))
    assert counts.all() == {"guard_blocked": 1, "redaction_released": 1, "retry_handed_out": 2}


def test_the_journal_counts_for_whoever_started_its_writer(tmp_path: Path) -> None:
    @transform
    def text(word: str) -> str:
        return word

    desk = Pipeline("desk", [text], inputs={"word": str}, outputs=text)

    async def main() -> None:
        async with Runtime.local(tmp_path) as runtime:
            runs = [
                asyncio.ensure_future(desk.using(runtime=runtime).run(word="a")) for _ in range(30)
            ]
            for run in runs:
                await run

    with counting(MarkCounts()) as counts:
        asyncio.run(main())
    assert counts.all().get("batch_of_several", 0) >= 1
