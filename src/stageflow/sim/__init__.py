"""Deterministic simulation: the real runtime under a seeded loop, virtual time, simulated disk.

`simulate(main, seed=7)` runs `main(sim)` and either returns its SimResult or raises with the line
that reproduces the failure. Design: docs/design/simulation.md.
"""

from stageflow.sim.disk import DiskFailure, DiskFaults, SimDisk
from stageflow.sim.journal import Dropped, SimJournal
from stageflow.sim.loop import SimLoop
from stageflow.sim.run import Sim, SimClock, SimResult, simulate, trial
from stageflow.sim.schedule import Fifo, Pct, Pick, RandomWalk, Replay, Schedule
from stageflow.sim.shrink import Deviations, Shrunk, shrink

__all__ = [
    "Deviations",
    "DiskFailure",
    "DiskFaults",
    "Dropped",
    "Fifo",
    "Pct",
    "Pick",
    "RandomWalk",
    "Replay",
    "Schedule",
    "Shrunk",
    "Sim",
    "SimClock",
    "SimDisk",
    "SimJournal",
    "SimLoop",
    "SimResult",
    "shrink",
    "simulate",
    "trial",
]
