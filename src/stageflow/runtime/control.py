"""What routes and guards returned, checked and turned into what the scheduler needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stageflow.graph import Node
from stageflow.model.errors import ContractError, nearest
from stageflow.model.kinds import Kind
from stageflow.model.outputs import Allow, Block, Branch, Redact, Revise

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


def control_of(driver: Driver, node: Node, raw: Any) -> tuple[str, Any]:
    """What the scheduler needs to know. ContractError when the stage decided nothing."""
    if node.kind is Kind.ROUTE:
        return _branch(driver, node, raw)
    if isinstance(raw, Allow):
        return "allow", None
    if isinstance(raw, Block):
        driver.reasons[node.index] = raw.reason
        return "block", None
    if isinstance(raw, Redact):
        target = _target(node, raw.of, "redacts")
        replaced = driver.nodes[target].contract.admit(raw.value, driver.runtime.freezer)
        driver.redactions.setdefault(target, replaced)
        return "redact", target
    if isinstance(raw, Revise):
        target = _target(node, raw.of, "revises")
        driver.wishes.setdefault(target, []).append(raw)
        return "revise", target
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
