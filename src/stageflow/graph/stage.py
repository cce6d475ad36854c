"""A stage: an immutable template of work, made by a decorator and placed in pipelines as a node."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, ParamSpec, TypeAlias, TypeVar

from stageflow.model.caching import Cache
from stageflow.model.errors import BuildError, nearest
from stageflow.model.kinds import Kind
from stageflow.model.labels import NONE, Labels
from stageflow.model.policy import Retry
from stageflow.model.progress import Progress

P = ParamSpec("P")
T = TypeVar("T")

PRIORITY_MAX = 1_000_000
Mode: TypeAlias = Literal["async", "sync", "async_generator", "generator"]
OnFailure: TypeAlias = Literal["stop", "isolate"]
Place: TypeAlias = Literal["loop", "thread", "process"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a stage's function. `annotation` is a type, or Any when there is none."""

    name: str
    annotation: Any
    has_default: bool
    default: Any = None


@dataclass(frozen=True, slots=True)
class BranchRef:
    """A branch of a route, used as `when=`; made by `route_stage.branch(name)`."""

    route: Stage[..., Any]
    name: str


@dataclass(frozen=True, slots=True)
class Merge:
    """A function that makes one value of two, and what it says of them."""

    function: Callable[[Any, Any], Any]
    takes: tuple[Any, Any]
    """Its parameters' annotations; Any where there is none."""
    returns: Any
    label: str
    """Where it is defined; part of the node's fingerprint."""


@dataclass(frozen=True, slots=True)
class Join:
    """How a join chooses among its branches: `need` values, waiting for all branches or not."""

    branches: tuple[Stage[..., Any] | str, ...]
    need: int
    waits_for_all: bool
    collects: bool
    """True when the value is the list of `need` values, False when it is the one value."""
    merge: Merge | None = None
    """Makes one value of all that the branches have, at least `need` of them."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is shown, and for how long the question stands."""

    of: Stage[..., Any] | str
    expires_s: float | None


@dataclass(frozen=True, slots=True)
class Export:
    """One output of a child: its name in the parent, the child's stage, and its type."""

    name: str
    of: str
    returns: Any


@dataclass(frozen=True, slots=True)
class Child:
    """The pipeline that a stage runs, as far as the build of its parent asks."""

    pipeline: str
    stages: tuple[str, ...]
    """All of its stages; only those that are exported are nodes of the parent."""
    single_output: bool
    """True when the stage's value is the one output, False when it is a dict by stage name."""
    exports: tuple[Export, ...]
    undo: Stage[..., Any] | None = None
    """Undoes the child's run; None when no stage of it has an `undo` or is a pivot."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage(Generic[P, T]):
    """What to run, of which kind, under which policies. Equal only to itself.

    The same template may stand in many pipelines, and twice in one under other names (`named`).
    Calling it calls the plain function, which is how a stage's body is unit-tested.
    """

    name: str
    kind: Kind
    function: Callable[..., Any] | None
    mode: Mode
    parameters: tuple[Parameter, ...]
    returns: Any
    unresolved: str | None = None
    """Why annotations could not be resolved at decoration; tried again when a pipeline builds."""
    timeout_s: float = 0.0
    heartbeat_s: float = math.inf
    """Longest silence between two `ctx.heartbeat`; math.inf: it promises none."""
    retry: Retry | None = None
    after: tuple[Stage[..., Any] | str, ...] = ()
    when: BranchRef | None = None
    on_failure: OnFailure = "stop"
    fallback: Stage[..., Any] | str | None = None
    """The node whose value stands for this one's when this one has failed."""
    version: str = "1"
    priority: int = 0
    """Added to that of its run: who goes first where stages wait for threads and pools."""
    place: Place = "loop"
    bindings: Mapping[str, Stage[..., Any] | str] = field(default_factory=dict)
    branches: tuple[str, ...] | None = None
    """ROUTE: the branches it may choose; None leaves it open."""
    of: tuple[str, ...] | None = None
    """GUARD: the parameters it gates; None means every input and node among its parameters."""
    keyed: bool = False
    """WORK: the sink honours `ctx.effect_key`, so an attempt cut off by a crash may run again."""
    reconcile: Callable[..., Any] | None = None
    """WORK: asked, after an attempt was cut off, whether its effect happened."""
    undo: Stage[..., Any] | None = None
    """WORK: what takes its effect back when the run does not end well; itself a WORK stage."""
    pivot: bool = False
    """WORK: once its effect is done, the run is not undone any more, and only goes forward."""
    revisions: int = 5
    """How many revisions guards may ask for, the first one counted, before it is exhausted."""
    progress: Progress = field(default_factory=Progress)
    """When it is exhausted before that, since its revisions bring nothing new."""
    labels: Labels = NONE
    """What its value has besides the labels of all that it takes."""
    accepts: Labels | None = None
    """The labels that what it takes may have; None: any."""
    clears: Labels = NONE
    """GUARD: what the values that it lets pass are no longer labelled with."""
    cache: Cache | None = None
    """Whether a value may stand for another execution; None: never."""
    join: Join | None = None
    wait: Question | None = None
    child: Child | None = None
    origin: Stage[..., Any] | None = None
    """The template this one was derived from by `named`, at the root of the chain."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The plain function's own result: a value, a coroutine or a generator."""
        if self.function is None:
            raise BuildError("stage.not_callable", f"{self.name!r} has no function to call")
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self.kind.value} stage {self.name!r}>"

    def branch(self, name: str) -> BranchRef:
        """The branch `name` of this route, for `when=`. BuildError when it has no such branch."""
        if self.kind is not Kind.ROUTE:
            raise BuildError(
                "stage.no_branches",
                f"{self.name!r} is a {self.kind.value} stage; only a route has branches",
                node=self.name,
                fix="decorate it with @route(branches=(...)) and return Branch(name)",
            )
        if self.branches is not None and name not in self.branches:
            close = nearest(name, self.branches)
            raise BuildError(
                "graph.unknown_branch",
                f"route {self.name!r} has no branch {name!r}",
                node=self.name,
                expected="one of " + ", ".join(self.branches),
                got=name,
                fix=f"did you mean {close!r}?" if close else "add it to branches=(...)",
            )
        return BranchRef(self, name)

    def named(
        self,
        name: str | None = None,
        /,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
        after: Stage[..., Any] | str | Sequence[Stage[..., Any] | str] | None = None,
        when: BranchRef | None = None,
        on_failure: OnFailure | None = None,
        fallback: Stage[..., Any] | str | None = None,
        priority: int | None = None,
        bind: Mapping[str, Stage[..., Any] | str] | None = None,
        **bindings: Stage[..., Any] | str,
    ) -> Stage[P, T]:
        """A template with another name, other policies, or parameters bound to other nodes.

        `bind` does what keywords do, for parameters whose names are options here. BuildError when
        a bound name is no parameter.
        """
        check_policies(
            self.name,
            retry=retry,
            when=when,
            on_failure=on_failure,
            fallback=fallback,
            after=after,
            bind=bind,
        )
        bound = {**self.bindings, **(bind or {}), **bindings}
        names = [parameter.name for parameter in self.parameters]
        for parameter in bound:
            if parameter not in names:
                raise BuildError(
                    "graph.unknown_parameter",
                    f"stage {self.name!r} has no parameter {parameter!r}",
                    node=self.name,
                    field=parameter,
                    expected="one of " + ", ".join(names),
                    fix=_did_you_mean(parameter, names),
                )
        return dataclasses.replace(
            self,
            name=self.name if name is None else checked_name(name),
            timeout_s=self.timeout_s if timeout is None else checked_timeout(timeout, self.name),
            retry=self.retry if retry is None else retry,
            after=self.after if after is None else as_references(after),
            when=self.when if when is None else when,
            on_failure=self.on_failure if on_failure is None else on_failure,
            fallback=self.fallback if fallback is None else fallback,
            priority=self.priority if priority is None else checked_priority(priority, self.name),
            bindings=bound,
            origin=self if self.origin is None else self.origin,
        )


def checked_name(name: str) -> str:
    """`name`, when it can name a node. BuildError otherwise."""
    if not isinstance(name, str) or not name.isidentifier():
        raise BuildError(
            "stage.name",
            f"{name!r} can't name a node",
            expected="a Python identifier, since parameters find nodes by name",
            got=repr(name)[:80],
            fix="use letters, digits and underscores: name='draft_b'",
        )
    return name


def checked_timeout(timeout: float, name: str) -> float:
    """Seconds, positive; math.inf means no limit. BuildError otherwise."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise BuildError(
            "policy.timeout",
            f"timeout of {name!r} is not a positive number of seconds",
            node=name,
            field="timeout",
            expected="seconds > 0, or math.inf for none",
            got=repr(timeout)[:80],
            fix="timeout=2.0",
        )
    return float(timeout)


def checked_heartbeat(heartbeat: float, name: str) -> float:
    """Seconds, positive; math.inf promises none. BuildError `policy.heartbeat` otherwise."""
    is_number = isinstance(heartbeat, (int, float)) and not isinstance(heartbeat, bool)
    if not is_number or not heartbeat > 0:
        raise BuildError(
            "policy.heartbeat",
            f"the heartbeat of {name!r} is not a positive number of seconds",
            node=name,
            field="heartbeat",
            expected="seconds > 0, longer than the longest silence that is normal",
            got=repr(heartbeat)[:80],
            fix="heartbeat=5.0",
        )
    return float(heartbeat)


def checked_priority(priority: int, name: str) -> int:
    """`priority`, when it is one. BuildError `policy.priority` otherwise."""
    is_integer = isinstance(priority, int) and not isinstance(priority, bool)
    if not is_integer or abs(priority) > PRIORITY_MAX:
        raise BuildError(
            "policy.priority",
            f"the priority of {name!r} is not an integer, or too large a one",
            node=name,
            field="priority",
            expected=f"an integer of at most {PRIORITY_MAX:,} either way; higher goes first",
            got=repr(priority)[:80],
            fix="priority=5",
        )
    return priority


def check_policies(name: str, **given: object) -> None:
    """BuildError for an option of another type or value; None is an option not given."""
    for option, value in given.items():
        if value is None:
            continue
        is_accepted, expected, fix = _OPTIONS[option]
        if not is_accepted(value):
            raise BuildError(
                "stage.option",
                f"stage {name!r} can't take this {option}",
                node=name,
                field=option,
                expected=expected,
                got=type(value).__name__ if not isinstance(value, str) else repr(value)[:80],
                fix=fix,
            )


def _are_references(after: Any) -> bool:
    is_several = isinstance(after, Sequence) and not isinstance(after, str)
    return all(map(_is_reference, after)) if is_several else _is_reference(after)


def _is_reference(value: Any) -> bool:
    return isinstance(value, (Stage, str))


_OPTIONS: Final[Mapping[str, tuple[Callable[[Any], bool], str, str]]] = {
    "retry": (lambda value: isinstance(value, Retry), "a Retry", "retry=Retry(attempts=3)"),
    "progress": (
        lambda value: isinstance(value, Progress),
        "a Progress",
        "progress=Progress(repeats=2)",
    ),
    "when": (
        lambda value: isinstance(value, BranchRef),
        "a branch: when=route.branch(name)",
        "when=route.branch('name')",
    ),
    "on_failure": (
        lambda value: value in ("stop", "isolate"),
        "'stop' or 'isolate'",
        "on_failure='isolate'",
    ),
    "fallback": (_is_reference, "a stage, or a node's name", "fallback=other_stage"),
    "after": (_are_references, "stages, or their names", "after=other_stage"),
    "of": (_is_reference, "a stage, or a node's name", "of=stage_before"),
    "branches": (
        _are_references,
        "stages, or their names",
        "any_of(first, second, name='either')",
    ),
    "bind": (
        lambda value: isinstance(value, Mapping),
        "a dict of parameters to stages",
        "bind={'text': other_stage}",
    ),
    "keyed": (lambda value: isinstance(value, bool), "True or False", "keyed=True"),
    "pivot": (lambda value: isinstance(value, bool), "True or False", "pivot=True"),
    "version": (lambda value: isinstance(value, str), "text", "version='2'"),
}
"""What an option has to be, as a question and in words, and an example."""


def as_references(
    after: Stage[..., Any] | str | Sequence[Stage[..., Any] | str],
) -> tuple[Stage[..., Any] | str, ...]:
    """One stage or name, or several, as a tuple."""
    return (after,) if isinstance(after, (str, Stage)) else tuple(after)


def mode_of(function: Callable[..., Any]) -> Mode:
    """How the function is to be called."""
    if inspect.isasyncgenfunction(function):
        return "async_generator"
    if inspect.iscoroutinefunction(function):
        return "async"
    if inspect.isgeneratorfunction(function):
        return "generator"
    return "sync"


def function_of(body: Any) -> Callable[..., Any] | None:
    """What the stage calls: a function, class or partial as it is; of another object its `execute`,
    or else its `__call__`. None when there is neither."""
    found = getattr(body, "execute", body)
    if callable(found) and not (
        inspect.isroutine(found) or isinstance(found, (type, functools.partial))
    ):
        found = found.__call__
    return found if callable(found) else None


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a partial, of a partial of one, and so on."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def signature_of(
    function: Callable[..., Any], *, name: str, local_names: Mapping[str, Any] | None
) -> tuple[tuple[Parameter, ...], Any, str | None]:
    """Parameters, return annotation, and why annotations are unresolved (None when they are not).

    `local_names` is the namespace of the code that decorates, so that classes made inside a
    function resolve under `from __future__ import annotations`.
    """
    signature = inspect.signature(function)
    unresolved: str | None = None
    hints: dict[str, Any] = {}
    try:
        hints = typing.get_type_hints(
            innermost(function),
            localns=dict(local_names) if local_names else None,
            include_extras=True,
        )
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        unresolved = str(error)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BuildError(
                "stage.variadic",
                f"parameter {parameter.name!r} of stage {name!r} can't be wired by name",
                node=name,
                field=parameter.name,
                expected="parameters that can be passed by keyword",
                got=str(parameter.kind.description),
                fix="name each value the stage takes; use first_of or n_of for several nodes",
            )
        has_default = parameter.default is not parameter.empty
        parameters.append(
            Parameter(
                parameter.name,
                hints.get(parameter.name, Any),
                has_default,
                parameter.default if has_default else None,
            )
        )
    return tuple(parameters), hints.get("return", Any), unresolved


def _did_you_mean(name: str, names: Sequence[str]) -> str | None:
    close = nearest(name, names)
    return f"did you mean {close!r}?" if close else None
