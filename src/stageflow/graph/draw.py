"""A plan as text and as a Mermaid diagram."""

from __future__ import annotations

from stageflow.graph.plan import Node, Plan, Role

_SHAPES = {
    "route": ("{{", "}}"),
    "guard": ("[/", "/]"),
    "work": ("[[", "]]"),
    "agent": ("([", "])"),
    "join": ("((", "))"),
}


def text_diagram(plan: Plan) -> str:
    """One line per node, in an order in which they may run: kind, name, what it waits for."""
    names = max((len(node.name) for node in plan.nodes), default=0)
    lines = [f"{plan.name}: inputs {', '.join(plan.inputs) or 'none'}"]
    for number in plan.order:
        node = plan.nodes[number]
        kind = "input" if node.stage is None else node.kind.value
        if node.undoes is not None:
            lines.append(f"  undo      {node.name:<{names}}  <- {plan.nodes[node.undoes].name}")
            continue
        edges = sorted(plan.parents[number], key=lambda edge: bool(edge[1] & Role.RAW))
        notes = [_edge(plan, node, parent, role) for parent, role in edges]
        inputs = [a.ref for a in node.arguments if a.source.value == "input"]
        given = ", ".join([*inputs, *notes])
        marks = " *" if number in plan.outputs else ""
        lines.append(f"  {kind:<9} {node.name:<{names}}{marks}  <- {given or 'nothing'}")
    lines.append("  (* output)")
    return "\n".join(lines)


def _edge(plan: Plan, node: Node, parent: int, role: Role) -> str:
    name = plan.nodes[parent].name
    if role & Role.RAW:
        return f"guards {name}"
    if role & Role.WHEN and node.when is not None:
        return f"when {name}={node.when[1]}"
    if role & Role.FALLBACK:
        return f"fallback of {name}"
    if role & Role.AFTER and not role & (Role.VALUE | Role.OPTIONAL):
        return f"after {name}"
    return name + ("?" if role & Role.OPTIONAL else "")


def mermaid(plan: Plan) -> str:
    """A flowchart for https://mermaid.js.org: solid arrows carry values, dotted ones only order."""
    lines = ["flowchart TD"]
    for name in plan.inputs:
        if name not in plan.index:
            lines.append(f"    in_{name}[/{name}/]")
    for node in plan.nodes:
        if node.undoes is not None:
            continue
        left, right = _SHAPES.get(node.kind.value, ("[", "]"))
        label = node.name if node.stage is None else f"{node.kind.value}: {node.name}"
        lines.append(f'    {node.name}{left}"{label}"{right}')
    for number in plan.order:
        node = plan.nodes[number]
        if node.undoes is not None:
            undo, undone = node.name.replace(".", "__"), plan.nodes[node.undoes].name
            lines.append(f'    {undone} -. undone by .-> {undo}[["{node.name}"]]')
            continue
        for argument in node.arguments:
            if argument.source.value == "input":
                lines.append(f"    in_{argument.ref} --> {node.name}")
        for parent, role in plan.parents[number]:
            name = plan.nodes[parent].name
            if role & Role.RAW:
                lines.append(f"    {name} -. guarded by .-> {node.name}")
            elif role & Role.WHEN and node.when is not None:
                lines.append(f"    {name} -->|{node.when[1]}| {node.name}")
            elif role & Role.FALLBACK:
                lines.append(f"    {name} -. falls back to .-> {node.name}")
            elif role & (Role.VALUE | Role.OPTIONAL):
                lines.append(f"    {name} --> {node.name}")
            else:
                lines.append(f"    {name} -.-> {node.name}")
    return "\n".join(lines)
