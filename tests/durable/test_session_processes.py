"""Real processes on one SQLite journal: turns of one session, and one request asked twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stageflow import Runtime
from stageflow.journal.sqlite import SQLiteStore
from tests.durable import session_process

PROGRAM = Path(__file__).parent / "session_process.py"
TURNS = 12


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program, killed at the latest when the block ends."""
    command = [sys.executable, str(PROGRAM), str(folder), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def log_of(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def test_turns_of_two_processes_run_one_after_another(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "runs.db").close()
    with (
        process(tmp_path, "turns", "a", str(TURNS)) as one,
        process(tmp_path, "turns", "b", str(TURNS)) as two,
    ):
        told = [json.loads(child.communicate(timeout=60)[0]) for child in (one, two)]
    lines = log_of(tmp_path)
    order = [line.removeprefix("begin ") for line in lines[::2]]
    assert lines == [f"{what} {text}" for text in order for what in ("begin", "end")]
    for name, runs in zip("ab", told, strict=True):
        assert [text for text in order if text[0] == name] == [f"{name}{n}" for n in range(TURNS)]
        for number, (status, saw) in enumerate(runs):
            assert (status, saw) == ("ok", order[: order.index(f"{name}{number}")])


async def test_a_killed_process_holds_no_session_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    1. a process has turns; another one begins a turn and is killed in it by SIGKILL
    2. a third process, which waited for that turn, goes on by itself
    3. the cut off turn is resumed here and sees what it saw at first
    """
    with process(tmp_path, "turns", "a", "3") as first:
        first.communicate(timeout=60)
    with process(tmp_path, "hold", "x") as held:
        assert held.stdout is not None and held.stdout.readline() == "ready\n"
        with process(tmp_path, "turns", "b", "2") as waiting:
            async with Runtime(journal=tmp_path / "runs.db") as runtime:
                while len(await runtime.runs()) < 6:
                    assert waiting.poll() is None
                assert "begin b0" not in log_of(tmp_path)
                held.kill()
                held.wait()
                told = json.loads(waiting.communicate(timeout=60)[0])
                assert [saw for _, saw in told] == [
                    ["a0", "a1", "a2"],
                    ["a0", "a1", "a2", "b0"],
                ]
                monkeypatch.setattr(session_process, "FOLDER", tmp_path)
                chat = session_process.chat
                run = await runtime.resume("held-x", pipeline=chat)
                assert run.output == ["a0", "a1", "a2"]
                assert f"saw {json.dumps(run.output)}" in log_of(tmp_path)
                latest = await runtime.session("s", pipeline=chat, limit=2)
                assert [turn.inputs["text"] for turn in latest] == ["hold x", "b1"]


def test_a_request_asked_by_many_processes_runs_once(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "runs.db").close()
    with (
        process(tmp_path, "ask", "q") as one,
        process(tmp_path, "ask", "q") as two,
        process(tmp_path, "ask", "q") as three,
    ):
        told = {child.communicate(timeout=60)[0] for child in (one, two, three)}
    assert len(told) == 1 and '"ok"' in told.pop()
    assert log_of(tmp_path) == ["begin q", "end q"]


def test_a_request_whose_process_was_killed_is_resumed_by_who_waits(tmp_path: Path) -> None:
    with process(tmp_path, "ask", "hold q") as first:
        assert first.stdout is not None and first.stdout.readline() == "ready\n"
        with process(tmp_path, "ask", "hold q") as second:
            while second.poll() is None and log_of(tmp_path).count("begin hold q") == 1:
                first.kill()
                first.wait()
            told = json.loads(second.communicate(timeout=60)[0])
    assert told["status"] == "ok"
    assert log_of(tmp_path) == ["begin hold q", "saw []", "begin hold q", "end hold q"]
