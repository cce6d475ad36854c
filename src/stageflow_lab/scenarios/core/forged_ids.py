"""Every endpoint of a tenant's handle, found by looking, and asked about the runs of others."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stageflow import BuildError, LetStand, Pipeline, Runtime, StageflowError, TenantRuntime

from .tenant_canaries import Sinks
from .tenant_desk import CHILD

RUN: Final = "run"
KNOWN: Final[Mapping[str, Any]] = {
    "node": "signed",
    "value": True,
    "found": LetStand("let it be"),
    "by": "eve",
}
"""What endpoints ask for besides the run; one that asks for more can't be tried, and is missed."""
ABSENT: Final = "0" * 26
USING: Final = ("using tenant", "using run_id")
"""Ways to leave one's tenant that are no methods of the handle."""


def endpoints() -> list[str]:
    """The public methods of the handle that take a run's id."""
    return sorted(
        name
        for name, method in inspect.getmembers(TenantRuntime, inspect.isfunction)
        if not name.startswith("_") and RUN in inspect.signature(method).parameters
    )


def arguments(endpoint: str, pipeline: Pipeline[Any]) -> dict[str, Any] | None:
    """What to call it with besides the run; None when it asks for what nobody here knows."""
    parameters = inspect.signature(getattr(TenantRuntime, endpoint)).parameters
    known = {**KNOWN, "pipeline": pipeline}
    asked = [name for name in parameters if name not in ("self", RUN)]
    for name in asked:
        if name not in known and parameters[name].default is inspect.Parameter.empty:
            return None
    return {name: known[name] for name in asked if name in known}


@dataclass(slots=True)
class Forgeries:
    """What was answered."""

    facts: Counter[str] = field(default_factory=Counter)
    tried: set[str] = field(default_factory=set)
    examples: list[str] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """As plain values, for a history."""
        tried = sorted(self.tried)
        known = [*endpoints(), *USING]
        return {
            **self.facts,
            "endpoints": len(known),
            "tried": len(self.tried & set(known)),
            "names": tried,
            "examples": self.examples[:8],
        }


async def forge(
    runtime: Runtime,
    forgeries: Forgeries,
    sinks: Sinks,
    *,
    asker: str,
    run: str,
    pipeline: Pipeline[Any],
    status: str,
) -> None:
    """`asker` tries every endpoint on another tenant's run, and on one that there is not."""
    handle, told_before = runtime.tenant(asker), runtime.refusals.count
    for endpoint in endpoints():
        given = arguments(endpoint, pipeline)
        if given is None:
            forgeries.examples.append(f"{endpoint} asks for more than {sorted(KNOWN)}")
            continue
        forgeries.tried.add(endpoint)
        said = []
        for asked in (run, ABSENT):
            answer = await _answer(handle, endpoint, asked, given)
            sinks.add("forged", asker, answer[1])
            said.append((answer[0], answer[1].replace(asked, "RUN")))
            forgeries.facts["told"] += runtime.refusals.count > told_before
            told_before = runtime.refusals.count
        forgeries.facts["forged"] += 1
        forgeries.facts[f"while {status}"] += 1
        forgeries.facts["refused"] += said[0][0]
        forgeries.facts["alike"] += said[0] == said[1]
        forgeries.facts["asked"] += 2
        if said[0] != said[1] and len(forgeries.examples) < 8:
            forgeries.examples.append(f"{endpoint} of a foreign run, {status}: {said[0][1][:200]}")
    _leave(runtime, forgeries, asker=asker, run=run)


async def _answer(
    handle: TenantRuntime, endpoint: str, run: str, given: dict[str, Any]
) -> tuple[bool, str]:
    """Whether it was refused, and everything that the asker is told."""
    try:
        return False, repr(await getattr(handle, endpoint)(run, **given))
    except StageflowError as error:
        return True, f"{type(error).__name__}: {error} {error.__cause__!r} {error.__context__!r}"


def _leave(runtime: Runtime, forgeries: Forgeries, *, asker: str, run: str) -> None:
    """The ways of `USING`: to run as another tenant, and to see whether an id is taken."""
    bound = CHILD.using(runtime=runtime.tenant(asker))
    for way, options in zip(USING, ({"tenant": "tenant-of-eve"}, {"run_id": run}), strict=True):
        forgeries.tried.add(way)
        forgeries.facts["forged"] += 1
        try:
            bound.using(**options)  # type: ignore[arg-type]
        except BuildError:
            forgeries.facts["refused"] += 1
            forgeries.facts["alike"] += 1  # no run was looked at: it can't differ
