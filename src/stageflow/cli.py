"""The `stageflow` command: run, runs, resume, show, draw. The lab joins by entry point."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stageflow.model.bag import MISSING
from stageflow.model.errors import InputError, StageflowError
from stageflow.runtime.account import AttemptAccount, attempts_of
from stageflow.runtime.events import Event, EventType, Subscription
from stageflow.runtime.outcome import Run
from stageflow.runtime.pipeline import Pipeline
from stageflow.runtime.recovery import load_target, locate
from stageflow.runtime.runtime import LOCAL_ROOT, Runtime

USAGE = 64
"""Exit status of a wrong command line (sysexits.h EX_USAGE)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:
        return USAGE if stop.code else 0
    sys.path.insert(0, str(Path.cwd()))
    try:
        status: int = options.handler(options)
    except StageflowError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stageflow", description=__doc__)
    parser.add_argument(
        "--version", action="version", version=importlib.metadata.version("stageflow")
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a pipeline, journalled in .stageflow/")
    run.add_argument("target", metavar="MODULE:ATTR")
    run.add_argument("--input", action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("--quiet", action="store_true", help="no progress, only the output")
    run.set_defaults(handler=_run)

    runs = commands.add_parser("runs", help="list the journalled runs, newest first")
    runs.add_argument("--limit", type=int, default=20)
    runs.set_defaults(handler=_runs)

    resume = commands.add_parser("resume", help="go on with an interrupted or failed run")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument("--pipeline", metavar="MODULE:ATTR", help="where the pipeline is now")
    resume.add_argument(
        "--rerun",
        action="append",
        default=[],
        metavar="NODE",
        help="a WORK node whose effect is unknown and may be repeated",
    )
    resume.add_argument("--quiet", action="store_true", help="no progress, only the output")
    resume.set_defaults(handler=_resume)

    show = commands.add_parser("show", help="what each node of a run got, gave, and how long")
    show.add_argument("run", metavar="RUN")
    show.add_argument("--pipeline", metavar="MODULE:ATTR", help="where the pipeline is now")
    show.set_defaults(handler=_show)

    draw = commands.add_parser("draw", help="draw a pipeline")
    draw.add_argument("target", metavar="MODULE:ATTR")
    draw.add_argument("--form", choices=("text", "mermaid"), default="text")
    draw.set_defaults(handler=_draw)

    for command in (run, runs, resume, show):
        command.add_argument(
            "--root", default=LOCAL_ROOT, metavar="DIR", help="where the journal lies"
        )
    for entry in importlib.metadata.entry_points(group="stageflow.commands"):
        entry.load()(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    pipeline = load_target(options.target)
    inputs = _inputs(pipeline, options.input)

    async def go() -> Run[Any]:
        async with Runtime.local(options.root) as runtime, _progress(options.quiet) as events:
            bound = pipeline.using(runtime=runtime, events=events, target=options.target)
            handle = bound.start(**inputs)
            if not options.quiet:
                sys.stderr.write(f"run {handle.run_id}\n")
            try:
                return await handle
            except asyncio.CancelledError:
                handle.cancel("interrupted")
                await handle
                sys.stderr.write(f"interrupted; go on with: stageflow resume {handle.run_id}\n")
                raise

    return _report(asyncio.run(go()))


def _resume(options: argparse.Namespace) -> int:
    pipeline = load_target(options.pipeline) if options.pipeline else None

    async def go() -> Run[Any]:
        async with _existing(options.root) as runtime, _progress(options.quiet) as events:
            return await runtime.resume(
                options.run, pipeline=pipeline, rerun=options.rerun, events=(events,)
            )

    return _report(asyncio.run(go()))


def _runs(options: argparse.Namespace) -> int:
    async def go() -> int:
        async with _existing(options.root) as runtime:
            summaries = await runtime.runs(limit=options.limit)
        if not summaries:
            sys.stdout.write("no runs yet\n")
            return 0
        sys.stdout.write(
            f"{'RUN':<26}  {'STARTED':<19}  {'STATUS':<11}  {'PIPELINE':<16}  REASON\n"
        )
        for one in summaries:
            status = one.status
            if status == "running" and one.live is False:
                status = "interrupted"
            header = one.header
            sys.stdout.write(
                f"{header.run:<26}  {_when(header.created_wall_s)}  {status:<11}  "
                f"{header.pipeline:<16}  {one.reason}\n"
            )
        return 0

    return asyncio.run(go())


def _show(options: argparse.Namespace) -> int:
    async def go() -> int:
        async with _existing(options.root) as runtime:
            loaded = await runtime.load(options.run)
        pipeline: Pipeline[Any] | None = None
        try:
            pipeline = load_target(options.pipeline) if options.pipeline else locate(loaded.header)
        except StageflowError as error:
            sys.stderr.write(f"values are not shown: {error.message}\n")
        header = loaded.header
        sys.stdout.write(
            f"run {header.run} of {header.pipeline}: {loaded.status}"
            f"{' (' + loaded.reason + ')' if loaded.reason else ''}\n"
            f"started {_when(header.created_wall_s)}, tenant {header.tenant}, "
            f"epoch {loaded.epoch}\n"
        )
        for attempt in attempts_of(loaded, pipeline.plan if pipeline else None):
            sys.stdout.write(_shown(attempt))
        return 0

    return asyncio.run(go())


def _draw(options: argparse.Namespace) -> int:
    sys.stdout.write(load_target(options.target).draw(options.form) + "\n")
    return 0


def _existing(root: str) -> Runtime:
    if not (Path(root) / "journal.db").exists():
        raise InputError(
            "run.no_journal_here",
            "there are no runs here",
            field="--root",
            expected=f"a folder with journal.db, as `stageflow run` makes it in {LOCAL_ROOT}",
            got=root,
            fix="run from the folder where the run was started, or give --root",
        )
    return Runtime.local(root)


def _inputs(pipeline: Pipeline[Any], given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs. A value is text where the input is a str, JSON elsewhere."""
    inputs: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(
                "run.input_pair",
                "an input is given as NAME=VALUE",
                pipeline=pipeline.name,
                field="--input",
                got=name[:80],
                fix='--input text="..."',
            )
        spec = pipeline.plan.inputs.get(name)
        value: Any = text
        if spec is not None and spec.annotation is not str:
            with contextlib.suppress(ValueError):  # not JSON: the contract says what it expects
                value = json.loads(text)
        inputs[name] = value
    return inputs


@contextlib.asynccontextmanager
async def _progress(quiet: bool) -> Any:
    """Tells on standard error what ends, as it ends."""
    events = Subscription()

    async def tell() -> None:
        async for event in events:
            line = _progress_line(event)
            if line and not quiet:
                sys.stderr.write(line)

    telling = asyncio.create_task(tell())
    try:
        yield events
    finally:
        events.close()
        await telling


def _progress_line(event: Event) -> str:
    if event.type is EventType.STAGE_ENDED:
        reason = f"  {event.reason}" if event.reason else ""
        return f"  {event.status:<9} {event.node}  {event.duration_s * 1000:.1f} ms{reason}\n"
    if event.type is EventType.QUARANTINED:
        return f"  quarantined {event.reason}: it ignored its cancellation\n"
    return ""


def _report(run: Run[Any]) -> int:
    if run.status == "ok":
        sys.stdout.write(_text(run.output) + "\n")
        return 0
    sys.stderr.write(f"run {run.id} ended as {run.status}: {run.reason}\n")
    if run.failure is not None:
        sys.stderr.write(f"{run.failure}\n")
    unknown = [name for name, node in run.nodes.items() if node.state == "unknown"]
    if unknown:
        rerun = "".join(f" --rerun {name}" for name in unknown)
        sys.stderr.write(
            f"nobody knows whether {', '.join(unknown)} took effect; look, and where it may be\n"
            f"repeated go on with: stageflow resume {run.id}{rerun}\n"
        )
    elif run.status != "blocked":
        sys.stderr.write(f"go on with: stageflow resume {run.id}\n")
    return 1


def _shown(attempt: AttemptAccount) -> str:
    took = "" if attempt.duration_s is None else f"  {attempt.duration_s * 1000:.1f} ms"
    reason = f"  {attempt.reason}" if attempt.reason else ""
    lines = [f"  {attempt.node} (attempt {attempt.attempt}): {attempt.status}{took}{reason}"]
    lines += [f"      got {name} = {_short(value)}" for name, value in attempt.got.items()]
    if attempt.gave is not MISSING:
        lines.append(f"      gave {_short(attempt.gave)}")
    if attempt.failure:
        lines += [f"      {line}" for line in attempt.failure.splitlines()[:8]]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    from pydantic_core import to_json  # only here, and slow to import

    return to_json(value, indent=2, fallback=repr).decode()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _when(wall_s: float) -> str:
    return datetime.datetime.fromtimestamp(wall_s).strftime("%Y-%m-%d %H:%M:%S")


if __name__ == "__main__":
    sys.exit(main())
