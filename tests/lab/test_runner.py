"""Running scenarios in processes of their own: every way to end has its verdict."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stageflow_lab import LabError
from stageflow_lab.discovery import find
from stageflow_lab.results import Result, ResultStore
from stageflow_lab.runner.batch import RunOptions, run_rows
from stageflow_lab.runner.components import absent, peer_folder
from stageflow_lab.runner.process import Supervised

WriteCase = Callable[..., str]


class Notes:
    """A watcher that remembers, and may act at a tick."""

    def __init__(self, act: Callable[[], None] | None = None) -> None:
        self.ends: list[str] = []
        self.notes: set[str] = set()
        self.most_at_once = 0
        self._act = act

    def started(self, running: Supervised) -> None:
        pass

    def tick(self, running: Sequence[Supervised]) -> None:
        self.most_at_once = max(self.most_at_once, len(running))
        self.notes.update(f"{each.done}/{each.total} {each.note}" for each in running)
        if self._act is not None:
            self._act()

    def finished(self, running: Supervised, result: Result) -> None:
        self.ends.append(result.row)


@pytest.fixture
def run(cases: Path, store: ResultStore) -> Callable[..., list[Result]]:
    def run_cases(*rows: str, watcher: Notes | None = None, **options: object) -> list[Result]:
        results, _ = run_rows(
            rows,
            find([cases]),
            options=RunOptions(**options),  # type: ignore[arg-type]
            store=store,
            watcher=watcher or Notes(),
        )
        return results

    return run_cases


@pytest.mark.parametrize(
    ("body", "verdict", "reason"),
    [
        ("", "pass", None),
        (
            """
            def check(history): return Judgement({"lost": 2})
            """,
            "fail",
            "not met: lost",
        ),
        (
            """
            def load(world): raise ValueError("disk on fire")
            """,
            "error",
            "the load raised ValueError: disk on fire",
        ),
        (
            """
            def load(world): raise SystemExit(0)
            """,
            "error",
            "the load raised SystemExit: 0",
        ),
        (
            """
            def load(world): return {}
            """,
            "error",
            "the load returned dict, not a History",
        ),
        (
            """
            def check(history): raise KeyError("absent")
            """,
            "unknown",
            "the check raised KeyError: 'absent'",
        ),
        (
            """
            def check(history): return Judgement({}, unknown="the fault never fired")
            """,
            "unknown",
            "the fault never fired",
        ),
        (
            """
            SETTINGS["components"] = ("python:absent_library", "python:json")
            """,
            "skipped",
            "needs python:absent_library",
        ),
        (
            """
            import os
            def load(world): os.abort()
            """,
            "error",
            "the process died of SIGABRT",
        ),
        (
            """
            import threading
            SETTINGS["wall_limit_s"] = {"quick": 0.3}
            def load(world):
                world.progress(3, 10, "things")
                threading.Event().wait()
            """,
            "error",
            "wall limit of 0.3 s passed at 3 of 10 things",
        ),
        (
            """
            SETTINGS["memory_limit_bytes"] = 2 * 1024**3
            def load(world): bytearray(4 * 1024**3)
            """,
            "error",
            "the load raised MemoryError:",
        ),
        ("import absent_library", "error", "does not import: ModuleNotFoundError"),
    ],
)
def test_each_way_to_end_has_its_verdict(
    case: WriteCase, run: Callable[..., list[Result]], body: str, verdict: str, reason: str | None
) -> None:
    (result,) = run(case("DEMO-001", body))
    assert result.verdict == verdict, result.reason
    assert (result.reason is None) if reason is None else (reason in (result.reason or ""))


def test_a_result_is_stored_with_what_is_needed_to_repeat_it(
    case: WriteCase, run: Callable[..., list[Result]], store: ResultStore
) -> None:
    (result,) = run(case("DEMO-001"), seed=7)
    assert store.standing("DEMO-001").result == result
    assert (result.seed, result.size, result.params) == (7, "quick", {"adds": 1_000})
    assert result.metrics[0].n == 1_000 and "0 of 1,000" in result.metrics[0].note
    assert result.versions["python"] and result.started and result.memory_peak_bytes
    assert result.reproduce == "stageflow lab run DEMO-001 --size quick --seed 7"
    assert any(path.endswith("history.jsonl") for path in result.evidence)
    assert all((store.root / path).is_file() for path in result.evidence)


def test_output_and_tracebacks_are_evidence_and_bounded(
    case: WriteCase, run: Callable[..., list[Result]], store: ResultStore
) -> None:
    body = """
        def load(world):
            print("x" * 10_000_000)
            raise ValueError("after much talk")
        """
    (result,) = run(case("DEMO-001", body))
    files = {Path(path).name: store.root / path for path in result.evidence}
    assert "after much talk" in files["traceback-load.txt"].read_text()
    assert files["stdout.txt"].stat().st_size < 5_000_000
    assert "more bytes were left out" in files["stdout.txt"].read_text()[-60:]


def test_the_scratch_folder_goes_unless_kept(
    case: WriteCase, run: Callable[..., list[Result]]
) -> None:
    body = """
        import tempfile
        def load(world):
            tempfile.mkstemp()
            (world.scratch / "file").write_text("x")
            history = History()
            history.record("total", added=1, total=1)
            history.record("scratch", path=str(world.scratch))
            return history
        def check(history):
            return Judgement({"lost": 0}, notes=(history.last("scratch").data["path"],))
        """
    row = case("DEMO-001", body)
    (gone,), (kept,) = run(row), run(row, keep=True)
    assert not Path(gone.notes[0]).exists()
    left = sorted(Path(kept.notes[0]).iterdir())
    assert len(left) == 2, "the temporary file was made inside the scratch folder"
    for path in left:
        path.unlink()
    Path(kept.notes[0]).rmdir()


def test_processes_that_outlive_the_load_are_ended(
    case: WriteCase, run: Callable[..., list[Result]]
) -> None:
    body = """
        import subprocess, sys
        def load(world):
            program = "import threading; threading.Event().wait()"
            child = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
            history = History()
            history.record("total", added=1, total=1)
            history.record("child", pid=child.pid)
            return history
        def check(history):
            return Judgement({"lost": 0}, notes=(str(history.last("child").data["pid"]),))
        """
    (result,) = run(case("DEMO-001", body))
    assert result.verdict == "pass"
    assert "1 process outlived the load and was ended" in result.notes
    state = Path(f"/proc/{result.notes[0]}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_same_seed_same_hash_order_and_random_numbers(
    case: WriteCase, run: Callable[..., list[Result]]
) -> None:
    body = """
        def check(history):
            return Judgement({"lost": 0}, notes=(history.last("seen").data["text"],))
        def load(world):
            history = History()
            history.record("seen", text=f"{world.rng.random()} {hash('text')}")
            return history
        """
    row = case("DEMO-001", body)
    (first,), (again,), (other,) = run(row, seed=3), run(row, seed=3), run(row, seed=4)
    assert first.notes == again.notes != other.notes


def test_rows_run_a_few_at_a_time_and_tell_their_progress(
    case: WriteCase, run: Callable[..., list[Result]]
) -> None:
    rows = [case(f"DEMO-00{at}") for at in range(1, 6)]
    notes = Notes()
    results = run(*rows, watcher=notes, jobs=2)
    assert [result.row for result in results] == rows
    assert sorted(notes.ends) == rows and notes.most_at_once == 2
    assert "1000/1000 adds" in notes.notes or "running" in " ".join(notes.notes)


def test_rows_without_a_scenario_are_missing(
    case: WriteCase, run: Callable[..., list[Result]], store: ResultStore
) -> None:
    results = run("NONE-001", case("DEMO-001"))
    assert [result.verdict for result in results] == ["missing", "pass"]
    assert store.standing("NONE-001").result is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_measured(
    number: signal.Signals, case: WriteCase, cases: Path, store: ResultStore
) -> None:
    """1 quick finishes; 2 hangs is interrupted; 3 never starts; nothing is left running."""
    hang = """
        import threading
        def load(world):
            world.progress(1, 2, "hanging")
            threading.Event().wait()
        """
    rows = [case("DEMO-001"), case("DEMO-002", hang), case("DEMO-003")]

    def press() -> None:
        if any("hanging" in note for note in notes.notes):
            signal.raise_signal(number)

    notes = Notes(press)
    assert threading.current_thread() is threading.main_thread()
    results, interrupted = run_rows(
        rows, find([cases]), options=RunOptions(jobs=1), store=store, watcher=notes
    )
    assert interrupted
    assert [(each.verdict, each.reason) for each in results] == [
        ("pass", None),
        ("unknown", "interrupted"),
        ("unknown", "interrupted before it started"),
    ]
    assert store.standing("DEMO-001").result is not None
    assert store.standing("DEMO-002").result is None, "an interruption replaces no result"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_child_whose_lab_is_gone_already_does_not_begin() -> None:
    command = [sys.executable, "-m", "stageflow_lab.runner.child", "no request", "9", "1"]
    ended = subprocess.run(command, check=False, capture_output=True)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize(
    "component", ["python:json", "command:sh", f"platform:{sys.platform}", "python:os.path"]
)
def test_components_that_are_here(component: str) -> None:
    assert absent([component]) == ()


@pytest.mark.parametrize(
    "component", ["python:absent_library", "python:absent.part", "command:absent-program"]
)
def test_components_that_are_not_here(component: str) -> None:
    assert absent([component]) == (component,)


def test_a_peer_is_a_distribution_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "other-engine" / "other_engine-1.2.0.dist-info"
    installed.mkdir(parents=True)
    told = "Metadata-Version: 2.1\nName: other-engine\nVersion: 1.2.0\n"
    (installed / "METADATA").write_text(told)
    monkeypatch.delenv("STAGEFLOW_LAB_PEERS", raising=False)
    assert peer_folder("peer:other-engine") is None
    monkeypatch.setenv("STAGEFLOW_LAB_PEERS", str(tmp_path))
    assert peer_folder("peer:other-engine==1.2.0") == tmp_path / "other-engine"
    assert absent(["peer:other-engine", "peer:other-engine==1.2.0"]) == ()
    lacking = ("peer:other-engine==1.2.1", "peer:unknown-engine")
    assert absent(lacking) == lacking


def test_a_component_of_unknown_form_is_an_error() -> None:
    with pytest.raises(LabError) as caught:
        absent(["postgres"])
    assert caught.value.code == "lab.component"


BOUNDED = """
SETTINGS["metrics"] = (
    Metric("lost", "==", 0), Metric("kept", ">=", 0.97, bound="wilson_lower", of="adds"),
)
SETTINGS["sizes"] = Sizes(quick={"adds": 100}, full={"adds": 1_000})

def check(history):
    last = history.last("total").data
    lost = last["added"] - last["total"]
    return Judgement({
        "lost": counted(lost, last["added"]),
        "kept": Measured(last["total"] / last["added"], n=last["added"]),
    })
"""


def test_a_size_that_no_bound_can_be_met_at_is_not_run(
    case: WriteCase, run: Callable[..., list[Result]]
) -> None:
    row = case("DEMO-001", f"from stageflow_lab import Measured\n{BOUNDED}")
    (quick,), (full,) = run(row), run(row, size="full")
    assert (quick.verdict, quick.metrics) == ("unknown", ())
    assert quick.reason is not None and "125 are needed" in quick.reason
    assert full.verdict == "pass" and full.metrics[1].bound is not None


VACUOUS = """
SETTINGS["faults"] = ("kill",)
SETTINGS["marks"] = ("late_write",)
"""
MET = """
from stageflow.model.marks import reached
healthy = load

def load(world):
    reached("late_write")
    history = healthy(world)
    history.fired("kill", 2)
    return history
"""


def test_a_run_that_met_neither_its_marks_nor_its_faults_is_unknown(
    case: WriteCase, run: Callable[..., list[Result]]
) -> None:
    empty = case("DEMO-001", VACUOUS)
    met = case("DEMO-002", VACUOUS + MET)
    nothing, something = run(empty, met)
    assert nothing.verdict == "unknown"
    assert nothing.reason == "never reached: late_write; never fired: kill"
    assert something.verdict == "pass"
    assert (something.marks, something.fired) == ({"late_write": 1}, {"kill": 2})
    assert Result.from_json(something.to_json()) == something
