"""The pipeline as a user holds it: built once, checked at once, run as often as one likes."""

from __future__ import annotations

import copy
import sys
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, NotRequired, TypeVar, overload

from stageflow.graph import Plan, Stage, check_arguments, compile_plan, refused, stand_in
from stageflow.graph.child import without_exports
from stageflow.graph.draw import mermaid, text_diagram
from stageflow.model.errors import BuildError, InputError, StageflowError, nearest
from stageflow.model.identity import DEFAULT_TENANT
from stageflow.model.labels import checked_labels
from stageflow.model.session import Window
from stageflow.model.snapshot import ContextSnapshot
from stageflow.model.values import Freezer
from stageflow.runtime.arguments import check_count, checked_items
from stageflow.runtime.childstage import child_stage
from stageflow.runtime.context import Context
from stageflow.runtime.deps import DepScopes, lacking
from stageflow.runtime.driver import Driver
from stageflow.runtime.events import Subscription
from stageflow.runtime.handle import Handle
from stageflow.runtime.outcome import Run
from stageflow.runtime.processes import check_portable
from stageflow.runtime.request import Request
from stageflow.runtime.run_options import RunOptions, check_options, subscriptions
from stageflow.runtime.runtime import Runtime
from stageflow.runtime.snapshots import SNAPSHOT_BYTES_MAX, dumped, loaded
from stageflow.runtime.step import Compiled
from stageflow.runtime.stream import Emitted, StreamQueue
from stageflow.runtime.submission import submit
from stageflow.runtime.tenancy import TenantRuntime, check_bound, runtime_of

O = TypeVar("O")  # noqa: E741


class Pipeline(Generic[O]):
    """A checked graph of stages. `O` is the type of `run.output`.

    `stages` have no order. `inputs` maps names to types, `NotRequired[T]` for optional ones; `deps`
    maps names to types. `outputs` are what a run needs to be ok: one stage, several (then
    `run.output` is a dict by node name), or, when not given, every stage that nobody takes.
    Raises BuildError, or BuildErrors with all mistakes at once.
    """

    __slots__ = ("_module", "options", "plan", "program", "runtime")

    plan: Plan
    program: Compiled
    options: RunOptions

    @overload
    def __init__(
        self,
        name: str,
        stages: Iterable[Stage[..., Any]],
        *,
        inputs: Mapping[str, Any] | None = ...,
        outputs: Stage[..., O],
        deps: Mapping[str, Any] | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Pipeline[dict[str, Any]],
        name: str,
        stages: Iterable[Stage[..., Any]],
        *,
        inputs: Mapping[str, Any] | None = ...,
        outputs: Sequence[Stage[..., Any] | str] | None = ...,
        deps: Mapping[str, Any] | None = ...,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        stages: Iterable[Stage[..., Any]],
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Any = None,
        deps: Mapping[str, Any] | None = None,
    ) -> None:
        check_arguments(name, stages, inputs=inputs, deps=deps)
        self._compile(
            name,
            tuple(stages),
            inputs={} if inputs is None else inputs,
            outputs=outputs,
            deps={} if deps is None else deps,
        )
        self.options = RunOptions()
        self.runtime = Runtime()
        self._module = sys._getframe(1).f_globals.get("__name__")

    def _compile(
        self,
        name: str,
        stages: Sequence[Stage[..., Any]],
        *,
        inputs: Mapping[str, Any],
        outputs: Any,
        deps: Mapping[str, Any],
    ) -> None:
        self.plan = compile_plan(
            name,
            stages,
            inputs=inputs,
            outputs=outputs,
            deps=deps,
            is_context=lambda annotation: annotation is Context,
        )
        for node in self.plan.nodes:
            if node.stage is not None and node.stage.place == "process":
                check_portable(node.stage, name)
        self.program = Compiled(self.plan)

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.plan.name

    def __repr__(self) -> str:
        return f"<pipeline {self.name!r} of {len(self.plan.nodes)} nodes>"

    # -- options -----------------------------------------------------------------------------

    def using(
        self,
        *,
        runtime: Runtime | TenantRuntime | None = None,
        tenant: str | None = None,
        labels: str | Collection[str] | None = None,
        session: str | None = None,
        window: Window | None = None,
        correlation: str | None = None,
        deadline: float | None = None,
        seed: int | None = None,
        run_id: str | None = None,
        priority: int | None = None,
        request_key: str | None = None,
        events: Subscription | Iterable[Subscription] | None = None,
        target: str | None = None,
    ) -> Pipeline[O]:
        """The same pipeline, run under other options; what is not given stays as it was.

        Runs of one `session` of one `tenant` are turns: one runs after another, in order of
        arrival, and each sees earlier ones through `window`, as `ctx.session`. RunError
        `session.suspended` is raised for a turn that would follow a suspended one.

        `request_key` makes a call repeatable: a tenant's second call with one key gets the run of
        the first, waits for it, or resumes it when its process died. RunError
        `run.request_changed` when the inputs are others.

        `runtime` may be a tenant's handle, `runtime.tenant(name)`: then the pipeline runs for that
        tenant for good; BuildError `tenant.bound`, `tenant.run_id`.

        `labels` are those of the inputs: they follow to everything that is made from them.

        `deadline` is in seconds from the start of each run, waiting included. `events` are told
        what happens. `target` is the `module:attr` under which a later process finds this pipeline.
        `seed` makes the jitter of retries repeatable. Without it every run has one of its own, so
        that runs which fail together do not come back together.

        `priority` counts among the runs of one tenant: higher goes first where stages wait for
        pools, threads and processes, and in the queue of submitted runs. A child run has that of
        the stage that starts it, and its own on top.

        Raises BuildError `run.option`, `policy.timeout`, `policy.priority`.
        """
        within = None
        if isinstance(runtime, TenantRuntime):
            within = runtime.name
            if tenant is None and self.options.tenant == DEFAULT_TENANT:
                tenant = within
            runtime = runtime_of(runtime)
        given: dict[str, Any] = {
            "runtime": runtime,
            "tenant": tenant,
            "within": within,
            "labels": None if labels is None else checked_labels(labels, field="labels"),
            "session": session,
            "window": window,
            "correlation": correlation,
            "deadline": deadline,
            "seed": seed,
            "run_id": run_id,
            "priority": priority,
            "request_key": request_key,
            "events": subscriptions(self.name, events),
            "target": target,
        }
        check_options(self.name, given)
        other = copy.copy(self)
        other.options = replace(
            self.options, **{name: value for name, value in given.items() if value is not None}
        )
        if other.options.within is not None:
            check_bound(
                self.name,
                within=other.options.within,
                tenant=other.options.tenant,
                run_id=other.options.run_id,
            )
        if other.options.request_key is not None and other.options.run_id is not None:
            raise BuildError(
                "run.two_ids",
                "a run has its id from its request key, or is given one",
                pipeline=self.name,
                field="run_id",
                expected="request_key or run_id",
                got="both",
                fix="leave run_id out: handle.run_id tells the id",
            )
        return other

    # -- tests -------------------------------------------------------------------------------

    def override(self, /, **fakes: Any) -> Pipeline[O]:
        """This pipeline with deps and nodes replaced, for tests; this one stays as it is.

        A dep is replaced by an instance or a factory, which is opened for each run; the runs that
        stages start under this one see it too, under its name. A node is replaced by a value, a
        function (or a `testing.Script`), or a stage: its name, its guards and its place in the
        graph stay. BuildError `override.unknown_name`, with the nearest right one, and
        `override.type` for a node's fake that its contract does not allow, or a dep's that lacks
        what the declared type has.
        """
        caller = sys._getframe(1)
        local_names = None if caller.f_locals is caller.f_globals else caller.f_locals
        nodes: dict[str, Any] = {}
        deps: dict[str, Any] = {}
        for name, fake in fakes.items():
            if name in self.plan.deps:
                self._check_fake(name, fake)
                deps[name] = fake
            elif name.isidentifier() and name in self.plan.index and name not in self.plan.inputs:
                nodes[name] = fake
            else:
                raise self._no_such_fake(name)
        other = copy.copy(self)
        if deps:
            kept = {} if self.options.fakes is None else self.options.fakes.given
            other.options = replace(self.options, fakes=DepScopes.of_run({**kept, **deps}))
        if nodes:
            other._replace_nodes(nodes, local_names)
            other.options = replace(other.options, target=None)
        return other

    def _replace_nodes(
        self, fakes: Mapping[str, Any], local_names: Mapping[str, Any] | None
    ) -> None:
        plan = self.plan
        outputs = [plan.nodes[number].name for number in plan.outputs]
        self._compile(
            plan.name,
            [
                without_exports(
                    stand_in(node, fakes[node.name], pipeline=plan.name, local_names=local_names)
                    if node.name in fakes
                    else node.stage
                )
                for node in plan.nodes
                if node.stage is not None and node.undoes is None
            ],
            inputs={
                name: spec.annotation if spec.required else NotRequired[spec.annotation]
                for name, spec in plan.inputs.items()
            },
            outputs=outputs[0] if plan.single_output else outputs,
            deps=plan.deps,
        )

    def _check_fake(self, name: str, fake: Any) -> None:
        declared = self.plan.deps[name]
        missing = lacking(fake, declared)
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise refused(
                self.name,
                name,
                expected=getattr(declared, "__name__", str(declared)),
                got=getattr(fake, "__name__", type(fake).__name__),
                fix=f"give it {', '.join(missing[:5])}{more}",
            )

    def _no_such_fake(self, name: str) -> BuildError:
        known = [
            *self.plan.deps,
            *(node.name for node in self.plan.nodes if node.stage and node.undoes is None),
        ]
        close = nearest(name, known)
        if name in self.plan.inputs:
            fix: str | None = f"inputs are given to run({name}=...)"
        else:
            fix = f"did you mean {close!r}?" if close else None
        return BuildError(
            "override.unknown_name",
            f"{name!r} is no dep and no node of this pipeline",
            pipeline=self.name,
            field=name,
            expected="one of " + ", ".join(known),
            got=name,
            fix=fix,
        )

    # -- running -----------------------------------------------------------------------------

    async def run(self, **inputs: Any) -> Run[O]:
        """Runs to the end and returns its account, whatever the ending.

        Raises InputError for inputs that do not fit, before anything starts. Cancelling the
        awaiting task cancels the run, waits for its cleanup and raises CancelledError.
        """
        return await self._begin(inputs).execute()

    def start(self, **inputs: Any) -> Handle[O]:
        """Starts a run in the background; the handle waits for it or cancels it."""
        return Handle.start(self._begin(inputs))

    async def submit(self, **inputs: Any) -> str:
        """Puts a run into the queue of the runtime's journal, and returns its id once it is there.

        A worker runs it (`Worker`, `stageflow worker`); `runtime.result(id, wait_s=...)` gives its
        account. JournalError `queue.full` when too many wait, `queue.no_target` when workers could
        not find the pipeline.
        """
        return await submit(self._runtime, self, inputs)

    def stream(self, **inputs: Any) -> RunStream[O]:
        """Starts a run and iterates over what its stages emit, as it comes.

        The run waits when the reader is slow, and is cancelled when the reader stops early
        (leave the `async with`, or call `aclose`).
        """
        queue = StreamQueue(self._runtime.limits.stream_items)
        return RunStream(Handle.start(self._begin(inputs, queue)), queue)

    async def map(
        self, items: Iterable[Mapping[str, Any]], *, at_once: int = 64
    ) -> AsyncIterator[Run[O]]:
        """One run per item (a dict of inputs), `at_once` side by side; in order of items."""
        check_count("at_once", at_once, least=1)
        running: list[Handle[O]] = []
        try:
            for item in checked_items(items):
                running.append(self.start(**item))
                if len(running) >= at_once:
                    yield await running.pop(0)
            while running:
                yield await running.pop(0)
        finally:
            for handle in running:
                handle.cancel()
            for handle in running:
                await handle

    def as_stage(
        self,
        name: str | None = None,
        /,
        *,
        exports: Mapping[str, Stage[..., Any] | str] | Iterable[Stage[..., Any] | str] = (),
    ) -> Stage[..., O]:
        """A stage that runs this pipeline as a child; its parameters are this pipeline's inputs.

        Its value is the child's `output`. Nothing else of the child is seen by its parent but the
        `exports`: outputs of this pipeline that are nodes of the parent, under their own names or
        those that a dict gives them ({name in the parent: stage}). Policies and bindings come from
        `.named(...)`. A child that does not end ok fails the stage. As with `ctx.run`, a stage that
        is executed again under a journal takes its child up where it stands.

        BuildError `graph.unknown_export` for what is no output of this pipeline.
        """
        return child_stage(self, self.name if name is None else name, exports)

    def draw(self, form: str = "text") -> str:
        """The graph as "text" or "mermaid"."""
        if form == "text":
            return text_diagram(self.plan)
        if form == "mermaid":
            return mermaid(self.plan)
        raise BuildError(
            "draw.form", f"no such form {form!r}", field="form", expected="'text' or 'mermaid'"
        )

    @property
    def _runtime(self) -> Runtime:
        return self.runtime if self.options.runtime is None else self.options.runtime

    def _begin(
        self, inputs: Mapping[str, Any], stream: StreamQueue | None = None
    ) -> Driver | Request:
        driver = self._runtime.begin(self, inputs, stream=stream)
        if self.options.request_key is None:
            return driver
        return Request(self._runtime, self, driver)

    # -- snapshots ---------------------------------------------------------------------------

    def dump(
        self, snapshot: ContextSnapshot, *, bytes_max: int = SNAPSHOT_BYTES_MAX
    ) -> AsyncIterator[bytes]:
        """A snapshot of a run of this pipeline as bytes, chunk by chunk: compressed, and with
        checksums of all before. The loop runs on between the chunks.

        What was yielded before an error is no whole stream and is refused by `load`. Raises
        ValueRefused: `codec.undecodable` for what could not come back, `codec.too_large` past
        `bytes_max` bytes before compression.
        """
        return dumped(self.plan, snapshot, bytes_max=bytes_max)

    async def load(self, chunks: AsyncIterable[bytes] | Iterable[bytes]) -> ContextSnapshot:
        """The snapshot again, its content hash equal, from bytes cut at any places.

        Raises ContractError: `codec.damaged` for any byte lost or changed, `codec.mismatch` when
        this pipeline has other nodes or types.
        """
        return await loaded(self.plan, chunks, self.runtime.freezer)

    # -- checks ------------------------------------------------------------------------------

    def admit_inputs(self, inputs: Mapping[str, Any], freezer: Freezer) -> dict[str, Any]:
        """Canonical inputs. InputError for unknown or missing ones, ContractError for bad ones."""
        specs = self.plan.inputs
        for name in inputs:
            if name not in specs:
                close = nearest(name, specs)
                raise InputError(
                    "run.unknown_input",
                    f"the pipeline has no input {name!r}",
                    pipeline=self.name,
                    field=name,
                    expected="one of " + ", ".join(specs) if specs else "no inputs at all",
                    fix=f"did you mean {close!r}?" if close else None,
                )
        admitted = {}
        for name, spec in specs.items():
            if name in inputs:
                try:
                    admitted[name] = spec.contract.admit(inputs[name], freezer)
                except StageflowError as error:
                    if error.field is not None and error.field.startswith("$"):
                        error.field = name + error.field[1:]  # the path, from the input's name on
                    raise error.at(pipeline=self.name, node="inputs", field=name) from None
            elif spec.required:
                raise InputError(
                    "run.missing_input",
                    f"input {name!r} is required",
                    pipeline=self.name,
                    field=name,
                    expected=spec.contract.describe(),
                    fix=f"run({name}=...), or declare it NotRequired[...]",
                )
        return admitted

    def check_durable(self) -> None:
        """Refuses contracts whose values a later process could not decode."""
        for node in self.plan.nodes:
            why = node.contract.undecodable()
            if why is not None:
                raise BuildError(
                    "codec.undecodable",
                    f"values of {node.name!r} could not be decoded in another process",
                    pipeline=self.name,
                    node=node.name,
                    expected="types defined at the top of a module",
                    got=why,
                    fix="move the class to module level, or run without a journal",
                )

    def target(self) -> str | None:
        """`module:attr` under which another process finds this pipeline, or None."""
        if self.options.target is not None:
            return self.options.target
        module = sys.modules.get(self._module or "")
        if module is None or self._module == "__main__":
            return None
        for name, value in vars(module).items():
            if isinstance(value, Pipeline) and value.program is self.program:
                return f"{self._module}:{name}"
        return None


class RunStream(Generic[O]):
    """Items of one run, in order of emission. `result` gives the run afterwards."""

    __slots__ = ("_handle", "_queue")

    def __init__(self, handle: Handle[O], queue: StreamQueue) -> None:
        self._handle = handle
        self._queue = queue

    def __aiter__(self) -> RunStream[O]:
        return self

    async def __anext__(self) -> Emitted:
        item = await self._queue.get()
        if item is None:
            raise StopAsyncIteration
        return item

    async def __aenter__(self) -> RunStream[O]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def result(self) -> Run[O]:
        """The finished run; waits for it. Unread items are dropped."""
        self._queue.close()
        return await self._handle

    async def aclose(self) -> None:
        """Stops reading; cancels the run when it has not ended."""
        self._queue.close()
        if not self._handle.done:
            self._handle.cancel("stream_closed")
        await self._handle
