"""How runs of a pipeline are started: what `Pipeline.using` takes, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from stageflow.graph.stage import checked_priority
from stageflow.model.errors import BuildError
from stageflow.model.forms import form_of, is_number
from stageflow.model.identity import DEFAULT_TENANT
from stageflow.model.labels import NONE, Labels
from stageflow.model.session import Window
from stageflow.runtime.deps import DepScopes
from stageflow.runtime.events import Subscription

if TYPE_CHECKING:
    from stageflow.runtime.runtime import Runtime

_TEXTS: Final = ("session", "correlation", "run_id", "request_key", "target")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How runs are started; set through `Pipeline.using`."""

    runtime: Runtime | None = None
    tenant: str = DEFAULT_TENANT
    within: str | None = None
    """The tenant that later options can't leave; None when no tenant's handle was given."""
    labels: Labels = NONE
    """Of the inputs."""
    session: str | None = None
    window: Window = field(default_factory=Window)
    correlation: str | None = None
    deadline: float | None = None
    """Seconds the whole run may take."""
    seed: int | None = None
    """Of jitter; the same seed gives the same waits. None: every run has its own, of its id."""
    run_id: str | None = None
    priority: int = 0
    """Among the runs of one tenant: higher goes first in the queue, and where stages wait."""
    request_key: str | None = None
    events: tuple[Subscription, ...] = ()
    target: str | None = None
    fakes: DepScopes | None = None
    """Deps that stand for the runtime's; set through `Pipeline.override`."""


def check_options(pipeline: str, given: Mapping[str, Any]) -> None:
    """BuildError for the first of the options that is nothing of its kind; None is left out."""
    for name in _TEXTS:
        value = given[name]
        if value is not None and not (isinstance(value, str) and value):
            raise _wrong(pipeline, name, "text of at least one character", value)
    tenant = given["tenant"]
    if tenant is not None and not isinstance(tenant, str):
        raise _wrong(pipeline, "tenant", "the tenant's name", tenant)
    if given["priority"] is not None:
        checked_priority(given["priority"], pipeline)
    if given["deadline"] is not None:
        _check_deadline(pipeline, given["deadline"])
    seed, window = given["seed"], given["window"]
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise _wrong(pipeline, "seed", "an integer", seed)
    if window is not None and not isinstance(window, Window):
        raise _wrong(pipeline, "window", "a Window", window)


def subscriptions(pipeline: str | None, events: Any) -> tuple[Subscription, ...] | None:
    """`events` as a tuple; None when none were given. BuildError `run.option`."""
    if events is None:
        return None
    is_one = isinstance(events, Subscription) or not isinstance(events, Iterable)
    found = (events,) if is_one else tuple(events)
    for each in found:
        if not isinstance(each, Subscription):
            raise _wrong(pipeline, "events", "a Subscription, or several", each)
    return found


def _check_deadline(pipeline: str, deadline: Any) -> None:
    if not is_number(deadline) or not deadline > 0:
        raise BuildError(
            "policy.timeout",
            "a deadline must lie in the future",
            pipeline=pipeline,
            field="deadline",
            expected="seconds > 0 from the start of each run",
            got=repr(deadline)[:80],
            fix="deadline=30.0",
        )


def _wrong(pipeline: str | None, option: str, expected: str, got: Any) -> BuildError:
    return BuildError(
        "run.option",
        f"runs can't be started with this {option}",
        pipeline=pipeline,
        field=option,
        expected=expected,
        got=form_of(got),
        fix=f"leave {option} out, or give {expected}",
    )
