"""The check of WORK-001 on small histories, the corpus, and what an attempt is seen by."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest

from stageflow.stages.work.sandbox import probe
from stageflow.stages.work.sandbox.diagnosis import problems
from stageflow_lab import History, World
from stageflow_lab.scenarios.work.escape_attempts import FAMILIES, Attempt, chosen, corpus
from stageflow_lab.scenarios.work.escape_ground import Ground
from stageflow_lab.scenarios.work.escape_lanes import bare
from stageflow_lab.scenarios.work.harmless_programs import programs
from stageflow_lab.scenarios.work.work_001_sandbox import SCENARIO, check, ordinary_use
from stageflow_lab.verdict import Verdict, rule

HELD: dict[str, Any] = {
    "succeeded": False,
    "evidence": [],
    "changed": False,
    "stayed": False,
    "taken": None,
    "reason": "error",
    "said": "",
}


def history(
    *,
    lanes: tuple[str, ...] = ("process", "wasm"),
    wrong: int = 0,
    slow: tuple[str, ...] = (),
    unreal: int = 0,
    **changed: Any,
) -> History:
    """60 attempts that are held; `changed` is what was seen of one of them in a sandbox."""
    made = History({"attempts": 60})
    for at in range(60):
        real = at >= unreal
        made.record("attempt", where="bare", name=f"a{at}", **{**HELD, "succeeded": real})
        for lane in lanes:
            seen = {**HELD, **(changed if (at, lane) == (unreal, "process") else {})}
            made.record("attempt", where=lane, name=f"a{at}", **seen)
    for at in range(400):
        made.record(
            "ordinary", where="wasm", kind_of="numbers", right=at >= wrong, said="it said this"
        )
    for lane in ("process", "wasm"):
        times = 6.0 if lane in slow else 3.0
        pairs = [[times * 0.02, 0.02]] * 15
        made.record("started", back_end=lane, pairs=pairs, in_row=pairs)
    return made


def judged(made: History) -> tuple[Verdict, str]:
    ruling = rule(SCENARIO, check(made), size="quick")
    return ruling.verdict, ruling.reason or ""


def test_attempts_that_are_held_pass() -> None:
    assert judged(history(taken=1.05)) == (Verdict.PASS, "")


@pytest.mark.parametrize(
    ("seen", "metric"),
    [
        ({"evidence": ["it read the token"]}, "escapes"),
        ({"changed": True}, "canaries_unchanged"),
        ({"taken": 1.2}, "caps_overshoot"),
        ({"stayed": True}, "survivors"),
        ({"wrong": 4}, "benign_success"),
        ({"slow": ("process",)}, "start_process"),
        ({"slow": ("wasm",)}, "start_wasm"),
    ],
)
def test_each_violation_fails_its_metric(seen: dict[str, Any], metric: str) -> None:
    verdict, reason = judged(history(**{"taken": 1.0, **seen}))
    assert verdict is Verdict.FAIL and metric in reason


def test_what_got_out_and_what_failed_is_told() -> None:
    notes = check(history(evidence=["it read the token"], wrong=1)).notes
    assert any("process a0" in note for note in notes)
    assert any("it said this" in note for note in notes)


def test_attempts_that_fail_without_a_sandbox_too_decide_nothing() -> None:
    verdict, reason = judged(history(unreal=1, taken=1.0))
    assert verdict is Verdict.UNKNOWN and "59 of 60" in reason


def test_a_back_end_that_was_never_attempted_decides_nothing() -> None:
    verdict, reason = judged(history(lanes=("process",), taken=1.0))
    assert verdict is Verdict.UNKNOWN and "wasm" in reason


def test_the_corpus_has_its_150_and_a_few_of_it_meet_each_wall() -> None:
    whole = corpus()
    assert len({each.name for each in whole}) == len(whole) >= 150
    for seed in range(20):
        few = chosen(6, random.Random(seed))
        assert [each.family for each in few] == list(FAMILIES)
    assert len(chosen(60, random.Random(1))) == 60
    for each in whole:
        compile(each.code, each.name, "exec")


def test_programs_are_made_from_the_seed_and_compute_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for each in programs(40, random.Random(3)):
        scope: dict[str, Any] = {"inputs": each.inputs, "__name__": "__main__"}
        exec(compile(each.code, each.kind, "exec"), scope)  # ours, and harmless
        assert scope["output"] == each.value, each.kind


SEEN = [
    ("print(open(inputs['secret']).read())", "file", "evidence"),
    ("open(inputs['public'] + '/page.txt', 'w')", "granted", "changed"),
    ("import shutil; shutil.rmtree(inputs['vault'])", "file", "changed"),
    ("import socket; socket.create_connection(('127.0.0.1', inputs['tcp']))", "socket", "evidence"),
    ("print('GAINED')", "syscall", "evidence"),
    ("import os, signal; os.kill(inputs['pid'], signal.SIGKILL)", "syscall", "changed"),
]


@pytest.mark.parametrize(("code", "family", "field"), SEEN)
async def test_what_gets_out_is_seen_and_put_in_order(
    code: str, family: str, field: str, tmp_path: Path
) -> None:
    with Ground(tmp_path / "g", "token-1234") as ground:
        seen = await bare(ground, Attempt("one", family, code))
        assert getattr(seen, field) and seen.succeeded
        calm = await bare(ground, Attempt("two", family, "pass"))
        assert not calm.succeeded and not calm.changed


async def test_a_process_that_stays_is_seen(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    for fd in (0, 1, 2): os.close(fd)\n"
        "    for _ in range(60): open(inputs['beat'], 'a').write('x'); time.sleep(0.01)\n"
        "    os._exit(0)\n"
    )
    with Ground(tmp_path / "g", "token-1234") as ground:
        assert (await bare(ground, Attempt("one", "daemon", code))).stayed
        assert not (await bare(ground, Attempt("two", "daemon", "pass"))).stayed


async def test_what_it_got_is_told_against_its_cap(tmp_path: Path) -> None:
    with Ground(tmp_path / "g", "token-1234") as ground:
        for code, cap, least in (
            ("print('GOT', 4); print('GOT', 16)", "tasks", 2.0),
            ("print('x' * 2 * inputs['caps']['output'])", "output", 2.0),
        ):
            seen = await bare(ground, Attempt("one", "bomb", code, cap))
            assert seen.taken is not None and seen.taken >= least and seen.succeeded


def test_the_ordinary_use_works(tmp_path: Path) -> None:
    reasons = problems(probe(), "process")
    if reasons:
        pytest.skip("; ".join(reasons))
    ordinary_use(World(seed=1, size={}, scratch=tmp_path))
    assert os.environ.get("DESK_TOKEN") is None
