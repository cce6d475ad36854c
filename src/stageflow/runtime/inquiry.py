"""Asking a stage's `reconcile` what an attempt that was cut off has done."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stageflow.graph import Node
from stageflow.model.errors import EffectUnknown
from stageflow.model.outputs import CantTell, Happened, NotHappened

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


class DidNotHappen(BaseException):
    """How such an attempt says so: it is no value of the stage's, and no failure."""


async def asked(driver: Driver, node: Node, given: Mapping[str, Any], started_s: float) -> Any:
    """The value that the stage would have returned. DidNotHappen when the effect did not take
    place, EffectUnknown when nobody can tell."""
    assert node.stage is not None and node.stage.reconcile is not None
    reconcile = node.stage.reconcile
    known = {"ctx": driver.context_of(node, started_s), **given}
    found = await reconcile(
        **{name: known[name] for name in inspect.signature(reconcile).parameters if name in known}
    )
    if isinstance(found, Happened):
        return found.value
    if isinstance(found, NotHappened):
        raise DidNotHappen
    reason = found.reason if isinstance(found, CantTell) else f"it said {type(found).__name__}"
    raise EffectUnknown(
        "effect.unknown",
        f"reconcile of {node.name!r} can't tell whether its effect happened: {reason}"[:300],
        node=node.name,
        expected="Happened(value) or NotHappened()",
        fix="look whether it happened; resume with rerun= when it did not",
    )
