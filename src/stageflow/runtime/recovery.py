"""Taking a run over from the journal: state from its records, values through its contracts."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from stageflow.graph import Plan
from stageflow.journal.store import RUNNING, LoadedRun, RunHeader
from stageflow.model.bag import MISSING
from stageflow.model.errors import JournalError
from stageflow.model.identity import Identity
from stageflow.model.marks import reached
from stageflow.model.progress import Stall
from stageflow.model.record import SETTLE_RUN, UNDO_RUN, RecordType
from stageflow.model.values import thaw
from stageflow.runtime.arguments import check_pipeline
from stageflow.runtime.deps import Fakes
from stageflow.runtime.driver import Driver
from stageflow.runtime.durable import StepResult
from stageflow.runtime.events import EventType, Subscription
from stageflow.runtime.history import (
    History,
    decode_chunks,
    decode_failure,
    decode_inputs,
    decode_reason,
    decode_value,
)
from stageflow.runtime.outcome import Run, make_run
from stageflow.runtime.questions import expire_overdue
from stageflow.runtime.run_options import subscriptions
from stageflow.runtime.sealing import RunSeal, check_not_erased, is_shredded, shredded_inputs
from stageflow.scheduler import (
    UNDOES,
    Action,
    End,
    Scheduler,
    Wait,
    put_questions,
    replay,
    take_over,
)

if TYPE_CHECKING:
    from stageflow.runtime.pipeline import Pipeline
    from stageflow.runtime.runtime import Runtime


async def recovered(
    runtime: Runtime,
    run: str,
    *,
    pipeline: Pipeline[Any] | None,
    rerun: Collection[str] | None,
    events: Sequence[Subscription],
    seen: LoadedRun | None = None,
    claimed: LoadedRun | None = None,
) -> tuple[Driver, list[Action]]:
    """A driver that stands where the run stood, and the actions with which it goes on.

    With `rerun` None a run that has ended is left as it is. `seen` is what the journal holds of
    the run, when the caller has looked already; `claimed`, when the caller has claimed it.
    """
    check_pipeline(pipeline)
    events = subscriptions(None if pipeline is None else pipeline.name, events) or ()
    journal = runtime.needs_journal()
    known = claimed or seen or await journal.load(run)
    if pipeline is None:
        pipeline = locate(known.header)
    plan = pipeline.plan
    check_unchanged(plan, known)
    for name in rerun or ():
        if name not in (UNDO_RUN, SETTLE_RUN):
            plan.find(name)
    loaded = known
    if claimed is not None:
        runtime.expect_heir(run)
    elif known.status != "ok" or UNDO_RUN in (rerun or ()):
        heir = runtime.expect_heir(run)
        try:
            await runtime.paid(run)
            loaded = await journal.claim(run, rerun=None if rerun is None else sorted(rerun))
        except BaseException:
            if heir is not None:
                heir.declines()
            raise
    seal = await runtime.seals.reopened(plan, loaded)
    loaded = await runtime.seals.opened(loaded)
    if loaded.status != "ok":
        check_not_erased(loaded)
    driver = _restored(runtime, pipeline, loaded, events, seal)
    scheduler = driver.scheduler
    if loaded.header.session is not None:
        await runtime.sessions.take_up(driver, loaded, pipeline.options.window)
    if scheduler.ending is not None and scheduler.running == 0:
        driver.needs_end = loaded.status == RUNNING
        if not driver.needs_end:
            return driver, [scheduler.ending]
        asks = put_questions(scheduler, loaded.records)
        _drop_old_times(driver)
        return driver, expire_overdue(driver, [*asks, scheduler.ending])
    actions = _on_time(take_over(scheduler, loaded.records), loaded, driver)
    reached("run_taken_over")
    if scheduler.unknown:
        reached("effect_unknown")
    _drop_old_times(driver)
    for record in scheduler.records:
        if record.type is RecordType.ABANDONED:
            reached("attempt_abandoned")
            driver.publish(
                EventType.STAGE_ENDED,
                plan.index[record.node or ""],
                status="abandoned",
                attempt=record.attempt,
            )
    return driver, expire_overdue(driver, actions)


def _drop_old_times(driver: Driver) -> None:
    """A question that is put anew has its whole time again."""
    for record in driver.scheduler.records:
        if record.type is RecordType.ASKED:
            driver.due_wall_s.pop(driver.plan.index[record.node or ""], None)


def is_taken_back(pipeline: Pipeline[Any], seen: LoadedRun) -> bool:
    """True for a run that is over, and that took back whatever it had done."""
    if seen.status not in UNDOES or not pipeline.plan.is_saga:
        return False
    scheduler = Scheduler(pipeline.program, seed=seen.header.seed)
    replay(scheduler, seen.records)
    return scheduler.undoing is not None


async def account_of(runtime: Runtime, seen: LoadedRun, pipeline: Pipeline[Any]) -> Run[Any]:
    """The account of a run that is over, from its records alone: it is left as it is."""
    check_unchanged(pipeline.plan, seen)
    driver = _restored(runtime, pipeline, seen, ())
    if seen.header.session is not None:
        await runtime.sessions.take_up(driver, seen, pipeline.options.window)
    driver.end = End(seen.status, seen.reason)
    return make_run(driver)


def _restored(
    runtime: Runtime,
    pipeline: Pipeline[Any],
    loaded: LoadedRun,
    events: Sequence[Subscription],
    seal: RunSeal | None = None,
) -> Driver:
    """A driver that knows what the run's records tell, and has not taken anything up."""
    scheduler = Scheduler(pipeline.program, seed=loaded.header.seed)
    replay(scheduler, loaded.records)
    driver = _driver(runtime, pipeline, loaded, scheduler, events)
    assert driver.history is not None, "a run that is restored is in a journal"
    driver.history.seal = seal
    _restore(driver, loaded)
    return driver


def _on_time(actions: list[Action], loaded: LoadedRun, driver: Driver) -> list[Action]:
    """Waits between attempts end when they were due before the crash, by wall time."""
    due = {
        (record.node, record.token): record.data.get("due_wall_s", 0.0)
        for record in loaded.records
        if record.type is RecordType.RETRY_DUE
    }
    now_s = driver.runtime.clock.wall_s()
    return [
        action._replace(
            wait_s=max(0.0, due.get((driver.nodes[action.node].name, action.token), 0.0) - now_s)
        )
        if isinstance(action, Wait)
        else action
        for action in actions
    ]


def _deadline_in_s(loaded: LoadedRun, now_s: float) -> float | None:
    """Seconds that are left of the run's deadline, by wall time; None without one.

    It passes while nobody works on the run. A run that had ended and was taken up again has as
    long again from then on.
    """
    given_s: float | None = loaded.records[0].data.get("deadline_in_s")
    if given_s is None:
        return None
    begun_s, ended = loaded.records[0].wall_s, False
    for record in loaded.records:
        if record.type is RecordType.RUN_ENDED:
            ended = True
        elif record.type is RecordType.CLAIMED and ended:
            begun_s, ended = record.wall_s, False
    return max(0.0, begun_s + given_s - now_s)


def locate(header: RunHeader) -> Pipeline[Any]:
    """The pipeline that the run stored as `module:attr`."""
    if header.target is None:
        raise JournalError(
            "journal.no_target",
            f"run {header.run} does not know where its pipeline is defined",
            pipeline=header.pipeline,
            fix="resume(run, pipeline=...), or define the pipeline at the top of a module",
        )
    return load_target(header.target)


def load_target(target: str) -> Pipeline[Any]:
    """The pipeline at `module:attr`. JournalError `journal.bad_target` when there is none."""
    from stageflow.runtime.pipeline import Pipeline  # it needs the runtime, which needs this

    module, _, attribute = target.partition(":")
    problem = ""
    found: Any = None
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        problem = f": {error}"
    if not isinstance(found, Pipeline):
        raise JournalError(
            "journal.bad_target",
            f"{target!r} is no pipeline{problem}",
            expected="module:attr of a Pipeline that can be imported here",
            fix="run from the project's root, or check the spelling",
        )
    return found


def check_unchanged(plan: Plan, loaded: LoadedRun) -> None:
    """Refuses a pipeline in which a finished node has changed: its value may not fit any more."""
    finished = {record.node for record in loaded.records if record.is_accepted}
    changed = []
    for name in sorted(node for node in finished if node is not None):
        number = plan.index.get(name)
        before = loaded.header.fingerprints.get(name)
        if number is None:
            changed.append(f"{name}: is gone")
        elif plan.nodes[number].fingerprint != before:
            changed.append(f"{name}: was {before}, is {plan.nodes[number].fingerprint}")
    if changed:
        shown = "; ".join(changed[:8]) + (f"; {len(changed) - 8} more" if len(changed) > 8 else "")
        raise JournalError(
            "journal.changed_node",
            f"{len(changed)} finished nodes of run {loaded.header.run} have changed since",
            pipeline=plan.name,
            node=changed[0].partition(":")[0],
            expected="finished nodes with the kind, wiring, contract and version they ran with",
            got=shown,
            fix="resume with the pipeline that wrote the run, or start a new run",
        )


def _driver(
    runtime: Runtime,
    pipeline: Pipeline[Any],
    loaded: LoadedRun,
    scheduler: Scheduler,
    events: Sequence[Subscription],
) -> Driver:
    header = loaded.header
    assert runtime.journal is not None
    history = History(runtime.journal, header, epoch=loaded.epoch)
    history.durable_seq = loaded.records[-1].seq
    driver = Driver(
        runtime,
        pipeline.program,
        identity=Identity(
            run=header.run,
            tenant=header.tenant,
            session=header.session,
            parent=header.parent,
            correlation=header.correlation,
        ),
        inputs=decode_inputs(pipeline.plan, loaded.records[0]),
        seed=header.seed,
        epoch=loaded.epoch,
        history=history,
        events=events,
        scheduler=scheduler,
        labels=frozenset(loaded.records[0].labels),
        deadline_in_s=_deadline_in_s(loaded, runtime.clock.wall_s()),
        priority=loaded.records[0].data.get("priority", pipeline.options.priority),
    )
    if pipeline.options.fakes is not None:
        driver.fakes = Fakes(pipeline.options.fakes, header.run)
    return driver


def _restore(driver: Driver, loaded: LoadedRun) -> None:
    """Fills bag, redactions and failures from the records' payloads."""
    plan = driver.plan
    gone = shredded_inputs(loaded.records[0])
    for spec in plan.inputs.values():
        if spec.node is not None and (spec.name in driver.inputs or spec.name in gone):
            value = driver.inputs.get(spec.name, MISSING)
            driver.bag.put(spec.node, value, 0, 0, held=True)
            driver.held.add(spec.node)
    for record in loaded.records:
        number = plan.index.get(record.node) if record.node is not None else None
        if number is None:
            continue
        if record.type is RecordType.ASKED and record.data["expires_wall_s"] is not None:
            driver.due_wall_s[number] = record.data["expires_wall_s"]
        if record.type is RecordType.STEP and not is_shredded(record):
            steps = driver.steps_done.setdefault((number, record.revision), {})
            steps[record.data["key"]] = StepResult(
                record.data["call"], record.payload, is_done=True, is_encoded=True
            )
        if record.type is RecordType.INTENT and record.revision > 1:
            driver.note_candidate(number)
        if record.type is not RecordType.OUTCOME:
            continue
        node = plan.nodes[number]
        chunks = decode_chunks(record)
        if chunks.items:
            driver.produced.cut[number] = chunks
        elif record.is_accepted:
            driver.produced.cut.pop(number, None)
        reason = decode_reason(record)
        if reason:
            driver.reasons[number] = reason
        if record.labels:
            driver.flow.made[number] = frozenset(record.labels)
        elif record.is_accepted and driver.flow.made:
            driver.flow.made.pop(number, None)
        if record.is_accepted:
            value, replaced = decode_value(plan, node, record, driver.runtime.freezer)
            if node.guards and number in plan.undos:
                driver.kept_results[number] = value
            if node.guards:
                driver.bag.put(
                    number, value, record.attempt, record.token, record.revision, held=True
                )
                driver.held.add(number)
                driver.wishes.pop(number, None)
                driver.redactions.pop(number, None)
            elif record.revision > 1:
                driver.bag.replace(number, value, record.attempt, record.token, record.revision)
            else:
                driver.bag.put(number, value, record.attempt, record.token)
            if record.data.get("control") == "revise":
                target = plan.index[record.data["of"]]
                driver.wishes.setdefault(target, []).append((node.name, thaw(value)))
                stall = record.data.get("stalled")
                driver.note_stall(target, None if stall is None else Stall(**stall))
            if replaced is not MISSING:
                driver.redactions[plan.index[record.data["of"]]] = replaced
        elif record.data.get("status") == "failed":
            failure = decode_failure(record)
            if failure is not None:
                driver.failures[number] = failure
                if failure.reason in ("failed", "retry"):  # the stage said so itself
                    driver.reasons[number] = failure.message
    driver.sort_held()
