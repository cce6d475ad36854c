"""The `stageflow` command, as a person types it: what it says, where, and its exit status."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageflow.cli import USAGE, WAITS, main

DESK = """
import os
from pathlib import Path

from stageflow import Allow, Block, Decision, Pipeline, guard, transform, work


@transform
def shout(text: str, times: int = 1) -> list[str]:
    return [text.upper()] * times


@guard
def polite(text: str) -> Decision:
    return Block("rude") if "stupid" in text else Allow()


@transform
def joined(shout: list[str]) -> str:
    if Path("broken").exists():
        raise ConnectionError("the line is dead")
    return " ".join(shout)


@work
def sent(joined: str) -> str:
    if Path("dies").exists():
        os._exit(9)
    return joined


desk = Pipeline(
    "desk", [shout, polite, joined, sent], inputs={"text": str, "times": int}, outputs=sent
)
number = 7
"""


@pytest.fixture
def folder(in_tmp: Path) -> Iterator[Path]:
    """A folder with a module `clidesk`, to be in."""
    (in_tmp / "clidesk.py").write_text(DESK)
    path = list(sys.path)
    yield in_tmp
    sys.path[:] = path
    sys.modules.pop("clidesk", None)


class Said:
    """One command's exit status and what it wrote."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.status = main(arguments)
        self.out, self.err = capsys.readouterr()


RUN = ("run", "clidesk:desk", "--input", "text=a", "--input", "times=2")


def run_id(said: Said) -> str:
    found = re.search(r"^run (\S+)$", said.err, re.MULTILINE)
    assert found is not None, said.err
    return found[1]


SAGA = """
from pathlib import Path

from stageflow import Pipeline, Retry, work


def released(result: str) -> None:
    if Path("closed").exists():
        raise OSError("the shop is closed")
    Path("booked").unlink()


@work(undo=work(released, retry=Retry(attempts=1)))
def room(days: int) -> str:
    Path("booked").touch()
    return "room"


@work
def paid(room: str, days: int) -> str:
    if days > 7:
        raise ValueError("over the limit")
    return "receipt"


trip = Pipeline("trip", [room, paid], inputs={"days": int}, outputs=paid)
"""
LONG_TRIP = ("run", "clidesk:trip", "--input", "days=30")


@pytest.fixture
def saga(folder: Path) -> Path:
    """The module holds a saga."""
    (folder / "clidesk.py").write_text(SAGA)
    return folder


def test_a_saga_tells_what_it_took_back(saga: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, *LONG_TRIP)
    assert said.status == 1 and "taken back: room\n" in said.err
    assert "stageflow resume" not in said.err and not (saga / "booked").exists()
    assert "room.undo (attempt 1)" in Said(capsys, "show", run_id(said)).out


def test_a_stuck_undo_is_settled_by_a_person(
    saga: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (saga / "closed").touch()
    said = Said(capsys, *LONG_TRIP)
    run = run_id(said)
    assert said.status == 1 and "ended as suspended: undo_stuck:room.undo" in said.err
    assert f"stageflow settle {run} room.undo --by NAME" in said.err
    wrong = Said(capsys, "settle", run, "room", "--not-happened", "--by", "ann")
    assert wrong.status != 0 and "run.not_stuck" in wrong.err
    settled = Said(capsys, "settle", run, "room.undo", "--happened", "null", "--by", "ann")
    assert settled.status == 1 and "ended as failed" in settled.err
    assert "taken back: room\n" in settled.err


def test_what_happened_is_told_as_json(saga: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "settle", "run", "room", "--happened", "yes", "--by", "ann")
    assert said.status == USAGE and "is no JSON" in said.err


def test_a_done_run_is_undone(saga: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "run", "clidesk:trip", "--input", "days=3")
    assert said.status == 0 and (saga / "booked").exists()
    undone = Said(capsys, "undo", run_id(said))
    assert (undone.status, undone.out) == (0, "taken back: room\n")
    assert not (saga / "booked").exists()


def test_run_writes_the_output_alone_to_standard_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Said(capsys, *RUN)
    assert (said.status, said.out) == (0, "A A\n")
    assert all(f"ok        {node}" in said.err for node in ("shout", "joined", "sent"))
    quiet = Said(capsys, *RUN, "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "A A\n", "")


def test_outputs_that_are_no_text_are_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "clidesk.py").write_text(DESK.replace("outputs=sent", "outputs=shout"))
    assert json.loads(Said(capsys, *RUN).out) == ["A", "A"]


def test_a_failed_run_is_shown_listed_and_resumed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken").touch()
    said = Said(capsys, *RUN)
    run = run_id(said)
    assert said.status == 1 and said.out == ""
    assert "ended as failed: error:ConnectionError" in said.err
    assert "the line is dead" in said.err and f"stageflow resume {run}" in said.err

    listed = Said(capsys, "runs")
    assert listed.status == 0 and re.search(rf"{run}.*failed.*desk", listed.out)

    shown = Said(capsys, "show", run)
    assert shown.status == 0 and f"run {run} of desk: failed (error:ConnectionError)" in shown.out
    for text in ("got text = 'a'", "gave ['A', 'A']", "joined (attempt 1): failed", "line is dead"):
        assert text in shown.out

    (folder / "broken").unlink()
    resumed = Said(capsys, "resume", run)
    assert (resumed.status, resumed.out) == (0, "A A\n")
    assert "joined" in resumed.err and "shout" not in resumed.err
    assert Said(capsys, "resume", run, "--quiet").out == "A A\n"
    assert f"run {run} of desk: ok" in Said(capsys, "show", run).out


def test_runs_in_postgresql_are_sealed_with_the_key_file_that_is_named(
    folder: Path, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ("--journal", postgres_url)
    without = Said(capsys, *RUN, *there)
    assert without.status == 1 and "seal.no_keys" in without.err
    (folder / "broken").touch()
    failed = Said(capsys, *RUN, *there, "--keys", "k.key")
    assert failed.status == 1 and "--keys k.key" in failed.err
    assert (folder / "k.key").stat().st_mode & 0o777 == 0o600
    (folder / "broken").unlink()
    again = Said(capsys, "resume", run_id(failed), *there, "--keys", "k.key")
    assert (again.status, again.out) == (0, "A A\n")
    shown = Said(capsys, "show", run_id(failed), *there, "--keys", "other.key")
    assert shown.status == 1 and "seal.key_file" in shown.err


def test_a_blocked_run_names_its_guard(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "run", "clidesk:desk", "--input", "text=stupid", "--input", "times=1")
    assert said.status == 1 and "ended as blocked: guard:polite" in said.err
    assert "polite said: rude" in said.err and "resume" not in said.err


def test_an_effect_cut_off_asks_a_person(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    1. a process dies inside a WORK stage
    2. resume suspends, and says which node to look at and what to type
    3. allowed to, the stage runs again
    """
    (folder / "dies").touch()
    died = subprocess.run(
        [sys.executable, "-m", "stageflow.cli", *RUN], capture_output=True, text=True, check=False
    )
    assert died.returncode == 9
    run = re.findall(r"^run (\S+)$", died.stderr, re.MULTILINE)[0]
    assert "interrupted" in Said(capsys, "runs").out
    (folder / "dies").unlink()
    said = Said(capsys, "resume", run)
    assert said.status == 1 and "ended as suspended: effect_unknown" in said.err
    assert f"stageflow resume {run} --rerun sent" in said.err
    assert "abandoned sent" in said.err
    assert Said(capsys, "resume", run, "--rerun", "sent").out == "A A\n"


def test_an_interrupt_ends_the_run_and_says_how_to_go_on(folder: Path) -> None:
    waits = DESK.replace(
        "def joined(shout: list[str]) -> str:",
        "async def joined(shout: list[str]) -> str:\n    import asyncio\n"
        "    print('waiting', flush=True)\n    await asyncio.sleep(60)",
    )
    (folder / "clidesk.py").write_text(waits)
    child = subprocess.Popen(
        [sys.executable, "-m", "stageflow.cli", *RUN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "waiting\n"
    os.kill(child.pid, signal.SIGINT)
    _, told = child.communicate(timeout=30)
    assert child.returncode == 130 and "Traceback" not in told
    assert "interrupted; go on with: stageflow resume" in told


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("clidesk:dek", "journal.bad_target"),
        ("clidesk:number", "journal.bad_target"),
        ("no_such_module:desk", "No module named"),
        ("clidesk", "journal.bad_target"),
    ],
)
@pytest.mark.parametrize("command", ["run", "draw"])
def test_a_bad_target_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, target: str, told: str
) -> None:
    said = Said(capsys, command, target)
    assert said.status == 1 and told in said.err and "Traceback" not in said.err


@pytest.mark.parametrize(
    ("inputs", "status", "told"),
    [
        (("text",), USAGE, "run.input_pair"),
        (("txt=a", "times=1"), USAGE, "did you mean 'text'?"),
        (("text=a",), USAGE, "run.missing_input"),
        (("text=a", "times=many"), 1, "contract.violated"),
    ],
)
def test_bad_inputs_are_told_before_anything_runs(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    inputs: tuple[str, ...],
    status: int,
    told: str,
) -> None:
    given = [part for pair in inputs for part in ("--input", pair)]
    said = Said(capsys, "run", "clidesk:desk", *given)
    assert said.status == status and told in said.err and said.out == ""
    assert "Traceback" not in said.err


def test_commands_over_a_journal_that_is_not_there_say_so_and_make_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ("signal", "r", "word", "--by", "ada", "--value", "true")
    for arguments in (("runs",), ("resume", "r"), ("show", "r"), ("waiting",), answer):
        said = Said(capsys, *arguments)
        assert said.status == USAGE and "run.no_journal_here" in said.err
    assert not (folder / ".stageflow").exists()
    Said(capsys, *RUN)
    said = Said(capsys, "resume", "nobody")
    assert said.status == 1 and "journal.unknown_run" in said.err


def test_a_run_whose_pipeline_is_gone_is_still_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_id(Said(capsys, *RUN))
    (folder / "clidesk.py").unlink()
    sys.modules.pop("clidesk")
    shown = Said(capsys, "show", run)
    assert shown.status == 0 and "values are not shown" in shown.err
    assert "shout (attempt 1): ok" in shown.out and "gave" not in shown.out


def test_draw_gives_text_and_mermaid(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "guards text" in Said(capsys, "draw", "clidesk:desk").out
    mermaid = Said(capsys, "draw", "clidesk:desk", "--form", "mermaid")
    assert mermaid.status == 0 and mermaid.out.startswith("flowchart TD")


@pytest.mark.parametrize("arguments", [(), ("walk",), ("run",), ("draw", "m:a", "--form", "png")])
def test_a_wrong_command_line_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert Said(capsys, *arguments).status == USAGE


def test_help_and_version_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert "lab" in Said(capsys, "--help").out
    assert re.match(r"\d+\.\d+", Said(capsys, "--version").out)


ASKING = """
from pydantic import BaseModel

from stageflow import Allow, Decision, Feedback, Pipeline, Revise, agent, approval, guard, work


class Word(BaseModel):
    approved: bool
    note: str = ""


@agent
async def draft(text: str, feedback: Feedback | None) -> list[str]:
    return [text] if feedback is None else [text, f"again:\\n{feedback.texts[0]}"]


@guard
async def long(draft: list[str]) -> Decision:
    return Allow() if len(draft) > 1 else Revise("longer")


word = approval("word", Word, of=draft, expires=3600.0)


@work
async def sent(draft: list[str], word: Word) -> str:
    return f"{len(draft)} parts, {word.note or 'no note'}"


desk = Pipeline("desk", [draft, long, word, sent], inputs={"text": str}, outputs=sent)
"""

ASK = ("run", "clidesk:desk", "--input", "text=hi")


@pytest.fixture
def asking(folder: Path) -> Path:
    """The folder, with a `clidesk` that asks a person."""
    (folder / "clidesk.py").write_text(ASKING)
    return folder


def test_a_run_that_asks_says_what_is_shown_and_which_command_answers(
    asking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    1. a run suspends: its message shows the content and a command
    2. that command, as it stands, ends the run
    """
    said = Said(capsys, *ASK)
    run = run_id(said)
    assert (said.status, said.out) == (WAITS, "")
    assert f"run {run} ended as suspended: waiting" in said.err
    assert "- hi\n" in said.err and "again:\n      longer\n" in said.err
    assert Said(capsys, "waiting").out.startswith(f"word of run {run} waits for a person, until ")
    (typed,) = re.findall(r"^  stageflow (signal .*)$", said.err, re.MULTILINE)
    answered = Said(capsys, *shlex.split(typed.replace("YOU", "ada")))
    assert (answered.status, answered.out) == (0, "2 parts, no note\n")
    assert answered.err.startswith(f"ada answers word of run {run}, about:\n\n    - hi\n")
    assert Said(capsys, "waiting").out == Said(capsys, "waiting", run).out
    assert Said(capsys, "waiting").out == "nobody is asked anything\n"
    assert re.search(r"word \(attempt 1\): ok .* by ada", Said(capsys, "show", run).out)


def test_resuming_a_run_that_waits_asks_again(
    asking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_id(Said(capsys, *ASK))
    again = Said(capsys, "resume", run)
    assert again.status == WAITS and f"stageflow signal {run} word" in again.err


def test_commands_name_the_root_where_the_run_is(
    asking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_id(Said(capsys, *ASK, "--root", "here"))
    assert Said(capsys, *ASK).status == WAITS
    assert run not in Said(capsys, "waiting").out
    elsewhere = Said(capsys, "waiting", "--root", "here").out
    assert f"signal {run} word --root here --by YOU" in elsewhere


def test_an_answer_is_bound_to_what_was_seen(
    asking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_id(Said(capsys, *ASK))
    seen = re.findall(r"Shown \((\w+)\)", Said(capsys, "waiting", run).out)[0]
    value = ("--by", "ada", "--value", '{"approved": true, "note": "fine"}')
    for other in ("0" * 64, seen[:-1]):
        stale = Said(capsys, "signal", run, "word", *value, "--shown", other)
        assert stale.status == 1 and "run.answer_stale" in stale.err
    taken = Said(capsys, "signal", run, "word", *value, "--shown", seen, "--quiet")
    assert (taken.status, taken.out, taken.err) == (0, "2 parts, fine\n", "")
    twice = Said(capsys, "signal", run, "word", *value)
    assert twice.status == 1 and "run.not_waiting" in twice.err


@pytest.mark.parametrize(
    ("node", "value", "told"),
    [
        ("word", '{"approved": "perhaps"}', "contract.violated"),
        ("word", "yes", "contract.violated"),
        ("wrd", '{"approved": true}', "did you mean 'word'?"),
        ("draft", '["x"]', "run.not_waiting"),
    ],
)
def test_a_wrong_answer_is_told_and_leaves_the_question_open(
    asking: Path, capsys: pytest.CaptureFixture[str], node: str, value: str, told: str
) -> None:
    run = run_id(Said(capsys, *ASK))
    said = Said(capsys, "signal", run, node, "--by", "ada", "--value", value)
    assert said.status == 1 and told in said.err and "Traceback" not in said.err
    assert run in Said(capsys, "waiting").out


def test_a_run_whose_question_cannot_be_read_is_left_out_and_told(
    asking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = run_id(Said(capsys, *ASK))
    (asking / "clidesk.py").write_text(ASKING.replace("list[str]", "tuple[str, ...]"))
    sys.modules.pop("clidesk")
    said = Said(capsys, "waiting")
    assert said.status == 0 and f"run {lost} is left out" in said.err


def test_show_tells_each_revision_and_what_it_gave(
    asking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Said(capsys, "show", run_id(Said(capsys, *ASK))).out
    first, second = shown.index("draft (attempt 1)"), shown.index("draft (revision 2, attempt 1)")
    assert "gave ['hi']\n" in shown[first:second] and "Revise(feedback='longer'" in shown[:second]
    assert "gave ['hi', 'again:" in shown[second:] and "gave Allow()" in shown[second:]
    assert "word (attempt 1): waiting\n      got draft = ['hi', " in shown


def test_a_loop_that_never_passes_says_what_its_guard_wanted(
    asking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (asking / "clidesk.py").write_text(ASKING.replace("> 1 else", "> 2 else"))
    said = Said(capsys, *ASK)
    assert said.status == 1 and "ended as failed: exhausted" in said.err
    assert "the last draft was sent back: longer" in said.err


def test_another_root_keeps_its_own_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Said(capsys, *RUN, "--root", "elsewhere").status == 0
    assert (folder / "elsewhere" / "journal.db").exists()
    assert "desk" in Said(capsys, "runs", "--root", "elsewhere").out


@pytest.mark.parametrize("journal", ["runs.db", "sqlite:///runs.db"])
def test_a_journal_that_is_not_there_is_not_made(
    journal: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("runs",), ("show", "a"), ("resume", "a"), ("undo", "a")):
        said = Said(capsys, *command, "--journal", journal)
        assert said.status != 0 and "run.no_journal_here" in said.err
    assert not (folder / "runs.db").exists()
    assert Said(capsys, *RUN, "--journal", journal).status == 0
    assert "desk" in Said(capsys, "runs", "--journal", journal).out


def test_a_tenant_is_shown_its_own_runs_only(
    asking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_id(Said(capsys, *ASK))
    for command in ("show", "resume", "waiting"):
        said = Said(capsys, command, run, "--tenant", "acme")
        assert (said.status, said.out) == (1, "") and "journal.unknown_run" in said.err
    said = Said(capsys, "signal", run, "word", "--by", "eve", "--value", "{}", "--tenant", "acme")
    assert said.status == 1 and "journal.unknown_run" in said.err
    assert Said(capsys, "runs", "--tenant", "acme").out == "no runs yet\n"
    assert run in Said(capsys, "runs", "--tenant", "default").out
    assert "--tenant default --by" in Said(capsys, "waiting", "--tenant", "default").out
