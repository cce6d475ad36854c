"""Processes that run a journalled chain and are killed, one after another, until it is done."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from ...history import History
from ...world import World
from .killed_chain import LINE_BYTES, MOMENTS, Order, depths

KILLS_A_RUN: Final = 10
POLL_S: Final = 0.0005
PROCESS_LIMIT_S: Final = 900.0


def kill_and_resume(world: World, history: History) -> None:
    """Records `killed` per SIGKILL and `resumed` per process that went on after one.

    Several kills hit one run: each further process resumes it and is killed deeper.
    """
    kills, depth = world.size["kills"], world.size["link_depth"]
    done = victim = 0
    while done < kills and victim < 2 * kills:
        here = min(KILLS_A_RUN, kills - done)
        points = sorted(world.rng.sample(range(depth * 9 // 10), here))
        moments = [MOMENTS[(done + at) % len(MOMENTS)] for at in range(here)]
        fired = _one_run(world, history, victim, list(zip(points, moments, strict=True)))
        if fired == 0:
            return  # nothing more can be learnt: the first process did not even start
        done += fired
        victim += 1
        world.progress(done, kills, "kills")


def _one_run(world: World, history: History, victim: int, kills: list[tuple[int, str]]) -> int:
    """One run from its start to its end; the number of kills that fired."""
    folder = world.scratch / f"victim{victim}"
    folder.mkdir()
    before: set[int] = set()
    fired = 0
    for number, (point, moment) in enumerate([*kills, (0, None)]):
        side = folder / f"executed{number}"
        counted = moment in ("before_commit", "after_commit")
        reached = max(before, default=-1)
        order = Order(
            journal=str(folder / "runs.db"),
            run=f"victim{victim}",
            depth=world.size["link_depth"],
            executed=str(side),
            is_new=number == 0,
            moment=moment,
            # A kill from outside may have come late: the next point lies ahead all the same.
            at=max(1, point - reached) if counted else max(point, reached + 2),
            sabotage=world.sabotage,
        )
        code, account, said = _carried_out(order, side)
        executed = depths(side)
        if number > 0:
            again = len(before.intersection(executed)) + len(executed) - len(set(executed))
            history.record(
                "resumed", how="kill", reexecuted=again, executed=len(executed), code=code
            )
        before.update(executed)
        if "RecursionError" in said:
            history.record("recursion", where="killed_chain")
            break
        if moment is not None and code == -9:
            fired += 1
            history.record("killed", moment=moment, depth=max(before, default=-1))
            continue
        # It lived: the run is over, or the process failed in a way that its account tells.
        history.record("completed", how="kill", **_ending(order, account, said, before))
        break
    return fired


def _carried_out(order: Order, side: Path) -> tuple[int, dict[str, Any], str]:
    """(exit code, account, standard error) of the process that carries `order` out."""
    with subprocess.Popen(
        order.arguments(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + PROCESS_LIMIT_S
        while order.moment == "from_outside" and process.poll() is None:
            size = side.stat().st_size if side.exists() else 0
            already = order.at if time.monotonic() > deadline else _last(side, size)
            if already >= order.at:
                process.kill()
                break
            time.sleep(POLL_S)
        try:
            out, said = process.communicate(timeout=PROCESS_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, said = process.communicate()
            said += "\nthe process did not end in time"
    return process.returncode, json.loads(out) if out else {}, said[-2_000:]


def _last(side: Path, size: int) -> int:
    """The depth last written, or -1."""
    whole = size // LINE_BYTES
    if whole == 0:
        return -1
    with side.open("rb") as file:
        file.seek((whole - 1) * LINE_BYTES)
        return int(file.read(LINE_BYTES))


def _ending(order: Order, account: dict[str, Any], said: str, executed: set[int]) -> dict[str, Any]:
    return {
        "ok": account == {"status": "ok", "output": order.depth}
        and executed == set(range(order.depth)),
        "status": account.get("status", "none"),
        "said": said.splitlines()[-1][:300] if said else "",
    }
