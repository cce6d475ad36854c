"""The commands: what they print, what they write, and their exit codes."""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stageflow_lab import scenarios
from stageflow_lab.cli import command, main

WriteCase = Callable[..., str]
Lab = Callable[..., int]

FAILING = """
def check(history): return Judgement({"lost": 1})
"""
CRASHING = """
def load(world): raise ValueError("no")
"""


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The roadmap's rows have no scenarios: else a test would take as long as a row does."""
    monkeypatch.setattr(scenarios, "__path__", [])


@pytest.fixture
def lab(cases: Path, tmp_path: Path) -> Lab:
    """Run a command with the cases and an own results folder."""

    def run(*arguments: str) -> int:
        return main([*arguments, "--scenarios", str(cases), "--out", str(tmp_path / "results")])

    return run


def test_list_shows_all_308_rows_missing_ones_included(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab("list") == 0
    text = capsys.readouterr().out
    assert text.count("missing") == 309, "each row once, and the count"
    assert "308 rows: 308 missing" in text


def test_list_as_json_follows_the_filters(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab("list", "--tier", "1", "--priority", "P0", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["row"] for row in rows][:2] == ["CORE-001", "CORE-002"]
    assert {row["tier"] for row in rows} == {1} and {row["verdict"] for row in rows} == {"missing"}


def test_run_prints_figures_and_says_how_to_repeat(
    lab: Lab, case: WriteCase, capsys: pytest.CaptureFixture[str]
) -> None:
    case("DEMO-001"), case("DEMO-002", FAILING)
    assert lab("run", "DEMO-*", "CORE-001") == 1
    shown = capsys.readouterr()
    assert "[2/2]" in shown.err and "DEMO-001 started" in shown.err
    assert "0 of 1,000: rate below" in shown.out
    assert "missing (no scenario yet), 1: CORE-001" in shown.out
    assert "3 rows: 1 pass, 1 fail, 1 missing" in shown.out
    assert "stageflow lab run DEMO-002 --size quick --seed 1" in shown.out
    assert lab("list", "DEMO-*") == 0
    assert "2 rows: 1 pass, 1 fail" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "options", "code"),
    [
        (("DEMO-001",), (), 0),
        (("DEMO-001", "DEMO-002"), (), 1),
        (("DEMO-001", "DEMO-003"), (), 2),
        (("DEMO-001", "CORE-001"), (), 3),
        (("DEMO-001", "CORE-001"), ("--allow-skipped",), 0),
        (("DEMO-001",), ("--size", "soak"), 3),
    ],
)
def test_exit_code_of_a_run(
    lab: Lab, case: WriteCase, rows: tuple[str, ...], options: tuple[str, ...], code: int
) -> None:
    case("DEMO-001"), case("DEMO-002", FAILING), case("DEMO-003", CRASHING)
    assert lab("run", *rows, *options) == code


def test_run_writes_json_to_a_file(lab: Lab, case: WriteCase, tmp_path: Path) -> None:
    assert lab("run", case("DEMO-001"), "--seed", "9", "--json", str(tmp_path / "out.json")) == 0
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["verdicts"] == {"pass": 1} and data["exit_code"] == 0
    assert data["results"][0]["seed"] == 9


def test_audit_then_report(
    lab: Lab, case: WriteCase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case("DEMO-001"), case("DEMO-002", FAILING)
    assert lab("audit", "DEMO-001") == 0
    assert "valid, 1 of 1 sabotages killed" in capsys.readouterr().out
    assert lab("audit", "DEMO-001", "DEMO-002") == 1
    assert "without sabotage, seed 1: fail" in capsys.readouterr().out
    assert lab("run", "DEMO-001") == 0
    capsys.readouterr()
    assert lab("report", "DEMO-*") == 0
    text = capsys.readouterr().out
    assert "the audit's healthy runs did not pass" in text and "1 pass, 1 invalid" in text
    assert lab("report", "--html", str(tmp_path / "html")) == 0
    assert "1 of 1 killed" in (tmp_path / "html" / "index.html").read_text()


def test_auditing_a_row_without_a_scenario_is_not_a_success(lab: Lab) -> None:
    assert lab("audit", "CORE-001") == 3
    assert lab("audit", "CORE-001", "--allow-skipped") == 0


def test_a_broken_file_costs_only_its_own_row(
    lab: Lab, case: WriteCase, capsys: pytest.CaptureFixture[str]
) -> None:
    case("DEMO-001"), case("DEMO-002", "import absent_library")
    assert lab("audit", "DEMO-*") == 1
    text = capsys.readouterr().out
    assert "valid, 1 of 1 sabotages killed" in text and "DEMO-002 does not import" in text
    assert lab("run", "DEMO-*") == 2
    assert "1 pass, 1 error" in capsys.readouterr().out


def test_explain_tells_the_row_and_its_scenario(
    lab: Lab, case: WriteCase, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab("explain", "core-002") == 0
    assert "encode+decode" in capsys.readouterr().out
    case("DEMO-001")
    assert lab("explain", "DEMO-001") == 0
    text = capsys.readouterr().out
    assert "lost == 0 additions" in text
    assert "An addition is lost when the total ends in nine." in text


def test_explain_tells_where_a_header_differs_from_the_catalogue(
    lab: Lab, case: WriteCase, capsys: pytest.CaptureFixture[str]
) -> None:
    case("CORE-001")
    assert lab("explain", "CORE-001") == 0
    assert "the claim is not the catalogue's" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments", [("run", "COR-001"), ("explain", "COR-001"), ("list", "--section", "gard")]
)
def test_an_unknown_name_is_a_usage_error_with_the_nearest(
    lab: Lab, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert lab(*arguments) == 64
    shown = capsys.readouterr()
    assert "did you mean" in shown.err and shown.out == ""


@pytest.mark.parametrize(
    "arguments", [["run", "--jobs", "0"], ["nothing"], [], ["run", "--size", "huge"]]
)
def test_wrong_usage_ends_with_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 64
    assert "usage:" in capsys.readouterr().err


def test_the_framework_takes_the_command_in(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command(parser.add_subparsers())
    arguments = parser.parse_args(["lab", "explain", "DAG-001"])
    assert arguments.handler(arguments) == 0
    assert "DAG-001" in capsys.readouterr().out


def test_the_results_folder_comes_from_the_environment(
    case: WriteCase, cases: Path, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEFLOW_LAB_DIR", str(in_tmp / "elsewhere"))
    assert main(["run", case("DEMO-001"), "--scenarios", str(cases)]) == 0
    assert (in_tmp / "elsewhere" / "DEMO-001" / "result.json").is_file()


def test_a_terminal_sees_one_live_line_per_running_row(
    case: WriteCase, cases: Path, tmp_path: Path
) -> None:
    body = """
        import threading
        def load(world):
            for at in range(6):
                world.progress(at + 1, 6, "waits")
                threading.Event().wait(0.1)
            history = History()
            history.record("total", added=1, total=1)
            return history
        """
    case("DEMO-001", body)
    ours, theirs = pty.openpty()
    run = ["run", "DEMO-001", "--scenarios", str(cases), "--out", str(tmp_path / "results")]
    process = subprocess.Popen(
        [sys.executable, "-m", "stageflow_lab", *run],
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(theirs)
    seen = io.BytesIO()
    try:
        while data := os.read(ours, 4096):
            seen.write(data)
    except OSError:  # Linux ends a pseudo-terminal with EIO
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0
    text = seen.getvalue().decode()
    assert "/6 waits" in text and "█" in text and "\x1b[J" in text
    assert "[1/1]" in text.rpartition("\x1b[J")[2]


def test_a_row_whose_package_is_not_installed_is_skipped_by_name(tmp_path: Path) -> None:
    absent = 'raise ModuleNotFoundError("No module named \'hypothesis\'", name="hypothesis")\n'
    (tmp_path / "hypothesis.py").write_text(absent)
    done = subprocess.run(
        [sys.executable, "-m", "stageflow_lab", "run", "CORE-008", "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "needs python:hypothesis" in done.stdout
