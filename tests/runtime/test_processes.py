"""Stages in child processes: they work, fail, die and are killed without a trace."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio

from stageflow import Limits, Pipeline, Runtime, transform
from stageflow.runtime.pools import Precedence
from stageflow.runtime.processes import ProcessPool

STAGES = """
import os, time

def where(x: int) -> int:
    print("this goes to standard error")
    return os.getpid()

def breaks(x: int) -> int:
    raise LookupError("in a child")

def odd(x: int) -> int:
    class Local(Exception):
        pass
    raise Local("can't travel")

def dies(x: int) -> int:
    os._exit(7)

def sleeps(x: int) -> int:
    open(f"{os.environ['PIDS']}/{os.getpid()}", "w").close()
    time.sleep(60)
    return x
"""


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "stages_of_a_child.py").write_text(STAGES)
    (tmp_path / "pids").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    yield importlib.import_module("stages_of_a_child")
    del sys.modules["stages_of_a_child"]


@pytest_asyncio.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with Runtime(limits=Limits(processes=1, grace_s=1.0)) as one:
        yield one


def desk(body: Any, runtime: Runtime, **options: Any) -> Pipeline[Any]:
    stage = transform(place="process", **options)(body)
    return Pipeline("p", [stage], inputs={"x": int}, outputs=stage).using(runtime=runtime)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_stage_runs_in_a_child_that_is_kept_for_the_next(
    stages: ModuleType, runtime: Runtime
) -> None:
    pids = {(await desk(stages.where, runtime).run(x=1)).output for _ in range(3)}
    assert len(pids) == 1 and pids != {os.getpid()}
    await runtime.processes.close()
    assert is_gone(pids.pop())


async def test_exceptions_travel_and_a_death_is_named(stages: ModuleType, runtime: Runtime) -> None:
    run = await desk(stages.breaks, runtime).run(x=1)
    assert (run.status, run.reason) == ("failed", "error:LookupError")
    run = await desk(stages.odd, runtime).run(x=1)
    assert run.failure is not None and "Local" in run.failure.message
    run = await desk(stages.dies, runtime).run(x=1)
    assert run.failure is not None and run.failure.reason == "stage.process_died"
    assert "exit status 7" in run.failure.message
    assert (await desk(stages.where, runtime).run(x=1)).status == "ok"


async def test_a_child_is_killed_when_its_time_is_over(
    stages: ModuleType, runtime: Runtime, tmp_path: Path
) -> None:
    assert (await desk(stages.where, runtime).run(x=1)).status == "ok"  # a process is ready now
    begun = time.monotonic()
    run = await desk(stages.sleeps, runtime, timeout=1.0).run(x=1)
    assert (run.status, run.reason) == ("failed", "timeout") and time.monotonic() - begun < 10
    pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert pids and all(is_gone(pid) for pid in pids)
    assert run.quarantined == ()


async def test_calls_beyond_the_limit_wait_for_a_place(
    stages: ModuleType, runtime: Runtime, tmp_path: Path
) -> None:
    """
    1. one call sleeps in the only child; three more wait for a place
    2. the sleeper and one that waits are cancelled in the same turn
    3. the others get the place, one after another
    """
    sleeper = desk(stages.sleeps, runtime).start(x=1)
    while not list((tmp_path / "pids").iterdir()):  # noqa: ASYNC110  (another process's file)
        await asyncio.sleep(0.005)
    handles = [desk(stages.where, runtime).start(x=1) for _ in range(3)]
    await asyncio.sleep(0.005)
    sleeper.cancel()
    handles[0].cancel()
    assert (await sleeper).status == (await handles[0]).status == "cancelled"
    assert [(await handle).status for handle in handles[1:]] == ["ok", "ok"]


async def test_a_place_offered_to_a_call_that_is_cancelled_goes_to_the_next() -> None:
    """
    1. one call has the only place, two wait for it
    2. the place is offered to the first of them, which is cancelled before it can take it
    3. the second gets it
    """
    pools = Runtime().pools
    pool = ProcessPool(1, pools)
    holder = await pools.slot(pool.supply, Precedence())
    first, second = (asyncio.create_task(pools.slot(pool.supply, Precedence())) for _ in range(2))
    await asyncio.sleep(0)
    pools.give_back(pool.supply, holder)
    first.cancel()
    async with asyncio.timeout(5):
        await second
    assert first.cancelled()


TREES = """
import os, signal, subprocess, sys, time

BELOW = '''
import os, signal, sys, time
pids = os.environ["PIDS"]
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] in ("deaf", "apart"):
    os.setsid()
open(f"{pids}/{os.getpid()}", "w").close()
time.sleep(60)
'''

def start(how, env=None):
    return subprocess.Popen([sys.executable, "-c", BELOW, how], env=env)

def tree(x: int) -> int:
    for how in ("below", "apart", "deaf"):
        start(how)
    start("apart", {"PIDS": os.environ["PIDS"]})
    if os.fork() == 0:
        start("deaf")
        os._exit(0)
    try:
        time.sleep(60)
    finally:
        open(f"{os.environ['PIDS']}/cleaned", "w").close()
    return x

def leaves(x: int) -> int:
    start("deaf")
    while not os.listdir(os.environ["PIDS"]):
        time.sleep(0.01)
    return x

def dies_above(x: int) -> int:
    leaves(x)
    os._exit(3)
"""


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "trees_of_a_child.py").write_text(TREES)
    (tmp_path / "pids").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    yield importlib.import_module("trees_of_a_child")
    del sys.modules["trees_of_a_child"]


def started(tmp_path: Path) -> list[int]:
    return [int(each.name) for each in (tmp_path / "pids").iterdir() if each.name.isdigit()]


def are_gone(pids: list[int]) -> bool:
    """They may be zombies yet, of whoever reaps here."""
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="process trees are found in /proc")
async def test_all_that_a_cancelled_stage_started_is_ended_and_its_cleanup_runs(
    trees: ModuleType, runtime: Runtime, tmp_path: Path
) -> None:
    """Also what has a session or an environment of its own, is deaf, or has lost its parent."""
    handle = desk(trees.tree, runtime).start(x=1)
    for _ in range(1_500):
        if len(started(tmp_path)) == 5:
            break
        await asyncio.sleep(0.02)
    pids = started(tmp_path)
    assert len(pids) == 5
    handle.cancel()
    run = await handle
    assert run.status == "cancelled" and run.quarantined == ()
    assert are_gone(pids)
    assert (tmp_path / "pids" / "cleaned").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="process trees are found in /proc")
@pytest.mark.parametrize("name", ["leaves", "dies_above"])
async def test_nothing_is_left_of_a_stage_that_has_ended(
    trees: ModuleType, runtime: Runtime, tmp_path: Path, name: str
) -> None:
    run = await desk(getattr(trees, name), runtime).run(x=1)
    assert run.is_ok == (name == "leaves")
    pids = started(tmp_path)
    assert len(pids) == 1 and are_gone(pids)
