"""The `stageflow` command, as a person types it: what it says, where, and its exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageflow.cli import USAGE, main

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


def test_a_blocked_run_names_its_guard(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "run", "clidesk:desk", "--input", "text=stupid", "--input", "times=1")
    assert said.status == 1 and "ended as blocked: guard:polite" in said.err
    assert "resume" not in said.err


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
    for arguments in (("runs",), ("resume", "r"), ("show", "r")):
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


def test_another_root_keeps_its_own_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Said(capsys, *RUN, "--root", "elsewhere").status == 0
    assert (folder / "elsewhere" / "journal.db").exists()
    assert "desk" in Said(capsys, "runs", "--root", "elsewhere").out
