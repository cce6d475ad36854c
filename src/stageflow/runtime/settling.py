"""A person says how a stuck step stands: the last resort of a saga, and of any effect in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stageflow.journal.store import SUSPENDED, LoadedRun
from stageflow.model.errors import RunError, StageflowError
from stageflow.model.labels import NONE
from stageflow.model.outputs import Happened, Inquiry, LetStand, NotHappened
from stageflow.model.record import SETTLE_RUN
from stageflow.runtime.arguments import check_by
from stageflow.runtime.driver import Driver
from stageflow.runtime.events import Subscription
from stageflow.runtime.handle import Handle
from stageflow.runtime.questions import going_on
from stageflow.runtime.recovery import locate, recovered
from stageflow.scheduler import Action

if TYPE_CHECKING:
    from stageflow.runtime.pipeline import Pipeline
    from stageflow.runtime.runtime import Runtime

_WORDS = {Happened: "happened", NotHappened: "not_happened", LetStand: "left"}


async def settled(
    runtime: Runtime,
    run: str,
    node: str,
    found: Inquiry,
    *,
    by: str,
    pipeline: Pipeline[Any] | None,
    events: Sequence[Subscription],
) -> Handle[Any]:
    """The run goes on with what the person said; see `Runtime.settle`."""
    if run in runtime.active:
        raise _not_stuck(run, node, "a run that is being worked on")
    seen = await runtime.load(run)
    if seen.status != SUSPENDED:
        raise _not_stuck(run, node, f"a run that is {seen.status}")
    driver, actions = await recovered(
        runtime, run, pipeline=pipeline, rerun=(SETTLE_RUN,), events=events, seen=seen
    )
    try:
        said = _settle(driver, node, found, by)
    except StageflowError:
        # The claim is on record: leave the run suspended as it was, owned by nobody.
        await driver.execute(actions)
        raise
    return await Handle.opened(driver, going_on(actions, said))


def _settle(driver: Driver, name: str, found: Inquiry, by: str) -> list[Action]:
    check_by(by)
    number, scheduler = driver.plan.find(name), driver.scheduler
    node, word = driver.nodes[number], _WORDS.get(type(found), "")
    if not word or not scheduler.can_settle(number, word):
        got = f"{type(found).__name__} of a node that is {scheduler.status[number].name.lower()}"
        raise _not_stuck(driver.identity.run, name, got)
    frozen = payload = None
    history, contract = driver.history, ""
    assert history is not None, "only journalled runs are suspended"
    if isinstance(found, Happened):
        try:
            frozen = node.contract.admit(found.value, driver.runtime.freezer)
            payload, contract = history.encode(driver, node, frozen), node.contract.hash
        except StageflowError as error:
            raise error.at(pipeline=driver.plan.name, node=name) from None
    elif isinstance(found, LetStand):
        driver.reasons[number] = found.reason
        payload = history.encode_reason(found.reason)
    token = scheduler.token[number]
    actions = scheduler.settled(number, word, {"by": by})
    if payload is not None:
        labels = driver.flow.note(driver, number) if driver.flows else NONE
        history.attach(scheduler, token, payload, contract, labels)
    if isinstance(found, Happened):
        driver.bag.put(number, frozen, scheduler.attempt[number], token, held=bool(node.guards))
        if node.guards:
            driver.kept_results[number] = frozen
            driver.held.add(number)
    return actions


def why_not_undoable(
    seen: LoadedRun, pipeline: Pipeline[Any] | None, *, is_active: bool
) -> str | None:
    """Why the run can't be taken back by itself; None when it can."""
    if is_active:
        return "a run that is being worked on"
    if seen.header.parent is not None:
        return "a child"
    if seen.header.session is not None:
        return "a turn, which later turns have seen"
    plan = (locate(seen.header) if pipeline is None else pipeline).plan
    return None if plan.undos else "a pipeline without undos"


def _not_stuck(run: str, node: str, got: str) -> RunError:
    return RunError(
        "run.not_stuck",
        f"nothing can be settled about {node!r} of run {run}",
        node=node,
        expected="a suspended run, and in it a step whose effect is unknown, with Happened or "
        "NotHappened, or an undo that is stuck, with LetStand, too",
        got=got,
        fix="run.undo.stuck and run.nodes tell what is stuck; an undo is named 'STEP.undo'",
    )
