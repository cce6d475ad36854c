"""An answer is filed once under its key, whole or not at all."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from examples.answer_desk.letters import Letter
from examples.answer_desk.outbox import file_letter


def reply(text: str = "The moon.") -> Letter:
    return Letter(question="Why?", text=text, sources=["page#tides"])


def test_a_second_attempt_finds_the_first_ones_letter(tmp_path: Path) -> None:
    first = file_letter(tmp_path, reply(), key="run/filed/1")
    second = file_letter(tmp_path, reply("Another."), key="run/filed/1")
    assert first == second
    assert json.loads(first.read_text())["text"] == "The moon."
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_other_keys_get_other_letters(tmp_path: Path) -> None:
    places = {
        file_letter(tmp_path, reply(), key=key)
        for key in ("run/filed/1", "run/filed/2", "../../elsewhere")
    }
    assert len(places) == 3
    assert all(place.parent == tmp_path for place in places)


def test_attempts_at_the_same_time_leave_one_letter(tmp_path: Path) -> None:
    def attempt(n: int) -> Path:
        return file_letter(tmp_path, reply(f"Attempt {n}."), key="one")

    with ThreadPoolExecutor(8) as threads:
        places = set(threads.map(attempt, range(40)))
    assert len(places) == 1
    assert len(list(tmp_path.iterdir())) == 1
    json.loads(places.pop().read_text())
