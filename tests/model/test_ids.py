"""Run ids: unique and in order through threads, forks, copies, and clocks that stop or go back."""

from __future__ import annotations

import copy
import os
import pickle
import threading
import time
from itertools import pairwise

import pytest

from stageflow.model.ids import RunIds

OWN = slice(12, 18)
"""Where an id tells its generator."""


def test_an_id_is_26_letters_that_sort_by_time() -> None:
    clock = [time.time_ns()]
    ids = RunIds(lambda: clock[0])
    made = []
    for _ in range(1_000):
        made.append(ids())
        clock[0] += 1_000_000
    assert made == sorted(set(made))
    assert all(
        len(each) == 26 and set(each) <= set("0123456789abcdefghijklmnopqrstuv") for each in made
    )
    number = int(made[0], 32)
    first_ms = (clock[0] // 1_000_000) - 1_000
    assert number >> 82 == first_ms, "48 bits of milliseconds come first"


@pytest.mark.parametrize("step_ns", [0, -1, -60_000_000_000, 250])
def test_a_clock_that_stops_or_goes_back_breaks_no_order(step_ns: int) -> None:
    clock = [time.time_ns()]

    def now() -> int:
        clock[0] += step_ns
        return clock[0]

    ids = RunIds(now)
    made = [ids() for _ in range(10_000)]  # more than the 4,096 of one millisecond
    assert all(before < after for before, after in pairwise(made))


def test_threads_share_one_order_and_no_id() -> None:
    stopped = time.time_ns()
    ids = RunIds(lambda: stopped)
    made: list[list[str]] = [[] for _ in range(8)]
    start = threading.Barrier(len(made))

    def make(into: list[str]) -> None:
        start.wait()
        into.extend(ids() for _ in range(5_000))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in made:
        assert all(before < after for before, after in pairwise(each))
    everything = [one[:12] for each in made for one in each]
    assert len(set(everything)) == len(everything), "the counter alone tells them apart"
    assert len({one[OWN] for each in made for one in each}) == 1


def test_copies_are_generators_of_their_own() -> None:
    ids = RunIds()
    ids()
    others = [copy.copy(ids), copy.deepcopy(ids), pickle.loads(pickle.dumps(ids)), RunIds()]
    assert len({each()[OWN] for each in [ids, *others]}) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_begins_anew_even_while_a_thread_makes_an_id() -> None:
    """1. A thread holds the sequence's lock. 2. The process forks. 3. The child makes ids."""
    stopped = time.time_ns()
    ids = RunIds(lambda: stopped)
    before = ids()
    sequence = ids._sequences[os.getpid()]
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with sequence._lock:
            held.set()
            forked.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, " ".join(ids() for _ in range(100)).encode())
        os._exit(0)
    forked.set()
    thread.join()
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = pipe.read().split()
    os.waitpid(child, 0)
    mine = [ids() for _ in range(100)]
    assert len(theirs) == 100
    assert not set(theirs) & {before, *mine}
    assert {each[OWN] for each in theirs} != {before[OWN]}
    assert {each[OWN] for each in mine} == {before[OWN]}


def test_an_image_of_the_state_that_runs_twice_makes_other_ids() -> None:
    """As a snapshot of a machine that is started twice: equal state, equal process id."""
    stopped = time.time_ns()
    ids, image = RunIds(lambda: stopped), RunIds(lambda: stopped)
    ids(), image()
    mine, theirs = (each._sequences[os.getpid()] for each in (ids, image))
    for field in ("own", "_last", "_high", "_head"):
        setattr(theirs, field, getattr(mine, field))
    first, second = ({each() for _ in range(1_000)} for each in (ids, image))
    assert {each[:18] for each in first} == {each[:18] for each in second}
    assert not first & second


def test_equal_entropy_in_two_processes_gives_other_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    pids = iter((1, 2))
    pid = [0]
    monkeypatch.setattr(os, "getpid", lambda: pid[0])
    stopped = time.time_ns()
    made = []
    for pid[0] in pids:
        ids = RunIds(lambda: stopped)
        made.append([ids() for _ in range(100)])
    assert not set(made[0]) & set(made[1])
