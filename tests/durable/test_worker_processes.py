"""`stageflow worker` as real processes: killed, stopped and told to end, sharing one queue."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from stageflow import Pipeline, Runtime
from stageflow.journal.store import LoadedRun
from stageflow.model.record import RecordType
from stageflow.runtime.recovery import load_target

HERE = Path(__file__).parent
TARGET = "queued_desk:DESK"
WAIT_S = 60.0
RUNS = 36
WORKERS = 3


@pytest.fixture(params=["postgres", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return f"{url}&lease_s=0.6"


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline[str]]:
    monkeypatch.syspath_prepend(str(HERE))
    yield load_target(TARGET)
    sys.modules.pop("queued_desk", None)


@contextmanager
def worker(
    log: Path, journal: str, *more: str, pace_s: float = 0.0
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "stageflow.cli", "worker", TARGET, "--journal", journal]
    environment = {**os.environ, "QUEUED_DESK_LOG": str(log), "QUEUED_DESK_S": str(pace_s)}
    with subprocess.Popen(
        [*command, "--at-once", "4", *more], cwd=HERE, env=environment, text=True,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("worker: "), "it does not work"
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


async def until(holds: Callable[[], object]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.05)  # noqa: ASYNC251 - other processes are waited for


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def sound(loaded: LoadedRun, entered: Counter[str]) -> None:
    """One accepted outcome for each node; no attempt entered twice, none after the accepted one."""
    run = loaded.header.run
    accepted = {r.node: r.attempt for r in loaded.records if r.is_accepted}
    assert loaded.status == "ok"
    assert len([r for r in loaded.records if r.is_accepted]) == len(accepted) == 4
    for node, attempt in accepted.items():
        tried = [number for number in range(1, 30) if entered[f"{run} {node} {number}"]]
        assert tried and max(tried) == attempt, f"{node} ran again after it was finished: {tried}"
        assert max(entered[f"{run} {node} {number}"] for number in tried) == 1


async def test_workers_that_are_killed_and_stopped_lose_and_repeat_nothing(
    tmp_path: Path, journal: str, desk: Pipeline[str]
) -> None:
    """
    1. three workers share a queue of runs of three tenants
    2. again and again one is killed and another started, or one is stopped past its lease
    3. in the end every run is ok, and no finished node ran again
    """
    log, rng = tmp_path / "log", random.Random(5)
    async with Runtime(journal=journal) as runtime:
        bound = desk.using(runtime=runtime, target=TARGET)
        with ExitStack() as stack:
            alive = [stack.enter_context(worker(log, journal, pace_s=0.2)) for _ in range(WORKERS)]
            runs = [
                await bound.using(tenant=f"t{number % 3}").submit(text=str(number))
                for number in range(RUNS)
            ]
            for number in range(6):
                await until(lambda n=number: len(lines(log)) >= 8 * (n + 1))
                place = rng.randrange(WORKERS)
                if number % 3 == 2:
                    alive[place].send_signal(signal.SIGSTOP)
                    time.sleep(1.0)  # noqa: ASYNC251 - the lease of a stopped process expires
                    alive[place].send_signal(signal.SIGCONT)
                    continue
                alive[place].kill()
                alive[place] = stack.enter_context(worker(log, journal, pace_s=0.2))
            for run in runs:
                await runtime.result(run, wait_s=WAIT_S)
            for process in alive:
                process.terminate()
                assert process.wait(WAIT_S) == 0, process.stderr and process.stderr.read()
        entered = Counter(lines(log))
        loaded = [await runtime.load(run) for run in runs]
    for one in loaded:
        sound(one, entered)
    assert max(one.epoch for one in loaded) > 2, "no run was ever taken over"
    late = sum(r.type is RecordType.ABANDONED for one in loaded for r in one.records)
    assert late > 0, "no attempt was ever cut off"


async def test_a_worker_that_is_told_to_end_finishes_its_runs(
    tmp_path: Path, journal: str, desk: Pipeline[str]
) -> None:
    log = tmp_path / "log"
    async with Runtime(journal=journal) as runtime:
        run = await desk.using(runtime=runtime, target=TARGET).submit(text="wait")
        with worker(log, journal) as process:
            await until(lambda: any("right" in line for line in lines(log)))
            process.terminate()
            log.with_suffix(".go").touch()
            assert process.wait(WAIT_S) == 0
            assert process.stderr is not None and run in process.stderr.read()
        assert (await runtime.load(run)).status == "ok"


async def test_a_worker_without_time_to_finish_lets_go_of_its_runs(
    tmp_path: Path, journal: str, desk: Pipeline[str]
) -> None:
    """They can be taken up at once: nobody waits for a lease."""
    log = tmp_path / "log"
    async with Runtime(journal=journal) as runtime:
        run = await desk.using(runtime=runtime, target=TARGET).submit(text="wait")
        with worker(log, journal, "--drain-s", "0") as process:
            await until(lambda: any("right" in line for line in lines(log)))
            process.terminate()
            assert process.wait(WAIT_S) == 0
        (line,) = await runtime.runs()
        assert (line.status, line.owner, line.live) == ("running", None, False)
        log.with_suffix(".go").touch()
        with worker(log, journal):
            assert (await runtime.result(run, wait_s=WAIT_S)).output == "waitlwaitr"
        sound(await runtime.load(run), Counter(lines(log)))


def test_the_command_line_queues_a_run(tmp_path: Path, journal: str) -> None:
    submit = [sys.executable, "-m", "stageflow.cli", "submit", TARGET, "--journal", journal]
    done = subprocess.run(
        [*submit, "--input", "text=a", "--tenant", "acme", "--priority", "3"],
        cwd=HERE, capture_output=True, text=True, check=True,
    )  # fmt: skip
    run = done.stdout.strip()
    listed = subprocess.run(
        [sys.executable, "-m", "stageflow.cli", "runs", "--journal", journal],
        cwd=HERE, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run in listed.stdout and "queued" in listed.stdout
