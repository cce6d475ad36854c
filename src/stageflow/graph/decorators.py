"""The decorators that make stages: transform, enrich, route, guard, work, agent; and the joins."""

from __future__ import annotations

import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from stageflow.graph.stage import (
    BranchRef,
    Join,
    OnFailure,
    Parameter,
    Place,
    Question,
    Stage,
    as_references,
    check_policies,
    checked_heartbeat,
    checked_name,
    checked_priority,
    checked_timeout,
    function_of,
    innermost,
    mode_of,
    signature_of,
)
from stageflow.model.caching import Cache
from stageflow.model.errors import BuildError, nearest
from stageflow.model.kinds import Kind
from stageflow.model.labels import checked_labels
from stageflow.model.outputs import Branch, Decision, Inquiry, StageOutput, Stream
from stageflow.model.policy import Retry
from stageflow.model.progress import Progress

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
D = TypeVar("D", bound=Decision)
B = TypeVar("B", bound=Branch)
T_co = TypeVar("T_co", covariant=True)


class StageOptions(TypedDict, total=False):
    """Keyword options of every decorator."""

    name: str
    """Node name; default: the function's name."""
    timeout: float
    """Seconds one attempt may take; default by kind; math.inf for none."""
    heartbeat: float
    """Seconds that one attempt may be silent: it gives signs of life by `ctx.heartbeat`."""
    retry: Retry
    after: Stage[..., Any] | str | Sequence[Stage[..., Any] | str]
    """Nodes that must have ended before, whose values are not needed."""
    when: BranchRef
    """Runs only when that branch is chosen."""
    on_failure: OnFailure
    """"stop" ends the run; "isolate" skips the dependants and lets the rest go on."""
    fallback: Stage[..., Any] | str
    """A node of the pipeline that runs when this one has failed, and whose value then stands for
    this one's."""
    version: str
    """Change it when the body changes so that an unfinished run should notice."""
    revisions: int
    """How many revisions guards may ask for, the first one counted; default 5."""
    progress: Progress
    """When it is given up before that, since its revisions bring nothing new."""
    priority: int
    """Added to that of its run: higher goes first where stages wait for threads and pools."""
    labels: str | Collection[str]
    """What its value is labelled with, besides the labels of all that it takes."""
    accepts: str | Collection[str]
    """The labels that what it takes may have; default: any. () accepts none."""
    place: Place
    """Where a sync function runs: "thread" (default), "process", or "loop" for quick pure code."""


class CachedOptions(StageOptions, total=False):
    """StageOptions of `transform`, `enrich` and `guard`."""

    cache: Cache
    """A value is given to later runs of the tenant that ask for the same."""


class WorkOptions(StageOptions, total=False):
    """StageOptions of `work`."""

    keyed: bool
    """The sink honours `ctx.effect_key`: an attempt cut off by a crash may safely run again."""
    reconcile: Callable[..., Awaitable[Inquiry]]
    """An async function of some of the stage's parameters, and `ctx`, that is asked about an
    attempt whose effect is unknown; returns Happened(value), NotHappened() or CantTell()."""
    undo: Stage[..., Any] | Callable[..., Any]
    """What takes the effect back when the run does not end well: a `work` stage, or a function.
    Takes `result`, any of the stage's own parameters, deps and `ctx`."""
    pivot: bool
    """Once this effect is done the run is not undone any more: it only goes forward."""


class ValueOptions(CachedOptions, WorkOptions, total=False):
    """What the decorators of stages that give a value take; each takes its own."""


class RouteOptions(StageOptions, total=False):
    """StageOptions of `route`."""

    branches: Sequence[str]
    """Every branch it may choose; lets the build find unreachable and missing cases."""


class GuardOptions(CachedOptions, total=False):
    """StageOptions of `guard`."""

    clears: str | Collection[str]
    """Labels that the values which it lets pass have no longer: it has made sure."""
    of: str | Sequence[str]
    """The parameters whose values it gates; default: all that are inputs or nodes."""


class Executes(Protocol[P, T_co]):
    """An object whose `execute` is the stage's body, async or not."""

    def execute(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...


class ValueDecorator(Protocol):
    """What a decorator with options returns."""

    @overload
    def __call__(self, body: Callable[P, Stream[T]], /) -> Stage[P, list[T]]: ...
    @overload
    def __call__(self, body: Callable[P, Iterator[T]], /) -> Stage[P, list[T]]: ...
    @overload
    def __call__(self, body: Callable[P, Awaitable[T | StageOutput]], /) -> Stage[P, T]: ...
    @overload
    def __call__(self, body: Callable[P, T | StageOutput], /) -> Stage[P, T]: ...


class GuardDecorator(Protocol):
    """What `guard(...)` with options returns."""

    @overload
    def __call__(self, body: Callable[P, Awaitable[D | StageOutput]], /) -> Stage[P, D]: ...
    @overload
    def __call__(self, body: Callable[P, D | StageOutput], /) -> Stage[P, D]: ...


class RouteDecorator(Protocol):
    """What `route(...)` with options returns."""

    @overload
    def __call__(self, body: Callable[P, Awaitable[B | StageOutput]], /) -> Stage[P, B]: ...
    @overload
    def __call__(self, body: Callable[P, B | StageOutput], /) -> Stage[P, B]: ...


class ValueMaker:
    """A decorator for stages that return a value; used plain, with options, or on an object."""

    def __init__(self, kind: Kind, doc: str) -> None:
        self._kind = kind
        self.__doc__ = doc

    @overload
    def __call__(
        self, body: Callable[P, Stream[T]], /, **options: Unpack[ValueOptions]
    ) -> Stage[P, list[T]]: ...
    @overload
    def __call__(
        self, body: Callable[P, Iterator[T]], /, **options: Unpack[ValueOptions]
    ) -> Stage[P, list[T]]: ...
    @overload
    def __call__(
        self, body: Callable[P, Awaitable[T | StageOutput]], /, **options: Unpack[ValueOptions]
    ) -> Stage[P, T]: ...
    @overload
    def __call__(
        self, body: Callable[P, T | StageOutput], /, **options: Unpack[ValueOptions]
    ) -> Stage[P, T]: ...
    @overload
    def __call__(
        self, body: Executes[P, Awaitable[T | StageOutput]], /, **options: Unpack[ValueOptions]
    ) -> Stage[P, T]: ...
    @overload
    def __call__(
        self, body: Executes[P, T | StageOutput], /, **options: Unpack[ValueOptions]
    ) -> Stage[P, T]: ...
    @overload
    def __call__(self, /, **options: Unpack[ValueOptions]) -> ValueDecorator: ...
    def __call__(self, body: Any = None, /, **options: Any) -> Any:
        return _decorate(self._kind, body, options)


class GuardMaker:
    """The `guard` decorator: the body returns Allow, Block, Redact or Revise."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    @overload
    def __call__(
        self, body: Callable[P, Awaitable[D | StageOutput]], /, **options: Unpack[GuardOptions]
    ) -> Stage[P, D]: ...
    @overload
    def __call__(
        self, body: Callable[P, D | StageOutput], /, **options: Unpack[GuardOptions]
    ) -> Stage[P, D]: ...
    @overload
    def __call__(
        self, body: Executes[P, Awaitable[D | StageOutput]], /, **options: Unpack[GuardOptions]
    ) -> Stage[P, D]: ...
    @overload
    def __call__(
        self, body: Executes[P, D | StageOutput], /, **options: Unpack[GuardOptions]
    ) -> Stage[P, D]: ...
    @overload
    def __call__(self, /, **options: Unpack[GuardOptions]) -> GuardDecorator: ...
    def __call__(self, body: Any = None, /, **options: Any) -> Any:
        return _decorate(Kind.GUARD, body, options)


class RouteMaker:
    """The `route` decorator: the body returns a Branch."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    @overload
    def __call__(
        self, body: Callable[P, Awaitable[B | StageOutput]], /, **options: Unpack[RouteOptions]
    ) -> Stage[P, B]: ...
    @overload
    def __call__(
        self, body: Callable[P, B | StageOutput], /, **options: Unpack[RouteOptions]
    ) -> Stage[P, B]: ...
    @overload
    def __call__(
        self, body: Executes[P, Awaitable[B | StageOutput]], /, **options: Unpack[RouteOptions]
    ) -> Stage[P, B]: ...
    @overload
    def __call__(
        self, body: Executes[P, B | StageOutput], /, **options: Unpack[RouteOptions]
    ) -> Stage[P, B]: ...
    @overload
    def __call__(self, /, **options: Unpack[RouteOptions]) -> RouteDecorator: ...
    def __call__(self, body: Any = None, /, **options: Any) -> Any:
        return _decorate(Kind.ROUTE, body, options)


transform = ValueMaker(Kind.TRANSFORM, "A stage that computes a value and touches nothing else.")
enrich = ValueMaker(Kind.ENRICH, "A stage that reads from the outside: retrieval, look-ups.")
work = ValueMaker(Kind.WORK, "A stage that changes the outside world.")
agent = ValueMaker(Kind.AGENT, "A stage that reasons: models, tools, streams.")
guard = GuardMaker("A stage that decides whether the values it takes may pass.")
route = RouteMaker("A stage that chooses a branch.")


@overload
def first_of(first: Stage[..., T], /, *, name: str) -> Stage[[], T]: ...
@overload
def first_of(first: Stage[..., T], second: Stage[..., U], /, *, name: str) -> Stage[[], T | U]: ...
@overload
def first_of(
    first: Stage[..., T], second: Stage[..., U], /, *more: Stage[..., Any], name: str
) -> Stage[[], Any]: ...
def first_of(*branches: Stage[..., Any], name: str) -> Stage[[], Any]:
    """The value of the first branch, in the order given here, that has one. Waits for all of them.

    Skipped when no branch has a value.
    """
    return joined("first_of", branches, name, need=1, waits_for_all=True, collects=False)


@overload
def any_of(first: Stage[..., T], /, *, name: str) -> Stage[[], T]: ...
@overload
def any_of(first: Stage[..., T], second: Stage[..., U], /, *, name: str) -> Stage[[], T | U]: ...
@overload
def any_of(
    first: Stage[..., T], second: Stage[..., U], /, *more: Stage[..., Any], name: str
) -> Stage[[], Any]: ...
def any_of(*branches: Stage[..., Any], name: str) -> Stage[[], Any]:
    """The value of whichever branch has one first; the others run on and are not waited for here.

    Skipped when no branch has a value.
    """
    return joined("any_of", branches, name, need=1, waits_for_all=False, collects=False)


def n_of(count: int, /, *branches: Stage[..., T], name: str) -> Stage[[], list[T]]:
    """The first `count` values to arrive, in the order of the branches given here.

    Skipped when fewer than `count` branches have a value.
    """
    return joined("n_of", branches, name, need=count, waits_for_all=False, collects=True)


def approval(
    name: str,
    decides: type[T],
    /,
    *,
    of: Stage[..., Any] | str,
    expires: float | None = None,
    after: Stage[..., Any] | str | Sequence[Stage[..., Any] | str] = (),
    when: BranchRef | None = None,
    on_failure: OnFailure = "stop",
) -> Stage[[], T]:
    """A node that waits for a person to look at `of` and to answer with a `decides`.

    The answer comes through `runtime.signal`, is checked against the type, bound to the content
    that was shown, and given once. With a journal the run is suspended meanwhile: it costs no
    task and survives restarts. After `expires` seconds the node fails with reason `expired`.
    """
    check_policies(str(name), of=of, after=after, when=when, on_failure=on_failure)
    return Stage(
        name=checked_name(name),
        kind=Kind.WAIT,
        function=None,
        mode="sync",
        parameters=(),
        returns=decides,
        timeout_s=Kind.WAIT.timeout_s,
        after=as_references(after),
        when=when,
        on_failure=on_failure,
        wait=Question(of, None if expires is None else checked_timeout(expires, name)),
    )


def _revisions(given: Any, name: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise BuildError(
            "policy.revisions",
            f"revisions of {name!r} is not a positive number",
            node=name,
            field="revisions",
            expected="an integer of 1 or more",
            got=repr(given)[:80],
            fix="revisions=5",
        )
    return given


def joined(
    what: str,
    branches: tuple[Stage[..., Any] | str, ...],
    name: str,
    *,
    need: int,
    waits_for_all: bool,
    collects: bool,
) -> Stage[..., Any]:
    """A join of `branches`. BuildError `graph.join_never_fires` when it needs more than it has."""
    check_policies(name, branches=branches)
    if isinstance(need, bool) or not isinstance(need, int) or not 1 <= need <= len(branches):
        raise BuildError(
            "graph.join_never_fires",
            f"{what} {name!r} can never have its value",
            node=name,
            expected=f"between 1 and {len(branches)} values from {len(branches)} branches",
            got=str(need),
            fix=f"{what}(...) over at least as many branches as it needs values",
        )
    element = union_of(branch.returns if isinstance(branch, Stage) else Any for branch in branches)
    return Stage(
        name=checked_name(name),
        kind=Kind.JOIN,
        function=None,
        mode="sync",
        parameters=(),
        returns=types.GenericAlias(list, (element,)) if collects else element,
        timeout_s=Kind.JOIN.timeout_s,
        progress=Progress(repeats=1),  # it has no body, and would give the same again
        join=Join(tuple(branches), need, waits_for_all, collects),
    )


def union_of(annotations: Iterable[Any]) -> Any:
    """The union of types; Any when one of them is, or there are none."""
    distinct = list(dict.fromkeys(annotations))
    if not distinct or Any in distinct:
        return Any
    return typing.Union[tuple(distinct)]  # noqa: UP007  (built at run time)


def _decorate(kind: Kind, body: Any, options: dict[str, Any]) -> Any:
    caller = sys._getframe(2)  # the code that decorates: its local classes resolve annotations
    local_names = None if caller.f_locals is caller.f_globals else caller.f_locals
    if body is None:
        return functools.partial(_decorate_with, kind, options)
    return _stage(kind, body, options, local_names)


def _decorate_with(kind: Kind, options: dict[str, Any], body: Any, /) -> Stage[..., Any]:
    caller = sys._getframe(1)
    local_names = None if caller.f_locals is caller.f_globals else caller.f_locals
    return _stage(kind, body, options, local_names)


def _stage(
    kind: Kind, body: Any, options: dict[str, Any], local_names: dict[str, Any] | None
) -> Stage[..., Any]:
    if isinstance(body, Stage):
        raise BuildError(
            "stage.twice",
            f"{body.name!r} is a stage already",
            node=body.name,
            fix="use one decorator, or body.named(...) for other options",
        )
    function = function_of(body)
    if function is None:
        raise BuildError(
            "stage.not_callable",
            f"a {kind.value} stage needs a function, or an object that can be called or executed",
            got=type(body).__name__,
            fix=f"@{kind.value} on a function, or {kind.value}(obj, name=...)",
        )
    default = getattr(innermost(body), "__name__", None) or type(body).__name__.lower()
    name = checked_name(options.get("name", default))
    mode = mode_of(function)
    place = _place(kind, mode, options.get("place"), name)
    parameters, returns, unresolved = signature_of(function, name=name, local_names=local_names)
    _known_options(kind, options, name)
    check_policies(
        name,
        retry=options.get("retry"),
        when=options.get("when"),
        on_failure=options.get("on_failure"),
        fallback=options.get("fallback"),
        progress=options.get("progress"),
        after=options.get("after"),
        keyed=options.get("keyed"),
        pivot=options.get("pivot"),
        version=options.get("version"),
    )
    branches = options.get("branches")
    of = options.get("of")
    undo = _undo(options, name, local_names)
    return Stage(
        name=name,
        kind=kind,
        function=function,
        mode=mode,
        parameters=parameters,
        returns=value_type(returns, mode),
        unresolved=unresolved,
        timeout_s=checked_timeout(options.get("timeout", kind.timeout_s), name),
        heartbeat_s=checked_heartbeat(options.get("heartbeat", math.inf), name),
        retry=options.get("retry"),
        after=as_references(options.get("after", ())),
        when=options.get("when"),
        on_failure=options.get("on_failure", "stop"),
        fallback=options.get("fallback"),
        version=options.get("version", "1"),
        priority=checked_priority(options.get("priority", 0), name),
        place=place,
        revisions=_revisions(
            options.get("revisions", 1 if undo or options.get("pivot") else 5), name
        ),
        progress=options.get("progress") or Progress(),
        branches=None
        if branches is None
        else (branches,)
        if isinstance(branches, str)
        else tuple(branches),
        of=None if of is None else (of,) if isinstance(of, str) else tuple(of),
        keyed=options.get("keyed", False),
        reconcile=_reconcile(options.get("reconcile"), parameters, name),
        undo=undo,
        pivot=options.get("pivot", False),
        labels=checked_labels(options.get("labels", ()), field="labels", node=name),
        accepts=None
        if options.get("accepts") is None
        else checked_labels(options["accepts"], field="accepts", node=name),
        clears=checked_labels(options.get("clears", ()), field="clears", node=name),
        cache=_cache(options.get("cache"), kind, mode, name),
    )


def _known_options(kind: Kind, options: dict[str, Any], name: str) -> None:
    known = [*StageOptions.__annotations__, *_OWN_OPTIONS.get(kind, ())]
    for option in options:
        if option not in known:
            close = nearest(option, known)
            raise BuildError(
                "stage.unknown_option",
                f"{kind.value} stage {name!r} has no option {option!r}",
                node=name,
                field=option,
                expected="one of " + ", ".join(known),
                fix=f"did you mean {close!r}?" if close else None,
            )


def _cache(given: Any, kind: Kind, mode: str, name: str) -> Cache | None:
    """`given`, when the stage's value can be kept. BuildError `stage.cache` otherwise."""
    if given is None:
        return None
    expected, got = None, type(given).__name__
    if not isinstance(given, Cache):
        expected, fix = "a Cache", "cache=Cache(ttl=60.0)"
    elif mode in ("async_generator", "generator"):
        expected, got, fix = "a stage that returns its value", "one that yields it", "return a list"
    elif kind is Kind.ENRICH and given.ttl is None:
        expected, got = "how old what it reads may be", "no ttl"
        fix = "cache=Cache(ttl=60.0)"
    if expected is not None:
        raise BuildError(
            "stage.cache",
            f"values of {kind.value} stage {name!r} can't be kept",
            node=name,
            field="cache",
            expected=expected,
            got=got,
            fix=fix,
        )
    return cast(Cache, given)


def _reconcile(given: Any, parameters: Sequence[Parameter], name: str) -> Any:
    """`given`, when it can be asked. BuildError `stage.reconcile` otherwise."""
    if given is None:
        return None
    known = [*(parameter.name for parameter in parameters), "ctx"]
    if not inspect.iscoroutinefunction(given):
        raise BuildError(
            "stage.reconcile",
            f"reconcile of {name!r} is no async function",
            node=name,
            field="reconcile",
            expected="an async function that returns Happened, NotHappened or CantTell",
            got=type(given).__name__,
            fix="async def looked_up(order: str) -> Happened | NotHappened | CantTell: ...",
        )
    for parameter in inspect.signature(given).parameters:
        if parameter not in known:
            close = nearest(parameter, known)
            raise BuildError(
                "stage.reconcile",
                f"reconcile of {name!r} takes {parameter!r}, which the stage does not",
                node=name,
                field=parameter,
                expected="some of " + ", ".join(known),
                fix=f"did you mean {close!r}?" if close else "take what the stage takes, and ctx",
            )
    return given


def _undo(
    options: dict[str, Any], name: str, local_names: dict[str, Any] | None
) -> Stage[..., Any] | None:
    """The stage that undoes this one. BuildError `stage.undo` when it can't."""
    given = options.get("undo")
    if given is None:
        return None
    wrong: tuple[str, str] | None = None
    if options.get("pivot"):
        wrong = "a stage with undo=, or a pivot", "both: what is never undone needs no undo"
    elif options.get("revisions", 1) != 1:
        wrong = "one revision: each would be an effect of its own", f"{options['revisions']}"
    elif not (isinstance(given, Stage) or callable(given)):
        wrong = "a @work stage, or a function", type(given).__name__
    elif isinstance(given, Stage) and (given.kind is not Kind.WORK or given.function is None):
        wrong = "a @work stage", f"a {given.kind.value} stage"
    elif isinstance(given, Stage) and _is_wired(given):
        wrong = "a stage without when, after, fallback, undo, pivot or on_failure", "one that has"
    if wrong is not None:
        raise BuildError(
            "stage.undo",
            f"stage {name!r} can't be undone like this",
            node=name,
            field="undo",
            expected=wrong[0],
            got=wrong[1],
            fix="undo=refund, with `async def refund(result: Receipt) -> None: ...`",
        )
    if isinstance(given, Stage):
        return given
    return _stage(Kind.WORK, given, {"name": f"undo_{name}", "retry": UNDO_RETRY}, local_names)


UNDO_RETRY = Retry(attempts=5)
"""Of an undo that is a plain function: nobody wants to be called for a passing fault."""


def _is_wired(stage: Stage[..., Any]) -> bool:
    """True for a stage that has a place in a graph of its own, which an undo has not."""
    return bool(
        stage.after
        or stage.when
        or stage.fallback
        or stage.undo
        or stage.pivot
        or stage.on_failure != "stop"
        or stage.bindings
    )


_OWN_OPTIONS = {
    Kind.TRANSFORM: ("cache",),
    Kind.ENRICH: ("cache",),
    Kind.WORK: ("keyed", "reconcile", "undo", "pivot"),
    Kind.ROUTE: ("branches",),
    Kind.GUARD: ("of", "cache", "clears"),
}


def value_type(returns: Any, mode: str) -> Any:
    """The type of the node's value: StageOutput taken out of unions, streams made lists."""
    if mode in ("async_generator", "generator"):
        arguments = typing.get_args(returns)
        return types.GenericAlias(list, (arguments[0] if arguments else Any,))
    if returns is StageOutput:
        return Any
    if typing.get_origin(returns) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(returns) if part is not StageOutput]
        return union_of(rest)
    return returns


def _place(kind: Kind, mode: str, place: Place | None, name: str) -> Place:
    allowed: tuple[Literal["loop", "thread", "process"], ...]
    if mode in ("async", "async_generator"):
        allowed, default = ("loop",), "loop"
    elif mode == "generator":
        allowed, default = ("thread", "loop"), "thread"
    else:
        allowed, default = ("thread", "process", "loop"), "thread"
    chosen = default if place is None else place
    if chosen not in allowed:
        raise BuildError(
            "stage.place",
            f"stage {name!r} can't run in place={chosen!r}",
            node=name,
            field="place",
            expected="one of " + ", ".join(repr(one) for one in allowed),
            got=repr(chosen)[:80],
            fix="process takes plain sync functions; async stages run on the loop",
        )
    return typing.cast(Place, chosen)
