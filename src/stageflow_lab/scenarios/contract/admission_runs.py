"""Pipelines whose stages give generated values, and everywhere that those values could be seen.

One pipeline a shape: `SLOTS` producers of its type, each with a consumer. Some producers are
guarded by a guard that redacts: then the value in question is the guard's. A run is observed at its
consumers, in its outputs as the caller reads them, and in its journal, decoded and as raw bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from stageflow import (
    Decision,
    Pipeline,
    Redact,
    Run,
    Runtime,
    Stage,
    StageflowError,
    StageOutput,
    agent,
    enrich,
    guard,
    transform,
    work,
)
from stageflow.journal.store import LoadedRun
from stageflow.model.record import RecordType
from stageflow.model.values import thaw

from .generated_models import Shape
from .given_values import Given, digest
from .payload_mutations import CANARY

SLOTS: Final = 17
"""Values that one run gives."""
_KINDS: Final = (transform, enrich, agent, work)
_REFUSALS: Final = ("contract.violated", "contract.validator")


@dataclass(frozen=True, slots=True)
class Seen:
    """Where one given value was met, as digests; None where it was not."""

    consumer: str | None
    caller: str | None
    journal: str | None
    reason: str
    """The failure's code; "" when there is none."""
    explained: bool
    """The failure names its stage, the path of what does not fit, and a mend."""
    leaked: bool
    """The failure's text or the journal repeats what was refused."""


class AdmissionPipeline:
    """The pipeline of one shape. `given` and `base` are set before each run."""

    def __init__(self, shape: Shape) -> None:
        self.given: Sequence[Given] = ()
        self.base: Any = None
        """What the guarded producers give: a valid input, or None where there is none."""
        self.consumed: dict[int, str] = {}
        stages = [part for at in range(SLOTS) for part in self._slot(at, shape.annotation)]

        @transform
        async def anchor() -> int:
            return 1

        # The only declared output has nothing to do with the values, so that a run goes on
        # whatever is refused.
        self.pipeline = Pipeline(f"shape{shape.number}", [*stages, anchor], outputs=anchor)

    async def run(self, runtime: Runtime, *, run_id: str) -> list[Seen]:
        """One run of what is set in `given`, observed."""
        self.consumed.clear()
        run = await self.pipeline.using(runtime=runtime, run_id=run_id).run()
        loaded = None if runtime.journal is None else await runtime.load(run_id)
        return [self._seen(at, run, loaded) for at in range(len(self.given))]

    # -- stages ------------------------------------------------------------------------------

    def _slot(self, at: int, annotation: Any) -> list[Stage[..., Any]]:
        producer = self._producer(at, annotation)
        consumer = self._consumer(at, annotation)
        if not is_guarded(at):
            return [producer, consumer]
        return [producer, self._guard(at, annotation), consumer]

    def _producer(self, at: int, annotation: Any) -> Stage[..., Any]:
        async def wrapped() -> Any:
            await asyncio.sleep(0)
            return StageOutput.ok(self._value(at))

        async def awaited() -> Any:
            return self._value(at)

        def plain() -> Any:
            return self._value(at)

        body: Any = (awaited, plain, wrapped)[at % 3]
        body.__annotations__["return"] = annotation
        made: Stage[..., Any] = _KINDS[at % len(_KINDS)](
            body, name=producer_name(at), on_failure="isolate"
        )
        return made

    def _consumer(self, at: int, annotation: Any) -> Stage[..., Any]:
        async def consume(value: Any) -> None:
            self.consumed[at] = digest(value)

        consume.__annotations__["value"] = annotation
        made: Stage[..., Any] = transform(consume, name=f"consumer{at}", on_failure="isolate")
        return made.named(value=producer_name(at))

    def _guard(self, at: int, annotation: Any) -> Stage[..., Any]:
        async def redact(value: Any) -> Decision:
            return Redact(self.given[at].value)

        redact.__annotations__["value"] = annotation
        made: Stage[..., Any] = guard(redact, name=guard_name(at), on_failure="isolate")
        return made.named(value=producer_name(at))

    def _value(self, at: int) -> Any:
        return self.base if is_guarded(at) else self.given[at].value

    # -- observation -------------------------------------------------------------------------

    def _seen(self, at: int, run: Run[Any], loaded: LoadedRun | None) -> Seen:
        name = producer_name(at)
        failing = guard_name(at) if is_guarded(at) else name
        failure = run.failures.get(failing)
        message = "" if failure is None else failure.message
        journal, leaked = None, CANARY in message
        if loaded is not None:
            journal = self._journalled(at, loaded)
            if self.given[at].expected is None:
                leaked = leaked or any(
                    CANARY.encode() in record.payload
                    for record in loaded.records
                    if record.node in (name, failing) and record.payload is not None
                )
        return Seen(
            consumer=self.consumed.get(at),
            caller=digest(run[name]) if name in run else None,
            journal=journal,
            reason="" if failure is None else failure.reason,
            explained=failure is not None
            and failure.reason in _REFUSALS
            and failure.node == failing
            and all(part in message for part in ("expected:", "got:", "fix:", "docs:"))
            and ("$" in message or failure.reason != "contract.violated"),
            leaked=leaked and self.given[at].canary,
        )

    def _journalled(self, at: int, loaded: LoadedRun) -> str | None:
        """What a process that resumed the run would take for the slot's value."""
        name = producer_name(at)
        plan = self.pipeline.plan
        writer = guard_name(at) if is_guarded(at) else name
        for record in loaded.records:
            if record.type is RecordType.OUTCOME and record.node == writer and record.is_accepted:
                if is_guarded(at) and record.data.get("control") != "redact":
                    continue
                if record.payload is None:
                    continue
                try:
                    value = plan.nodes[plan.index[name]].contract.decode(record.payload)
                except StageflowError as error:
                    return error.code
                return digest(thaw(value))
        return None


def is_guarded(at: int) -> bool:
    """Whether the slot's value comes from a guard that redacts."""
    return at % 8 == 7


def producer_name(at: int) -> str:
    """The name of the slot's producer."""
    return f"producer{at}"


def guard_name(at: int) -> str:
    """The name of the guard of a guarded slot."""
    return f"guard{at}"
