"""What width costs: time a stage at two widths and beside a bare task group, and memory a stage."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any, Final

from ...heap import still_heap
from ...history import History
from ...ratio import Clock, timed_pairs
from ...world import World
from .fan_out_runs import BODIES, MAP_AT_ONCE
from .peer_process import Peer
from .wide_fan_outs import Body, bare, fan_out, mapped, run_all

Work = Callable[[], Coroutine[Any, Any, object]]
NARROW: Final = 50
WIDE: Final = 5_000
WEIGHED: Final[tuple[tuple[Body, int], ...]] = (
    ("noop", 500),
    ("waits", 50),
    ("waits", 500),
    ("waits", WIDE),
)
"""Stages that wait are all there at a time, and weigh the most."""
BUSY_WIDTHS: Final = (50, 500)
"""Of stages that work for 1 ms each: a pass takes a millisecond a stage, on both sides."""
MAP_WIDTH: Final = 500
PEER_WIDTH: Final = 500
STAGES_A_ROUND: Final = 1_000
"""Narrow fan-outs are repeated within a round until so many stages ran: a clock has its grain."""
ROUNDS_MIN: Final = 7


def time_widths(world: World, history: History) -> None:
    """Records `timed` pairs of seconds a stage: (wide, narrow), in CPU time."""
    for body in BODIES:
        wide, narrow = fan_out(WIDE, body), fan_out(NARROW, body)
        times = STAGES_A_ROUND // NARROW
        _timed(
            history,
            f"widths_{body}",
            _rounds(world),
            lambda wide=wide: run_all(wide),  # type: ignore[misc]
            lambda narrow=narrow, times=times: run_all(narrow, times),  # type: ignore[misc]
            stages=(WIDE, NARROW * times),
        )
        world.progress(1, 4, f"timing: widths, {body}")


def time_floors(world: World, history: History) -> None:
    """Records `timed` pairs of seconds a stage: (fan-out, task group), at every width.

    Stages that only compute are timed on the CPU's clock, those that wait on the wall's.
    """
    for width in world.size["widths"]:
        for body in BODIES:
            _beside_floor(world, history, body, width)
        world.progress(2, 4, f"timing: {width} beside a task group")
    for width in BUSY_WIDTHS:
        _beside_floor(world, history, "busy", width)
    children = mapped(MAP_AT_ONCE)
    _timed(
        history,
        "floor_mapped",
        ROUNDS_MIN,
        lambda: children.run(width=MAP_WIDTH),
        lambda: bare(MAP_WIDTH, "noop"),
        stages=(MAP_WIDTH, MAP_WIDTH),
    )


def _beside_floor(world: World, history: History, body: Body, width: int) -> None:
    pipeline = fan_out(width, body)
    times = 1 if body == "busy" else max(1, STAGES_A_ROUND // width)
    _timed(
        history,
        f"floor_{body}",
        ROUNDS_MIN if body == "busy" else _rounds(world),
        lambda: run_all(pipeline, times),
        lambda: bare(width, body, times),
        stages=(width * times, width * times),
        clock="wall" if body == "waits" else "cpu",
        width=width,
    )


def weigh(world: World, history: History) -> None:
    """Records `weighed`: the most that building and running held at a time, by width and body."""
    for body, width in WEIGHED:
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            pipeline = fan_out(width, body)
            run = asyncio.run(pipeline.run(x=1))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        history.record("weighed", body=body, width=width, peak_bytes=peak - before, ok=run.is_ok)
    world.progress(3, 4, "weighed")


def time_peer(world: World, history: History) -> None:
    """Records `timed` pairs of CPU seconds a stage: (peer, fan-out); nothing without the peer."""
    pipeline = fan_out(PEER_WIDTH, "noop")
    with Peer.started() as peer:
        if peer is None:
            return
        with asyncio.Runner() as runner:
            for turn in range(ROUNDS_MIN + 1):
                # The order alternates, as in timed_pairs; the first round warms both up.
                before_s = peer.cpu_s(PEER_WIDTH) if turn % 2 else 0.0
                started = time.process_time()
                runner.run(run_all(pipeline))
                own_s = time.process_time() - started
                peer_s = before_s or peer.cpu_s(PEER_WIDTH)
                if turn:
                    stages = (PEER_WIDTH, PEER_WIDTH)
                    _record(history, "peer", peer_s, own_s, stages, PEER_WIDTH)


def _rounds(world: World) -> int:
    return max(ROUNDS_MIN, int(world.size["rounds"]))


def _timed(
    history: History,
    what: str,
    rounds: int,
    subject: Work,
    floor: Work,
    *,
    stages: tuple[int, int],
    clock: Clock = "cpu",
    width: int = 0,
) -> None:
    with still_heap(), asyncio.Runner() as runner:
        pairs = timed_pairs(
            lambda: runner.run(subject()),
            lambda: runner.run(floor()),
            repeats=rounds,
            clock=clock,
        )
    for subject_s, floor_s in pairs:
        _record(history, what, subject_s, floor_s, stages, width)


def _record(
    history: History,
    what: str,
    subject_s: float,
    floor_s: float,
    stages: tuple[int, int],
    width: int,
) -> None:
    history.record(
        "timed",
        what=what,
        width=width,
        subject_s=subject_s / stages[0],
        floor_s=floor_s / stages[1],
    )
