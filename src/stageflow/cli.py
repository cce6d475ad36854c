"""The `stageflow` command: runs, what they ask, their queue and its workers, drawings, the doctor.

Undo logs have theirs in timeline_commands; the lab joins by entry point.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stageflow.answering import answer_of, asked_text, shown_text, text_of, when, whole_hash
from stageflow.journal.opening import file_of, keeps_locks
from stageflow.journal.store import SUSPENDED
from stageflow.model.bag import MISSING
from stageflow.model.errors import InputError, StageflowError
from stageflow.model.outputs import Happened, LetStand, NotHappened
from stageflow.runtime.account import AttemptAccount, attempts_of
from stageflow.runtime.events import Event, EventType, Subscription
from stageflow.runtime.handle import Handle
from stageflow.runtime.outcome import Run, Undo
from stageflow.runtime.pipeline import Pipeline
from stageflow.runtime.recovery import load_target, locate
from stageflow.runtime.runtime import LOCAL_ROOT, Runtime
from stageflow.runtime.tenancy import TenantRuntime
from stageflow.runtime.waiting import Waiting
from stageflow.runtime.worker import AT_ONCE, DRAIN_S, Worker
from stageflow.stages.work.sandbox import probe
from stageflow.stages.work.sandbox.diagnosis import as_json, as_text
from stageflow.stages.work.sandbox.needs import BACK_ENDS
from stageflow.timeline_commands import add_commands as add_timeline_commands

_PASSWORD = re.compile(r"(?<=[^/:]):[^:@/]*@")
"""In an address; never shown again."""
USAGE = 64
"""Exit status of a wrong command line (sysexits.h EX_USAGE)."""

WAITS = 75
"""Exit status of a run that waits for a person (sysexits.h EX_TEMPFAIL: come again later)."""


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

    submit = commands.add_parser("submit", help="queue a run for workers; prints its id")
    submit.add_argument("target", metavar="MODULE:ATTR")
    submit.add_argument("--input", action="append", default=[], metavar="NAME=VALUE")
    submit.add_argument("--tenant", default="default")
    submit.add_argument("--priority", type=int, default=0, help="higher goes first")
    submit.set_defaults(handler=_submit)

    worker = commands.add_parser("worker", help="run what is queued, until it is told to stop")
    worker.add_argument("targets", metavar="MODULE:ATTR", nargs="+")
    worker.add_argument("--at-once", type=int, default=AT_ONCE, help="runs side by side")
    worker.add_argument(
        "--drain-s", type=float, default=DRAIN_S, help="how long SIGTERM lets runs go on"
    )
    worker.add_argument("--quiet", action="store_true", help="no progress")
    worker.set_defaults(handler=_worker)

    runs = commands.add_parser("runs", help="list the journalled runs, newest first")
    runs.add_argument("--limit", type=int, default=20)
    runs.set_defaults(handler=_runs)

    resume = commands.add_parser("resume", help="go on with an interrupted or failed run")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument(
        "--rerun",
        action="append",
        default=[],
        metavar="NODE",
        help="a WORK node whose effect is unknown and may be repeated",
    )
    resume.add_argument("--quiet", action="store_true", help="no progress, only the output")
    resume.set_defaults(handler=_resume)

    waiting = commands.add_parser("waiting", help="what runs ask people, and how to answer")
    waiting.add_argument("run", metavar="RUN", nargs="?", help="one run; all of them otherwise")
    waiting.add_argument("--limit", type=int, default=1000, help="how many runs to look at")
    waiting.set_defaults(handler=_waiting)

    signal_ = commands.add_parser("signal", help="answer a run's question, and let it go on")
    signal_.add_argument("run", metavar="RUN")
    signal_.add_argument("node", metavar="NODE", help="the approval, as `waiting` names it")
    signal_.add_argument("--value", required=True, help="the answer: JSON, or text for a str")
    signal_.add_argument("--by", required=True, metavar="NAME", help="who answers; is kept")
    signal_.add_argument(
        "--shown", metavar="HASH", help="what NAME has seen; refused when it is not what waits"
    )
    signal_.add_argument("--quiet", action="store_true", help="no progress, only the output")
    signal_.set_defaults(handler=_signal)

    settle = commands.add_parser("settle", help="say how a stuck step stands, and go on")
    settle.add_argument("run", metavar="RUN")
    settle.add_argument("node", metavar="NODE", help="the step, or its undo: STEP.undo")
    found = settle.add_mutually_exclusive_group(required=True)
    found.add_argument(
        "--happened",
        type=_json,
        default=argparse.SUPPRESS,  # else a null counts as not given
        metavar="JSON",
        help="it took effect, and would have given this",
    )
    found.add_argument(
        "--not-happened", action="store_true", help="it did not: an undo is tried again"
    )
    found.add_argument("--let-stand", metavar="REASON", help="what was to be undone stays")
    settle.add_argument("--by", required=True, metavar="NAME", help="who says so; is kept")
    settle.add_argument("--quiet", action="store_true", help="no progress, only the output")
    settle.set_defaults(handler=_settle)

    undo = commands.add_parser("undo", help="take back what a finished run has done")
    undo.add_argument("run", metavar="RUN")
    undo.add_argument("--quiet", action="store_true", help="no progress")
    undo.set_defaults(handler=_undo)

    show = commands.add_parser("show", help="what each node of a run got, gave, and how long")
    show.add_argument("run", metavar="RUN")
    show.set_defaults(handler=_show)

    draw = commands.add_parser("draw", help="draw a pipeline")
    draw.add_argument("target", metavar="MODULE:ATTR")
    draw.add_argument("--form", choices=("text", "mermaid"), default="text")
    draw.set_defaults(handler=_draw)

    doctor = commands.add_parser("doctor", help="what this machine can hold a sandbox with")
    doctor.add_argument(
        "--back-end", choices=BACK_ENDS, help="one of them; exits 1 if it can't run"
    )
    doctor.add_argument("--json", action="store_true", help="the same as data")
    doctor.set_defaults(handler=_doctor)

    add_timeline_commands(commands)
    for command in (resume, waiting, signal_, settle, undo, show):
        command.add_argument("--pipeline", metavar="MODULE:ATTR", help="where the pipeline is now")
    for command in (run, submit, worker, runs, resume, waiting, signal_, settle, undo, show):
        command.add_argument(
            "--root", default=LOCAL_ROOT, metavar="DIR", help="where the journal lies"
        )
        command.add_argument(
            "--journal", metavar="URL", help="another journal, such as postgresql://host/database"
        )
        command.add_argument(
            "--keys", metavar="FILE", help="the key that sealed values are wrapped by (KeyFile)"
        )
    for command in (runs, resume, waiting, signal_, settle, undo, show):
        command.add_argument(
            "--tenant", metavar="NAME", help="only what NAME has; the runs of others are not there"
        )
    for entry in importlib.metadata.entry_points(group="stageflow.commands"):
        entry.load()(commands)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    """Exits 0 when the back end that was named, or any at all, can hold the default policy."""
    machine = probe()
    asked = BACK_ENDS if options.back_end is None else (options.back_end,)
    data = as_json(machine, asked)
    sys.stdout.write(json.dumps(data, indent=2) + "\n" if options.json else as_text(machine, asked))
    return 0 if any(each["ready"] for each in data["back_ends"].values()) else 1


def _run(options: argparse.Namespace) -> int:
    pipeline = load_target(options.target)
    inputs = _inputs(pipeline, options.input)

    async def go() -> int:
        async with _runtime(options) as runtime, _progress(options.quiet) as events:
            bound = pipeline.using(runtime=runtime, events=events, target=options.target)
            handle = bound.start(**inputs)
            if not options.quiet:
                sys.stderr.write(f"run {handle.run_id}\n")
            run = await _ended(handle, options)
            asked = await _asked(runtime, run, pipeline)
        return _report(run, asked, options)

    return asyncio.run(go())


def _submit(options: argparse.Namespace) -> int:
    pipeline = load_target(options.target)
    inputs = _inputs(pipeline, options.input)

    async def go() -> str:
        async with _runtime(options) as runtime:
            bound = pipeline.using(
                runtime=runtime,
                tenant=options.tenant,
                priority=options.priority,
                target=options.target,
            )
            return await bound.submit(**inputs)

    sys.stdout.write(f"{asyncio.run(go())}\n")
    return 0


def _worker(options: argparse.Namespace) -> int:
    pipelines = {target: load_target(target) for target in options.targets}

    async def go() -> None:
        async with (
            _runtime(options) as runtime,
            _progress(options.quiet, line=_worker_line) as events,
        ):
            worker = Worker(
                runtime,
                pipelines,
                at_once=options.at_once,
                drain_s=options.drain_s,
                events=(events,),
            )
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, worker.stop)
            if not options.quiet:
                sys.stderr.write(f"worker: {len(pipelines)} pipelines, {options.at_once} at once\n")
            await worker.run()
            if not options.quiet:
                sys.stderr.write(f"worker: stopped after {worker.done} runs\n")

    asyncio.run(go())
    return 0


def _resume(options: argparse.Namespace) -> int:
    pipeline = _given_pipeline(options)

    async def go() -> int:
        async with _existing(options) as whole, _progress(options.quiet) as events:
            runtime = _seen(whole, options)
            run = await runtime.resume(
                options.run, pipeline=pipeline, rerun=options.rerun, events=(events,)
            )
            asked = await _asked(runtime, run, pipeline)
        return _report(run, asked, options)

    return asyncio.run(go())


def _waiting(options: argparse.Namespace) -> int:
    pipeline = _given_pipeline(options)

    async def go() -> int:
        async with _existing(options) as whole:
            runtime = _seen(whole, options)
            if options.run:
                asked = await runtime.waiting(options.run, pipeline=pipeline)
            else:
                asked = await _asked_by_all(runtime, options.limit, pipeline)
        for question in asked:
            sys.stdout.write(_asked_text(question, options) + "\n")
        if not asked:
            sys.stdout.write("nobody is asked anything\n")
        return 0

    return asyncio.run(go())


def _signal(options: argparse.Namespace) -> int:
    pipeline = _given_pipeline(options)

    async def go() -> int:
        async with _existing(options) as whole, _progress(options.quiet) as events:
            runtime = _seen(whole, options)
            value, shown = options.value, options.shown
            for question in await runtime.waiting(options.run, pipeline=pipeline):
                if question.node == options.node:
                    value = answer_of(question, value)
                    shown = whole_hash(question, shown)
                    if not options.quiet:
                        _tell_answer(question, options)
            handle = await runtime.signal(
                options.run,
                options.node,
                value,
                by=options.by,
                shown=shown,
                pipeline=pipeline,
                events=(events,),
            )
            run = await _ended(handle, options)
            asked = await _asked(runtime, run, pipeline)
        return _report(run, asked, options)

    return asyncio.run(go())


def _settle(options: argparse.Namespace) -> int:
    pipeline = _given_pipeline(options)
    if options.let_stand is not None:
        found: Happened | NotHappened | LetStand = LetStand(options.let_stand)
    elif options.not_happened:
        found = NotHappened()
    else:
        found = Happened(options.happened)

    async def go() -> int:
        async with _existing(options) as whole, _progress(options.quiet) as events:
            runtime = _seen(whole, options)
            handle = await runtime.settle(
                options.run,
                options.node,
                found,
                by=options.by,
                pipeline=pipeline,
                events=(events,),
            )
            run = await _ended(handle, options)
            asked = await _asked(runtime, run, pipeline)
        return _report(run, asked, options)

    return asyncio.run(go())


def _undo(options: argparse.Namespace) -> int:
    pipeline = _given_pipeline(options)

    async def go() -> int:
        async with _existing(options) as whole, _progress(options.quiet) as events:
            runtime = _seen(whole, options)
            run = await runtime.undo(options.run, pipeline=pipeline, events=(events,))
        if run.undo is not None and not run.undo.stuck:
            sys.stdout.write(f"taken back: {', '.join(run.undo.undone)}\n")
            return 0
        return _report(run, (), options)

    return asyncio.run(go())


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text[:60]!r} is no JSON ({error}); a text has quotes of its own: '\"text\"'"
        ) from None


def _runs(options: argparse.Namespace) -> int:
    async def go() -> int:
        async with _existing(options) as whole:
            runtime = _seen(whole, options)
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
                f"{header.run:<26}  {when(header.created_wall_s)}  {status:<11}  "
                f"{header.pipeline:<16}  {one.reason}\n"
            )
        return 0

    return asyncio.run(go())


def _show(options: argparse.Namespace) -> int:
    async def go() -> int:
        async with _existing(options) as whole:
            runtime = _seen(whole, options)
            loaded = await runtime.load(options.run)
            refused = await runtime.refused(options.run)
        pipeline: Pipeline[Any] | None = None
        try:
            pipeline = load_target(options.pipeline) if options.pipeline else locate(loaded.header)
        except StageflowError as error:
            sys.stderr.write(f"values are not shown: {error.message}\n")
        header = loaded.header
        sys.stdout.write(
            f"run {header.run} of {header.pipeline}: {loaded.status}"
            f"{' (' + loaded.reason + ')' if loaded.reason else ''}\n"
            f"started {when(header.created_wall_s)}, tenant {header.tenant}, "
            f"epoch {loaded.epoch}\n"
        )
        for attempt in attempts_of(loaded, pipeline.plan if pipeline else None):
            sys.stdout.write(_shown(attempt))
        for late in refused:
            record = late.record
            sys.stdout.write(
                f"  refused: {record.type.value} of {record.node or 'the run'}, from epoch"
                f" {late.epoch} at {when(late.refused_wall_s)}, when epoch {late.held_epoch}"
                " had the run\n"
            )
        return 0

    return asyncio.run(go())


def _draw(options: argparse.Namespace) -> int:
    sys.stdout.write(load_target(options.target).draw(options.form) + "\n")
    return 0


async def _ended(handle: Handle[Any], options: argparse.Namespace) -> Run[Any]:
    """The run's account; Ctrl-C ends the run in order, and says how to go on."""
    try:
        return await handle
    except asyncio.CancelledError:
        handle.cancel("interrupted")
        await handle
        sys.stderr.write(f"interrupted; go on with: {_command('resume', handle.run_id, options)}\n")
        raise


async def _asked(
    runtime: Runtime | TenantRuntime, run: Run[Any], pipeline: Pipeline[Any] | None
) -> Sequence[Waiting]:
    """What a suspended run asks people."""
    if run.status != SUSPENDED:
        return ()
    return await runtime.waiting(run.id, pipeline=pipeline)


async def _asked_by_all(
    runtime: Runtime | TenantRuntime, limit: int, pipeline: Pipeline[Any] | None
) -> list[Waiting]:
    """What the suspended runs among the latest ask; a run that can't be read is told."""
    asked: list[Waiting] = []
    for summary in await runtime.runs(limit=limit):
        if summary.status == SUSPENDED:
            try:
                asked += await runtime.waiting(summary.header.run, pipeline=pipeline)
            except StageflowError as error:
                sys.stderr.write(f"run {summary.header.run} is left out: {error.message}\n")
    return asked


def _given_pipeline(options: argparse.Namespace) -> Pipeline[Any] | None:
    return load_target(options.pipeline) if options.pipeline else None


def _runtime(options: argparse.Namespace) -> Runtime:
    if options.journal is not None:
        locks = options.journal if keeps_locks(options.journal) else None
        return Runtime(journal=options.journal, keys=options.keys, locks=locks)
    return Runtime.local(options.root, keys=options.keys)


def _existing(options: argparse.Namespace) -> Runtime:
    is_given = options.journal is not None
    file = file_of(options.journal) if is_given else Path(options.root) / "journal.db"
    if file is not None and not file.exists():  # it would be made, and there be no runs in it
        told = f"a folder with journal.db, as `stageflow run` makes it in {LOCAL_ROOT}"
        raise InputError(
            "run.no_journal_here",
            "there are no runs here",
            field="--journal" if is_given else "--root",
            expected="the journal that the run was started with" if is_given else told,
            got=options.journal if is_given else options.root,
            fix="run from the folder where the run was started, or give --root or --journal",
        )
    return _runtime(options)


def _seen(runtime: Runtime, options: argparse.Namespace) -> Runtime | TenantRuntime:
    """All of it, or what `--tenant` has."""
    return runtime if options.tenant is None else runtime.tenant(options.tenant)


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
async def _progress(quiet: bool, *, line: Callable[[Event], str] | None = None) -> Any:
    """Tells on standard error what ends, as it ends."""
    told = _progress_line if line is None else line
    events = Subscription()

    async def tell() -> None:
        async for event in events:
            text = told(event)
            if text and not quiet:
                sys.stderr.write(text)

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


def _worker_line(event: Event) -> str:
    if event.type is not EventType.RUN_ENDED:
        return ""
    reason = f"  {event.reason}" if event.reason else ""
    return f"  {event.status:<9} {event.run}  {event.tenant}  {event.duration_s:.2f} s{reason}\n"


def _report(run: Run[Any], asked: Sequence[Waiting], options: argparse.Namespace) -> int:
    """Writes the output, or why there is none and what to do; gives the exit status."""
    if run.status == "ok":
        sys.stdout.write(text_of(run.output) + "\n")
        return 0
    sys.stderr.write(f"run {run.id} ended as {run.status}: {run.reason}\n")
    blocked = [node.blame for node in run.nodes.values() if node.state == "blocked"]
    for guard in dict.fromkeys(blame for blame in blocked if blame is not None):
        if run.nodes[guard].reason:
            sys.stderr.write(f"{guard} said: {run.nodes[guard].reason}\n")
    if run.failure is not None:
        sys.stderr.write(f"{run.failure}\n")
    for name, failure in run.failures.items():
        if failure.reason == "exhausted":
            for said in run.candidates(name)[-1].feedback:
                sys.stderr.write(f"the last {name} was sent back: {said}\n")
    for question in asked:
        sys.stderr.write("\n" + _asked_text(question, options))
    if run.undo is not None:
        return _report_undo(run, run.undo, options)
    unknown = [name for name, node in run.nodes.items() if node.state == "unknown"]
    if unknown:
        rerun = "".join(f" --rerun {name}" for name in unknown)
        sys.stderr.write(
            f"nobody knows whether {', '.join(unknown)} took effect; look, and where it may be\n"
            f"repeated go on with: {_command('resume', run.id, options)}{rerun}\n"
        )
    elif asked:
        return WAITS
    elif run.status != "blocked":
        sys.stderr.write(f"go on with: {_command('resume', run.id, options)}\n")
    return 1


def _report_undo(run: Run[Any], undo: Undo, options: argparse.Namespace) -> int:
    """What was taken back, and what a person must decide."""
    if undo.undone:
        sys.stderr.write(f"taken back: {', '.join(undo.undone)}\n")
    if undo.left:
        sys.stderr.write(f"left as it is: {', '.join(undo.left)}\n")
    for step in undo.stuck:
        node = step if run.nodes[step].state == "unknown" else f"{step}.undo"
        settle = f"{_command('settle', run.id, options)} {node}"
        sys.stderr.write(
            f"nobody can tell, or take back, what {step} did; look, then say how {node} stands:\n"
            f"{settle} --by NAME --happened JSON | --not-happened | --let-stand REASON\n"
            f"or have it tried again: {_command('resume', run.id, options)}\n"
        )
    return 1


def _asked_text(question: Waiting, options: argparse.Namespace) -> str:
    return asked_text(question, options=_where(options), now_s=time.time())


def _tell_answer(question: Waiting, options: argparse.Namespace) -> None:
    """What is being answered, before it is: the reader sees what the answer is bound to."""
    sys.stderr.write(
        f"{options.by} answers {question.node} of run {question.run}, about:\n\n"
        f"{shown_text(question)}\n\nwith: {options.value}\n"
    )


def _command(name: str, run: str, options: argparse.Namespace) -> str:
    """The command line that goes on with a run, as it can be typed here."""
    return shlex.join(["stageflow", name, run, *_where(options)])


def _where(options: argparse.Namespace) -> list[str]:
    """The arguments by which another command finds the run that this one found."""
    where = [] if options.root == LOCAL_ROOT else ["--root", options.root]
    if options.journal is not None:
        where = ["--journal", _PASSWORD.sub("@", options.journal)]
    if options.keys is not None:
        where += ["--keys", options.keys]
    if getattr(options, "tenant", None) is not None:
        where += ["--tenant", options.tenant]
    pipeline = getattr(options, "pipeline", None)
    return where if pipeline is None else [*where, "--pipeline", pipeline]


def _shown(attempt: AttemptAccount) -> str:
    took = "" if attempt.duration_s is None else f"  {attempt.duration_s * 1000:.1f} ms"
    reason = f"  {attempt.reason}" if attempt.reason else ""
    by = f"  by {attempt.by}" if attempt.by else ""
    which = f"attempt {attempt.attempt}"
    if attempt.revision > 1:
        which = f"revision {attempt.revision}, {which}"
    lines = [f"  {attempt.node} ({which}): {attempt.status}{took}{by}{reason}"]
    lines += [f"      got {name} = {_short(value)}" for name, value in attempt.got.items()]
    if attempt.gave is not MISSING:
        lines.append(f"      gave {_short(attempt.gave)}")
    if attempt.failure:
        lines += [f"      {line}" for line in attempt.failure.splitlines()[:8]]
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


if __name__ == "__main__":
    sys.exit(main())
