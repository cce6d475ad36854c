"""What routes and guards returned, checked and turned into what the scheduler needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stageflow.graph import Node
from stageflow.model.bag import MISSING
from stageflow.model.errors import ContractError, nearest
from stageflow.model.kinds import Kind
from stageflow.model.outputs import Allow, Block, Branch, Redact, Revise
from stageflow.model.progress import Stall
from stageflow.runtime.loops import stall_after

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


class Control(NamedTuple):
    """What a route or guard decided. Nothing of it counts until the scheduler took it."""

    kind: str
    detail: Any
    """Branch name, or the node that is redacted or sent back."""
    reason: str = ""
    replaced: Any = MISSING
    """Canonical form of what stands in the redacted value's place."""
    wish: Revise | None = None
    stall: Stall | None = None
    """Why the loop should be given up, when this wish is one too many."""

    def heed(self, driver: Driver, node: Node) -> None:
        """Keeps the reason and the replacement; for a decision that was not refused as late."""
        if self.reason:
            driver.reasons[node.index] = self.reason
        if self.replaced is not MISSING:
            driver.redactions.setdefault(self.detail, self.replaced)
        if self.wish is not None:
            driver.wishes.setdefault(self.detail, []).append((node.name, self.wish))
            driver.note_stall(self.detail, self.stall)


def control_of(driver: Driver, node: Node, raw: Any) -> Control:
    """What was decided. ContractError when the stage decided nothing."""
    if node.kind is Kind.ROUTE:
        return Control(*_branch(driver, node, raw))
    if isinstance(raw, Allow):
        return Control("allow", None)
    if isinstance(raw, Block):
        return Control("block", None, reason=raw.reason)
    if isinstance(raw, Redact):
        target = _target(node, raw.of, "redacts")
        replaced = driver.nodes[target].contract.admit(raw.value, driver.runtime.freezer)
        return Control("redact", target, replaced=replaced)
    if isinstance(raw, Revise):
        target = _target(node, raw.of, "revises")
        return Control(
            "revise", target, wish=raw, stall=stall_after(driver, target, (node.name, raw))
        )
    raise ContractError(
        "contract.no_decision",
        f"guard {node.name!r} returned no decision",
        node=node.name,
        expected="Allow(), Block(reason), Redact(value) or Revise(feedback)",
        got=type(raw).__name__,
        fix="return Allow() when there is nothing to object to",
    )


def _branch(driver: Driver, node: Node, raw: Any) -> tuple[str, Any]:
    if not isinstance(raw, Branch):
        raise ContractError(
            "contract.no_branch",
            f"route {node.name!r} returned no branch",
            node=node.name,
            expected="Branch(name)",
            got=type(raw).__name__,
            fix='return Branch("name")',
        )
    assert node.stage is not None
    declared = node.stage.branches
    known = declared if declared is not None else driver.program.branches.get(node.index, ())
    if raw.name not in known:
        close = nearest(raw.name, known)
        raise ContractError(
            "contract.unknown_branch",
            f"route {node.name!r} chose a branch that nothing handles",
            node=node.name,
            expected="one of " + ", ".join(known),
            got=raw.name[:80],
            fix=f"did you mean {close!r}?" if close else "handle it: when=route.branch(...)",
        )
    return "branch", raw.name


def _target(node: Node, of: str | None, does: str) -> int:
    """The gated node that a decision is about, given by parameter name."""
    if of is None:
        if len(node.gates) == 1:
            return node.gates[0]
        raise ContractError(
            "contract.decision_of",
            f"guard {node.name!r} gates several values and {does} one without saying which",
            node=node.name,
            expected="of=parameter",
            fix=f"of={next(iter(node.gate_of))!r}",
        )
    target = node.gate_of.get(of)
    if target is None:
        close = nearest(of, node.gate_of)
        raise ContractError(
            "contract.decision_of",
            f"guard {node.name!r} {does} {of!r}, which it does not gate",
            node=node.name,
            expected="one of " + ", ".join(node.gate_of),
            fix=f"did you mean {close!r}?" if close else None,
        )
    return target
