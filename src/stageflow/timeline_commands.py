"""`stageflow timelines`, `timeline` and `sweep`: an undo log as people look at it.

Nothing is recovered or put back here: that needs the resources, and so the program that has them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from stageflow.answering import when
from stageflow.journal.keys import KeyFile
from stageflow.model.errors import InputError
from stageflow.stages.work.undo.log import StepStanding, TimelineStep
from stageflow.stages.work.undo.timeline import Timeline, TimelineLook
from stageflow.stages.work.undo.undo_log import UndoLog

DAY_S: Final = 86_400.0


def add_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds them to those of `stageflow`."""
    listed = commands.add_parser("timelines", help="list the timelines of an undo log")
    listed.add_argument("--limit", type=int, default=20)
    listed.set_defaults(handler=_timelines)

    one = commands.add_parser("timeline", help="what was changed in one timeline, and by whom")
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--name", help="of the timeline, as `timelines` shows it")
    which.add_argument("--run", help="the timeline of this run")
    one.add_argument("--tenant", default="default")
    one.add_argument("--keys", metavar="FILE", help="the key that it is sealed by (KeyFile)")
    one.add_argument("--erase", action="store_true", help="remove all of it, and the way back")
    one.set_defaults(handler=_timeline)

    sweep = commands.add_parser("sweep", help="erase timelines in which nothing was done for long")
    sweep.add_argument("--idle-days", type=float, default=30.0)
    sweep.set_defaults(handler=_sweep)
    for command in (listed, one, sweep):
        command.add_argument("log", metavar="LOG", help="a SQLite file, or postgresql://...")


def _timelines(options: argparse.Namespace) -> int:
    async def told(undo: UndoLog) -> None:
        found = await undo.timelines(options.limit)
        if not found:
            sys.stdout.write("no timelines yet\n")
            return
        sys.stdout.write(f"{'LAST USED':<19}  {'TENANT':<12}  TIMELINE\n")
        for each in found:
            what = each.name or f"run {each.run}"
            is_open = "  (a step is open)" if each.is_unfinished else ""
            sys.stdout.write(f"{when(each.used_s)}  {each.tenant:<12}  {what}{is_open}\n")

    return _with_log(options, told)


def _timeline(options: argparse.Namespace) -> int:
    async def told(undo: UndoLog) -> None:
        timeline = _wanted(undo, options)
        if options.erase:
            await timeline.erase()
            sys.stdout.write("erased\n")
        else:
            sys.stdout.write(_text_of(await timeline.peek()))

    return _with_log(options, told)


def _wanted(undo: UndoLog, options: argparse.Namespace) -> Timeline:
    if options.run is not None:
        return undo.of_run(options.run, by="stageflow timeline", tenant=options.tenant)
    return undo.timeline(options.name, by="stageflow timeline", tenant=options.tenant)


def _sweep(options: argparse.Namespace) -> int:
    async def told(undo: UndoLog) -> None:
        count = await undo.sweep(idle_s=options.idle_days * DAY_S)
        sys.stdout.write(f"erased {count} timelines\n")

    return _with_log(options, told)


def _text_of(look: TimelineLook) -> str:
    if not look.steps:
        return "nothing is on record in this timeline\n"
    heading = f"{'STEP':>4}  {'WHEN':<19}  {'BY':<16}  {'WHAT':<32}  STANDING\n"
    return heading + "".join(_line_of(step, look) for step in look.steps)


def _line_of(step: TimelineStep, look: TimelineLook) -> str:
    key = "" if step.is_final else f" {step.key}"
    did = ""
    if step.undoes:
        did = f", takes back {', '.join(map(str, step.undoes))}"
    if step.permitted_by:
        did = f", by leave of {step.permitted_by}"
    what = f"{step.resource}{key}"
    return (
        f"{step.number:>4}  {when(step.at_s)}  {step.by:<16}  {what:<32}  "
        f"{_standing_of(step, look)}{did}\n"
    )


def _standing_of(step: TimelineStep, look: TimelineLook) -> str:
    if step.standing is StepStanding.ACTED:
        return "stands" if step.number in look.standing else "taken back"
    return {
        StepStanding.OPEN: "open: being made, or cut off",
        StepStanding.DROPPED: "did not happen",
        StepStanding.DOUBTED: "nobody knows",
    }[step.standing]


def _with_log(options: argparse.Namespace, told: Callable[[UndoLog], Awaitable[None]]) -> int:
    if "://" not in options.log and not Path(options.log).exists():
        raise InputError(
            "undo.no_log",
            "there is no undo log here",
            field="LOG",
            expected="the file that UndoLog(...) was given, or a postgresql:// address",
            got=options.log,
            fix="give the path as the program has it, from the folder where it runs",
        )
    keys = getattr(options, "keys", None)

    async def go() -> None:
        async with UndoLog(options.log, keys=None if keys is None else KeyFile(keys)) as undo:
            await told(undo)

    asyncio.run(go())
    return 0
