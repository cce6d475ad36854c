"""From stages to a plan: every name resolved, every mistake found, all of them reported at once."""

from __future__ import annotations

import dataclasses
import hashlib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired

from stageflow.contracts import Contract, assignable, contract_of, why_not_assignable
from stageflow.graph import order
from stageflow.graph.child import exported
from stageflow.graph.deciding import undecided
from stageflow.graph.decorators import value_type
from stageflow.graph.labelling import cleared_by_guards, is_labelled, refused_labels
from stageflow.graph.plan import Argument, InputSpec, Node, Plan, Role, Source
from stageflow.graph.reach import unreachable
from stageflow.graph.stage import Child, Merge, Stage, checked_name, signature_of
from stageflow.graph.undo import RESULT, effects_behind, undo_name, undo_of
from stageflow.model.errors import BuildError, BuildErrors, StageflowError, nearest
from stageflow.model.kinds import Kind
from stageflow.model.outputs import Feedback

Reference = Stage[..., Any] | str
CONTEXT = "ctx"


def compile_plan(
    name: str,
    stages: Sequence[Stage[..., Any]],
    *,
    inputs: Mapping[str, Any],
    outputs: Reference | Sequence[Reference] | None,
    deps: Mapping[str, Any],
    is_context: Callable[[Any], bool],
) -> Plan:
    """The plan, or BuildError (BuildErrors when there are several).

    `is_context` tells whether an annotation is the stage context's type. Time: linear in nodes
    and edges, without recursion, so a graph of 100,000 stages or a cycle through them is a
    verdict and no crash.
    """
    build = _Build(name, stages, inputs, deps, is_context)
    build.place_nodes()
    build.stop_if_wrong()
    build.wire()
    build.find_outputs(outputs)
    build.stop_if_wrong()
    build.place_undos()
    build.stop_if_wrong()
    return build.plan()


class _Build:
    """The state of one compilation: what is known so far, and what is wrong."""

    def __init__(
        self,
        name: str,
        stages: Sequence[Stage[..., Any]],
        inputs: Mapping[str, Any],
        deps: Mapping[str, Any],
        is_context: Callable[[Any], bool],
    ) -> None:
        self.name = name
        self.stages: list[Stage[..., Any] | None] = []
        self.given = stages
        self.inputs = dict(inputs)
        self.deps = dict(deps)
        self.is_context = is_context
        self.errors: list[BuildError] = []
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.exporters: dict[str, str] = {}
        """Export to the stage whose child gives it."""
        self.templates: dict[int, int | None] = {}
        self.contracts: dict[int, Contract] = {}
        """By id of the annotation, which its contract keeps alive."""
        self.input_specs: dict[str, InputSpec] = {}
        self.input_types: dict[str, tuple[Any, bool]] = {}
        self.arguments: list[tuple[Argument, ...]] = []
        self.parents: list[dict[int, Role]] = []
        self.gates: dict[int, dict[str, int]] = {}
        self.guards: dict[int, list[int]] = {}
        self.whens: dict[int, tuple[int, str]] = {}
        self.shows: dict[int, int] = {}
        self.fallbacks: dict[int, int] = {}
        """Node to its fallback."""
        self.stands_for: dict[int, int] = {}
        """The other way round."""
        self.undos: dict[int, int] = {}
        """Node to the node that undoes it."""
        self.outputs: tuple[int, ...] = ()
        self.single_output = False

    # -- errors ------------------------------------------------------------------------------

    def wrong(self, code: str, message: str, **where: str | None) -> None:
        self.errors.append(BuildError(code, message, pipeline=self.name, **where))

    def stop_if_wrong(self) -> None:
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise BuildErrors(self.errors, pipeline=self.name)

    # -- nodes -------------------------------------------------------------------------------

    def place_nodes(self) -> None:
        for input_name, annotation in self.inputs.items():
            checked_name(input_name)
            optional = typing.get_origin(annotation) is NotRequired
            kept = typing.get_args(annotation)[0] if optional else annotation
            self.input_types[input_name] = (kept, not optional)
        for dep_name in self.deps:
            checked_name(dep_name)
        for taken, what in (
            *((name, "an input") for name in self.inputs if name == CONTEXT),
            *((name, "a dep") for name in self.deps if name in (*self.inputs, CONTEXT)),
        ):
            other = "an input" if taken in self.inputs and taken != CONTEXT else "the context"
            self._name_is_taken(taken, what, other, fix="give one of them another name")
        for stage in self.given:
            if not isinstance(stage, Stage):
                self.wrong(
                    "graph.not_a_stage",
                    f"a {type(stage).__name__} can't be placed in a pipeline",
                    fix="decorate it: @transform, @enrich, @route, @guard, @work or @agent",
                )
                continue
            self._place(stage)
        origins: dict[int, list[int]] = {}
        for number, placed in enumerate(self.stages):
            origin = None if placed is None else placed.origin
            while origin is not None:  # a stage put in another's place has that one's, too
                origins.setdefault(id(origin), []).append(number)
                origin = origin.origin
        for template, numbers in origins.items():
            if template not in self.templates:
                self.templates[template] = numbers[0] if len(numbers) == 1 else None

    def _place(self, stage: Stage[..., Any]) -> None:
        name = stage.name
        taken = self._taken_by(name)
        if taken and name in self.exporters:
            self._export_collides(self.exporters[name], name, f"stage {name!r}")
            return
        if taken:
            fix = f"give one of them another name: stage.named({name + '_b'!r})"
            self._name_is_taken(name, "a stage", taken, fix=fix)
            return
        if stage.unresolved is not None:
            stage = self._resolved(stage)
        wrong = undecided(stage)
        if wrong is not None:
            wrong.at(pipeline=self.name)
            self.errors.append(wrong)
        self.index[name] = len(self.stages)
        self.templates[id(stage)] = len(self.stages)
        self.stages.append(stage)
        self.names.append(name)
        if stage.child is not None:
            self._place_exports(stage, stage.child)

    def _place_exports(self, stage: Stage[..., Any], child: Child) -> None:
        for export in child.exports:
            taken, other = self._taken_by(export.name), self.exporters.get(export.name)
            if other is not None:
                self._export_collides(stage.name, export.name, f"an export of {other!r}")
            elif taken:
                what = f"stage {export.name!r}" if export.name in self.index else taken
                self._export_collides(stage.name, export.name, what)
            else:
                self.exporters[export.name] = stage.name
                self._place(exported(stage, child, export))

    def _export_collides(self, exporter: str, name: str, other: str) -> None:
        self.wrong(
            "graph.export_collides",
            f"stage {exporter!r} exports {name!r}, and that name is taken by {other}",
            node=exporter,
            field=name,
            expected="each export under a name of its own in the parent",
            fix=f"exports={{{name + '_of_' + exporter!r}: ...}}, or another name for {other}",
        )

    def _not_exported(self, stage: Stage[..., Any], field: str, name: str) -> bool:
        """True after noting that `stage` refers to a stage inside a child."""
        owner = next(
            (
                placed
                for placed in self.stages
                if placed is not None and placed.child is not None and name in placed.child.stages
            ),
            None,
        )
        if owner is None or owner.child is None:
            return False
        self.wrong(
            "graph.not_exported",
            f"stage {stage.name!r} refers to {name!r}, which is inside the pipeline "
            f"{owner.child.pipeline!r} that stage {owner.name!r} runs, and is not exported",
            node=stage.name,
            field=field,
            expected="a node of this pipeline: " + (", ".join(self.index) or "there is none"),
            got=f"{name} of {owner.child.pipeline}",
            fix=f"as_stage({owner.name!r}, exports=[{name!r}]), with {name!r} among its outputs",
        )
        return True

    def _name_is_taken(self, name: str, what: str, other: str, *, fix: str) -> None:
        self.wrong(
            "graph.duplicate_name",
            f"the name {name!r} stands for two things: {what} and {other}",
            node=name,
            expected="each of inputs, deps and nodes under its own name",
            fix=fix,
        )

    def _taken_by(self, name: str) -> str | None:
        if name in self.index:
            return "another stage"
        if name in self.inputs:
            return "an input"
        if name in self.deps:
            return "a dep"
        return "the context" if name == CONTEXT else None

    def _resolved(self, stage: Stage[..., Any]) -> Stage[..., Any]:
        """The stage with its annotations, which named things that did not exist at decoration."""
        assert stage.function is not None
        parameters, returns, unresolved = signature_of(
            stage.function, name=stage.name, local_names=None
        )
        if unresolved is not None:
            self.wrong(
                "stage.annotation",
                f"an annotation of stage {stage.name!r} is no type: {unresolved}",
                node=stage.name,
                expected="annotations that resolve where the stage is decorated or built",
                fix="define or import each name before the stage, outside `if TYPE_CHECKING`",
            )
            return stage
        resolved = dataclasses.replace(
            stage,
            parameters=parameters,
            returns=value_type(returns, stage.mode),
            unresolved=None,
            origin=stage.origin if stage.origin is not None else stage,
        )
        self.templates[id(stage)] = len(self.stages)
        return resolved

    # -- wiring ------------------------------------------------------------------------------

    def wire(self) -> None:
        count = len(self.stages)
        self.arguments = [()] * count
        self.parents = [{} for _ in range(count)]
        for number in range(count):
            stage = self.stages[number]
            if stage is not None:
                self._wire_stage(number, stage)
        for number in range(count):
            stage = self.stages[number]
            if stage is not None and stage.fallback is not None:
                self._wire_fallback(number, stage, stage.fallback)
        self._check_fallbacks_end()
        if not self.errors:
            self._wire_guards()
        if not self.errors:
            self._check_branches()
            self._check_cycles()

    def _wire_stage(self, number: int, stage: Stage[..., Any]) -> None:
        self.arguments[number] = tuple(
            argument
            for parameter in stage.parameters
            if (argument := self._argument(number, stage, parameter)) is not None
        )
        if stage.join is not None:  # first: the order of its branches counts
            for branch in stage.join.branches:
                parent = self._node(branch, stage, "branch")
                if parent is not None:
                    self._depend(number, parent, Role.OPTIONAL)
            if stage.join.merge is not None:
                self._check_merge(stage, stage.join.merge, [*self.parents[number]])
        for reference in stage.after:
            parent = self._node(reference, stage, "after")
            if parent is not None:
                self._depend(number, parent, Role.AFTER)
        if stage.when is not None:
            route = self._node(stage.when.route, stage, "when")
            if route is not None:
                self.whens[number] = (route, stage.when.name)
                self._depend(number, route, Role.WHEN)
        if stage.wait is not None:
            shown = self._node(stage.wait.of, stage, "of")
            if shown is not None:
                self.shows[number] = shown
                self._depend(number, shown, Role.VALUE)

    def _depend(self, number: int, parent: int, role: Role) -> None:
        roles = self.parents[number]
        roles[parent] = roles.get(parent, Role(0)) | role

    def _node(self, reference: Reference, stage: Stage[..., Any], field: str) -> int | None:
        """The number of the node that `reference` stands for; None after noting the error."""
        if isinstance(reference, str):
            found: int | None = self.index.get(reference)
            name = reference
        else:
            name = reference.name
            if id(reference) in self.templates:
                found = self.templates[id(reference)]
                if found is None:
                    self.wrong(
                        "graph.ambiguous_stage",
                        f"stage {name!r} stands more than once, and {stage.name!r} names it",
                        node=stage.name,
                        field=field,
                        fix="name the one you mean by its template or by its node name",
                    )
                    return None
            else:
                found = None
        if found is None and not self._not_exported(stage, field, name):
            close = nearest(name, self.index)
            self.wrong(
                "graph.unknown_stage",
                f"stage {stage.name!r} refers to {name!r}, which is not in the pipeline",
                node=stage.name,
                field=field,
                fix=f"did you mean {close!r}?" if close else f"add {name!r} to the stages",
            )
        return found

    def _check_cacheable(self, stage: Stage[..., Any], name: str) -> None:
        """What a stage is told of its own run can't be part of a value that others are given."""
        if stage.cache is not None:
            self.wrong(
                "stage.cache",
                f"values of {stage.name!r} can't be kept for other runs: it takes {name!r}",
                node=stage.name,
                field=name,
                expected="a stage whose value follows from its arguments, and what it reads",
                got="one that is told which run, attempt or revision it is",
                fix=f"take what it needs as inputs, without {name!r}, or leave cache= out",
            )

    def _argument(self, number: int, stage: Stage[..., Any], parameter: Any) -> Argument | None:
        name = parameter.name
        bound = stage.bindings.get(name)
        default = (parameter.has_default, parameter.default)
        if bound is None:
            if name == CONTEXT or self.is_context(parameter.annotation):
                self._check_cacheable(stage, name)
                return Argument(name, Source.CONTEXT, None, *default)
            if is_feedback(parameter.annotation):
                self._check_cacheable(stage, name)
                return Argument(name, Source.FEEDBACK, None, *default)
            if name in self.inputs:
                self._check_input_type(stage, parameter)
                return Argument(name, Source.INPUT, name, *default)
            if name in self.deps:
                return Argument(name, Source.DEP, name, *default)
            parent = self.index.get(name)
        elif isinstance(bound, str) and bound in self.inputs:
            self._check_input_type(stage, parameter, bound)
            return Argument(name, Source.INPUT, bound, *default)
        elif isinstance(bound, str) and bound in self.deps:
            return Argument(name, Source.DEP, bound, *default)
        else:
            parent = self._node(bound, stage, name)
            if parent is None:
                return None
        if parent is None:
            self._unknown_parameter(stage, name)
            return None
        if parent == number:
            self.wrong(
                "graph.cycle",
                f"stage {stage.name!r} takes its own value",
                node=stage.name,
                field=name,
                fix=f"rename the parameter, or bind it: stage.named(..., {name}=another_stage)",
            )
            return None
        self._check_node_type(stage, parameter, parent)
        self._depend(number, parent, Role.OPTIONAL if parameter.has_default else Role.VALUE)
        return Argument(name, Source.NODE, parent, *default)

    def _unknown_parameter(self, stage: Stage[..., Any], name: str) -> None:
        if self._not_exported(stage, name, name):
            return
        known = [*self.inputs, *self.index, *self.deps, CONTEXT]
        close = nearest(name, [other for other in known if other != stage.name])
        self.wrong(
            "graph.unknown_name",
            f"parameter {name!r} of stage {stage.name!r} names nothing in the pipeline",
            node=stage.name,
            field=name,
            expected="an input, a stage, a dep, or ctx",
            got=name,
            fix=f"did you mean {close!r}?" if close else f"declare {name!r} as an input or add it",
        )

    def _check_node_type(self, stage: Stage[..., Any], parameter: Any, parent: int) -> None:
        producer = self.stages[parent]
        assert producer is not None
        source, target = producer.returns, parameter.annotation
        if source is target or target is Any or source is Any:
            return
        if not assignable(source, target):
            self.wrong(
                "graph.type_mismatch",
                f"{stage.name!r} takes {parameter.name!r} as another type than "
                f"{producer.name!r} gives",
                node=stage.name,
                field=parameter.name,
                expected=contract_name(target),
                got=f"{contract_name(source)} from {producer.name!r}",
                fix=why_not_assignable(source, target),
            )

    def _check_merge(self, stage: Stage[..., Any], merge: Merge, branches: Sequence[int]) -> None:
        """Every branch may come first or later, and what the merge returns comes first."""
        given = [(merge.returns, "the merge itself")]
        for branch in branches:
            giver = self.stages[branch]
            assert giver is not None
            given.append((giver.returns, repr(giver.name)))
        for source, giver_name in given:
            for target in merge.takes[: 1 if giver_name == "the merge itself" else 2]:
                if not assignable(source, target):
                    self.wrong(
                        "graph.type_mismatch",
                        f"the merge of {stage.name!r} takes another type than it is given",
                        node=stage.name,
                        field="with_",
                        expected=contract_name(target),
                        got=f"{contract_name(source)} from {giver_name}",
                        fix=why_not_assignable(source, target),
                    )
                    break

    def _check_input_type(
        self, stage: Stage[..., Any], parameter: Any, input_name: str | None = None
    ) -> None:
        name = parameter.name if input_name is None else input_name
        source, required = self.input_types[name]
        if not required and not parameter.has_default:
            self.wrong(
                "graph.optional_input",
                f"input {name!r} may be absent, and stage {stage.name!r} has no default for it",
                node=stage.name,
                field=parameter.name,
                expected="a default on the parameter, or a required input",
                fix=f"def {stage.name}(..., {parameter.name}=None)",
            )
        if parameter.annotation is not Any and not assignable(source, parameter.annotation):
            self.wrong(
                "graph.type_mismatch",
                f"{stage.name!r} takes input {name!r} as another type than declared",
                node=stage.name,
                field=parameter.name,
                expected=contract_name(parameter.annotation),
                got=contract_name(source),
                fix=why_not_assignable(source, parameter.annotation),
            )

    # -- fallbacks ---------------------------------------------------------------------------

    def _wire_fallback(self, number: int, stage: Stage[..., Any], reference: Reference) -> None:
        fallback = self._node(reference, stage, "fallback")
        if fallback is None:
            return
        other = self.stages[fallback]
        assert other is not None, "inputs are no nodes yet"
        wrong = self._why_no_fallback(number, fallback)
        if wrong is not None:
            why, fix = wrong
            self.wrong(
                "graph.fallback",
                f"{other.name!r} can't stand in for {stage.name!r}: {why}",
                node=stage.name,
                field="fallback",
                got=other.name,
                fix=fix,
            )
            return
        if not assignable(other.returns, stage.returns):
            self.wrong(
                "graph.type_mismatch",
                f"fallback {other.name!r} gives another type than {stage.name!r}",
                node=stage.name,
                field="fallback",
                expected=contract_name(stage.returns),
                got=f"{contract_name(other.returns)} from {other.name!r}",
                fix=why_not_assignable(other.returns, stage.returns),
            )
            return
        self.fallbacks[number] = fallback
        self.stands_for[fallback] = number
        self._depend(fallback, number, Role.FALLBACK)

    def _check_fallbacks_end(self) -> None:
        """Nodes must not stand in for one another in a round."""
        seen: dict[int, int] = {}
        for start in self.fallbacks:
            node: int | None = start
            while node is not None and node not in seen:
                seen[node] = start
                node = self.fallbacks.get(node)
            if node is not None and seen[node] == start:
                self.wrong(
                    "graph.fallback",
                    f"{self.names[node]!r} would stand in for itself at the end",
                    node=self.names[node],
                    field="fallback",
                    expected="fallbacks that end with a node that has none",
                    fix="take one of these fallbacks away",
                )

    def _why_no_fallback(self, number: int, fallback: int) -> tuple[str, str] | None:
        """(why, mend) when `fallback` can't be that node's; None when it can."""
        stage, other = self.stages[number], self.stages[fallback]
        assert stage is not None and other is not None
        if Kind.GUARD in (stage.kind, other.kind):
            return (
                "a guard that fails blocks, and nothing else decides in its stead",
                "try the other judgement inside the guard, or give what it guards a fallback",
            )
        if (stage.kind is Kind.ROUTE) is not (other.kind is Kind.ROUTE):
            return "only a route stands in for a route", "let both be routes, or neither"
        if stage.branches is not None and other.branches is not None:
            more = sorted(set(other.branches) - set(stage.branches))
            if more:
                return (
                    f"it may choose {more[0]!r}, which {stage.name!r} does not have",
                    f"@route(branches={stage.branches!r})",
                )
        if fallback == number:
            return "it is the same node", "name another node"
        if number in self.parents[fallback]:
            return (
                "it waits for the very node that has failed then",
                f"take what {stage.name!r} takes instead",
            )
        taken = self.stands_for.get(fallback)
        if taken is not None:
            return (
                f"it is the fallback of {self.names[taken]!r} already",
                f"place it twice: fallback={other.name}.named({other.name + '_b'!r})",
            )
        return None

    # -- guards ------------------------------------------------------------------------------

    def _wire_guards(self) -> None:
        """Makes each guarded value wait: guards take it raw, everyone else when released."""
        for number in range(len(self.stages)):
            stage = self.stages[number]
            if stage is not None and stage.kind is Kind.GUARD:
                self._wire_guard(number, stage)

    def _wire_guard(self, number: int, stage: Stage[..., Any]) -> None:
        gateable = {
            argument.parameter: argument
            for argument in self.arguments[number]
            if argument.source in (Source.NODE, Source.INPUT)
        }
        chosen = list(gateable) if stage.of is None else list(stage.of)
        for parameter in chosen:
            if parameter not in gateable:
                close = nearest(parameter, gateable)
                self.wrong(
                    "graph.guard_of",
                    f"guard {stage.name!r} gates {parameter!r}, which it does not take",
                    node=stage.name,
                    field="of",
                    expected="one of its inputs or nodes: " + ", ".join(gateable),
                    fix=f"did you mean {close!r}?" if close else None,
                )
                return
        if not chosen:
            self.wrong(
                "graph.guard_of",
                f"guard {stage.name!r} takes no value that it could gate",
                node=stage.name,
                expected="a parameter that is an input or a stage",
                fix=f"def {stage.name}(question: Question) -> Decision",
            )
            return
        gated: dict[str, int] = {}
        for parameter in chosen:
            argument = gateable[parameter]
            target = (
                argument.ref if argument.source is Source.NODE else self._input_node(argument.ref)
            )
            placed = self.stages[target]
            if placed is not None and placed.kind is Kind.GUARD:
                self.wrong(
                    "graph.guard_of",
                    f"guard {stage.name!r} gates {placed.name!r}, which is a guard",
                    node=stage.name,
                    field=parameter,
                    fix=f"take what {placed.name!r} guards instead",
                )
                return
            gated[parameter] = target
            self.parents[number][target] = Role.RAW
            self.guards.setdefault(target, []).append(number)
        self.gates[number] = gated

    def _input_node(self, name: str) -> int:
        """Number of the node that stands for a gated input; made when first asked for."""
        if name in self.index:
            return self.index[name]
        number = len(self.stages)
        self.index[name] = number
        self.stages.append(None)
        self.names.append(name)
        self.arguments.append(())
        self.parents.append({})
        for other in range(number):
            arguments = self.arguments[other]
            if any(a.source is Source.INPUT and a.ref == name for a in arguments):
                self.arguments[other] = tuple(
                    Argument(a.parameter, Source.NODE, number, a.has_default, a.default)
                    if a.source is Source.INPUT and a.ref == name
                    else a
                    for a in arguments
                )
                for a in arguments:
                    if a.source is Source.INPUT and a.ref == name:
                        role = Role.OPTIONAL if a.has_default else Role.VALUE
                        self._depend(other, number, role)
        return number

    # -- shape -------------------------------------------------------------------------------

    def _check_branches(self) -> None:
        used: dict[int, set[str]] = {}
        for number, (route, branch) in self.whens.items():
            if self._has_branch(number, route, branch):
                used.setdefault(route, set()).add(branch)
        for route, branches in used.items():
            stage = self.stages[route]
            assert stage is not None
            if stage.branches is not None:
                for missing in sorted(set(stage.branches) - branches):
                    self.wrong(
                        "graph.branch_unhandled",
                        f"nothing handles branch {missing!r} of route {stage.name!r}",
                        node=stage.name,
                        field=missing,
                        expected="a stage with when=... for each declared branch",
                        fix=f"@agent(when={stage.name}.branch({missing!r})), or take it out of "
                        "branches=",
                    )

    def _has_branch(self, number: int, route: int, branch: str) -> bool:
        """False after noting that the stage waits for a branch that can't be chosen."""
        stage = self.stages[route]
        assert stage is not None
        if stage.kind is not Kind.ROUTE:
            self.wrong(
                "stage.no_branches",
                f"stage {self.names[number]!r} waits for a branch of {stage.name!r}, which is a "
                f"{stage.kind.value} stage",
                node=self.names[number],
                field="when",
                expected="a route",
                fix="decorate it with @route(branches=(...)) and return Branch(name)",
            )
            return False
        if stage.branches is not None and branch not in stage.branches:
            close = nearest(branch, stage.branches)
            self.wrong(
                "graph.unknown_branch",
                f"stage {self.names[number]!r} waits for a branch that route {stage.name!r} "
                "does not have",
                node=self.names[number],
                field="when",
                expected="one of " + ", ".join(stage.branches),
                got=branch,
                fix=f"did you mean {close!r}?" if close else "add it to branches=(...)",
            )
            return False
        return True

    def _check_cycles(self) -> None:
        followers = self._followers()
        count = len(self.stages)
        found = order.topological(followers)
        self.sorted = [number for number in found if number < count]
        if len(found) == len(followers):
            for number, why in unreachable(
                self.sorted,
                self.parents,
                self.whens,
                {n: s.join for n, s in enumerate(self.stages) if s is not None and s.join},
            ):
                self.wrong(
                    "graph.unreachable",
                    f"stage {self.names[number]!r} can never run: {why(self.names)}",
                    node=self.names[number],
                    fix="join the branches with first_of(...), or take one of them only",
                )
            return
        cycle = [n for n in order.find_cycle(followers, found) if n < count]
        names = [self.names[number] for number in cycle]
        shown = names
        if len(names) > 12:
            shown = [*names[:6], f"({len(names) - 12} more)", *names[-6:]]
        path = " -> ".join([*shown, names[0]])
        for place, number in enumerate(cycle):
            gated = self.gates.get(number, {})
            if len(gated) > 1:
                inner = [p for p, target in gated.items() if target in cycle]
                # The last one made is before the guard; that one can be gated without the others.
                keep = [p for p in inner if gated[p] == cycle[place - 1]] or inner or list(gated)
                self.wrong(
                    "graph.guard_cycle",
                    f"guard {self.names[number]!r} gates values that are made from one another",
                    node=self.names[number],
                    field=", ".join(gated),
                    expected="each value to be gated before anyone takes it",
                    got=path,
                    fix=f"say what it gates: @guard(of={keep[-1]!r})",
                )
                return
        self.wrong(
            "graph.cycle",
            f"{len(cycle)} stages wait for one another",
            node=names[0],
            expected="a graph without cycles",
            got=path,
            fix="take one of these parameters from elsewhere, or drop an after=",
        )

    def _followers(self) -> list[list[int]]:
        """Who may run only after whom. Behind the nodes stand the verdicts, one per group of
        values that share guards: any guard of a group may send a value back, after which all of
        them judge again, so nothing of a group is released before all have decided."""
        followers: list[list[int]] = [[] for _ in self.stages]
        if not self.gates and not self.fallbacks:
            for number, roles in enumerate(self.parents):
                for parent in roles:
                    followers[parent].append(number)
            return followers
        verdicts: dict[int, int] = {}
        grouped = self._groups()
        for guard, leader in grouped.items():
            if leader not in verdicts:
                verdicts[leader] = len(followers)
                followers.append([])
            followers[guard].append(verdicts[leader])

        def verdict(node: int) -> list[int]:
            group = grouped.get(node if node in self.gates else self._guard_of(node))
            return [] if group is None else [verdicts[group]]

        # One more vertex for each node with a fallback: its value is there, its own or the other's.
        given = {node: len(followers) + place for place, node in enumerate(self.fallbacks)}
        followers += [[] for _ in given]
        for node, fallback in self.fallbacks.items():
            for before in (node, given.get(fallback, fallback), *verdict(fallback)):
                followers[before].append(given[node])
        for number, roles in enumerate(self.parents):
            for parent, role in roles.items():
                if role & Role.FALLBACK:
                    followers[parent].append(number)
                    continue
                followers[given.get(parent, parent)].append(number)
                if not role & Role.RAW:
                    for before in verdict(parent):
                        followers[before].append(number)
        self._check_spared(followers, given, verdict)
        return followers

    def _check_spared(
        self,
        followers: Sequence[Sequence[int]],
        given: Mapping[int, int],
        verdict: Callable[[int], list[int]],
    ) -> None:
        """A fallback is known not to be needed once its node's guards have let the node pass; what
        takes the fallback must not be among what those guards wait for.

        A walk for each guarded node whose fallback somebody takes or guards.
        """
        takers: dict[int, list[int]] = {}
        for number, roles in enumerate(self.parents):
            for parent, role in roles.items():
                if parent in self.stands_for and not role & Role.FALLBACK:
                    takers.setdefault(self.stands_for[parent], []).append(number)
        decided: dict[int, list[int]] = {}
        for node in self.fallbacks if takers else ():
            for before in verdict(node):
                decided.setdefault(before, []).append(node)
        for node in self.fallbacks if takers else ():
            decisive = set(verdict(node))
            if not decisive:
                continue
            stack, seen = self._spared(node, takers), set[int]()
            while stack and not decisive & seen:
                at = stack.pop()
                # The node's own value is there in this case: that of its fallback matters not.
                if at in seen or at == given[node]:
                    continue
                seen.add(at)
                stack += followers[at]
                for other in decided.get(at, ()):
                    stack += self._spared(other, takers)
            if decisive & seen:
                fallback = self.names[self.fallbacks[node]]
                self.wrong(
                    "graph.fallback",
                    f"the guards of {self.names[node]!r} wait for what becomes of its fallback "
                    f"{fallback!r}, which nobody knows before they have decided",
                    node=self.names[node],
                    field="fallback",
                    fix=f"let nothing that they need take {fallback!r}: take {self.names[node]!r}",
                )

    def _spared(self, node: int, takers: Mapping[int, Sequence[int]]) -> list[int]:
        """Who waits for the ends of the node's fallback, and of that one's fallback, and so on."""
        found: list[int] = []
        at: int | None = node
        while at is not None:
            found += takers.get(at, ())
            at = self.fallbacks.get(at)
        return found

    def _guard_of(self, node: int) -> int:
        guards = self.guards.get(node)
        return guards[0] if guards else -1

    def _groups(self) -> dict[int, int]:
        """Guard to the least guard of its group: guards are of one group when a value, or a chain
        of values and guards, connects them."""
        group: dict[int, int] = {guard: guard for guard in self.gates}

        def root(guard: int) -> int:
            while group[guard] != guard:
                group[guard] = group[group[guard]]
                guard = group[guard]
            return guard

        for guards in self.guards.values():
            for guard in guards[1:]:
                first, second = sorted((root(guards[0]), root(guard)))
                group[second] = first
        return {guard: root(guard) for guard in group}

    def find_outputs(self, outputs: Reference | Sequence[Reference] | None) -> None:
        if self.errors:
            return
        if outputs is None:
            taken = {
                parent
                for number, roles in enumerate(self.parents)
                for parent, role in roles.items()
                if not role & Role.RAW and self.fallbacks.get(parent) != number
            }
            taken.update(self.fallbacks.values())
            self.outputs = tuple(
                number
                for number, stage in enumerate(self.stages)
                if stage is not None and stage.kind is not Kind.GUARD and number not in taken
            )
            return
        self.single_output = isinstance(outputs, (str, Stage))
        references: Sequence[Reference] = (
            (outputs,) if isinstance(outputs, (str, Stage)) else outputs
        )
        found = []
        for reference in references:
            if isinstance(reference, str):
                number = self.index.get(reference)
            else:
                number = self.templates.get(id(reference))
            if number is None or self.stages[number] is None:
                name = reference if isinstance(reference, str) else reference.name
                close = nearest(name, self.index)
                self.wrong(
                    "graph.unknown_output",
                    f"output {name!r} is no single stage of the pipeline",
                    field="outputs",
                    fix=f"did you mean {close!r}?" if close else "add it to the stages",
                )
            else:
                found.append(number)
        self.outputs = tuple(found)

    # -- undoing -----------------------------------------------------------------------------

    def place_undos(self) -> None:
        """Behind all other nodes, one for each that can be undone. Nobody waits for them, nor they
        for anybody: the scheduler begins them."""
        for number in range(len(self.stages)):
            stage = self.stages[number]
            undo = None if stage is None else undo_of(stage)
            if stage is None or undo is None:
                continue
            if undo.unresolved is not None:
                undo = self._resolved(undo)
            place = self.undos[number] = len(self.stages)
            name = undo_name(self.names[number])
            self.index[name] = place
            self.names.append(name)
            self.stages.append(dataclasses.replace(undo, name=name))
            self.parents.append({})
            self.arguments.append(
                tuple(
                    argument
                    for parameter in undo.parameters
                    if (argument := self._undo_argument(number, undo, parameter)) is not None
                )
            )
        self.sorted += [self.undos[node] for node in reversed(self.sorted) if node in self.undos]

    def _undo_argument(self, number: int, undo: Stage[..., Any], parameter: Any) -> Argument | None:
        """What the undo of a node takes: its result, what it took itself, an input or a dep."""
        default = (parameter.has_default, parameter.default)
        if parameter.name == RESULT:
            self._check_node_type(undo, parameter, number)
            return Argument(RESULT, Source.NODE, number, *default)
        for taken in self.arguments[number]:
            if taken.parameter == parameter.name:
                return Argument(parameter.name, taken.source, taken.ref, *default)
        if parameter.name in (*self.inputs, *self.deps, CONTEXT):
            return self._argument(number, undo, parameter)
        if self.is_context(parameter.annotation):
            return Argument(parameter.name, Source.CONTEXT, None, *default)
        known = [RESULT, *(taken.parameter for taken in self.arguments[number])]
        known += [*self.inputs, *self.deps, CONTEXT]
        close = nearest(parameter.name, known)
        self.wrong(
            "graph.undo_parameter",
            f"the undo of {self.names[number]!r} takes {parameter.name!r}, which it can't have",
            node=self.names[number],
            field=parameter.name,
            expected="some of " + ", ".join(dict.fromkeys(known)),
            got=parameter.name,
            fix=f"did you mean {close!r}?" if close else "let the step return what its undo needs",
        )
        return None

    # -- result ------------------------------------------------------------------------------

    def contract(self, annotation: Any, node: str) -> Contract:
        """The contract of a type, made once for all nodes that declare the same object.

        Not for equal ones: `Annotated[int, 1]` equals `Annotated[int, True]` and means another.
        """
        known = self.contracts.get(id(annotation))
        if known is None:
            try:
                known = contract_of(annotation)
            except StageflowError as error:
                raise error.at(pipeline=self.name, node=node) from None
            self.contracts[id(annotation)] = known
        return known

    def plan(self) -> Plan:
        children: list[list[int]] = [[] for _ in self.stages]
        raw_children: list[list[int]] = [[] for _ in self.stages]
        for number, roles in enumerate(self.parents):
            for parent, role in roles.items():
                if parent not in self.fallbacks or not role & Role.FALLBACK:
                    (raw_children if role & Role.RAW else children)[parent].append(number)
        specs = {
            name: InputSpec(name, kept, self.contract(kept, name), required, self.index.get(name))
            for name, (kept, required) in self.input_types.items()
        }
        undoing = {undo: node for node, undo in self.undos.items()}
        nodes = tuple(self._node_of(n, undoing.get(n)) for n in range(len(self.stages)))
        waiting = tuple(len(roles) for roles in self.parents)
        parents = tuple(tuple(roles.items()) for roles in self.parents)
        labelled = is_labelled(nodes)
        if labelled:
            self.errors += refused_labels(nodes, parents, self.sorted, self.name)
            self.stop_if_wrong()
        return Plan(
            name=self.name,
            nodes=nodes,
            index=self.index,
            inputs=specs,
            deps=self.deps,
            outputs=self.outputs,
            single_output=self.single_output,
            parents=parents,
            children=tuple(tuple(targets) for targets in children),
            raw_children=tuple(tuple(targets) for targets in raw_children),
            waiting=waiting,
            cleared=cleared_by_guards(nodes),
            is_labelled=labelled,
            guarded=bool(self.gates),
            roots=tuple(
                number
                for number, count in enumerate(waiting)
                if count == 0 and number not in undoing
            ),
            order=tuple(self.sorted),
            templates=self.templates,
            undos=self.undos,
            later=effects_behind(self._followers(), self.undos) if self.undos else {},
            pivots=tuple(n for n, stage in enumerate(self.stages) if stage and stage.pivot),
        )

    def _node_of(self, number: int, undoes: int | None) -> Node:
        stage = self.stages[number]
        name = self.names[number]
        if stage is None:
            kept, _ = self.input_types[name]
            contract = self.contract(kept, name)
            kind, timeout_s, retry, isolates, join = Kind.TRANSFORM, 0.0, None, False, None
        else:
            # What routes and guards return is checked by the runtime itself, not by a contract.
            decides = stage.kind in (Kind.GUARD, Kind.ROUTE)
            contract = self.contract(Any if decides else stage.returns, name)
            kind, timeout_s, retry = stage.kind, stage.timeout_s, stage.retry
            isolates, join = stage.on_failure == "isolate", stage.join
        gates = self.gates.get(number, {})
        return Node(
            index=number,
            name=name,
            kind=kind,
            stage=stage,
            arguments=self.arguments[number],
            contract=contract,
            timeout_s=timeout_s,
            retry=retry,
            isolates=isolates,
            priority=0 if stage is None else stage.priority,
            guards=tuple(self.guards.get(number, ())),
            gates=tuple(dict.fromkeys(gates.values())),
            gate_of=gates,
            when=self.whens.get(number),
            join=join,
            shows=self.shows.get(number),
            fallback=self.fallbacks.get(number),
            stands_for=self.stands_for.get(number),
            undoes=undoes,
            fingerprint=self._fingerprint(number, contract),
        )

    def _fingerprint(self, number: int, contract: Contract) -> str:
        stage = self.stages[number]
        parts = ["input" if stage is None else stage.kind.value, contract.hash]
        if stage is not None:
            parts.append(stage.version)
        parts += [
            f"{a.parameter}={a.source.value}:"
            f"{self.names[a.ref] if a.source is Source.NODE else a.ref}"
            for a in self.arguments[number]
        ]
        parts += sorted(
            f"{self.names[parent]}/{int(role)}" for parent, role in self.parents[number].items()
        )
        when = self.whens.get(number)
        if when is not None:
            parts.append(f"when={self.names[when[0]]}:{when[1]}")
        fallback = self.fallbacks.get(number)
        if fallback is not None:
            parts.append(f"fallback={self.names[fallback]}")
        if stage is not None and stage.join is not None:
            join = stage.join
            label = "" if join.merge is None else join.merge.label
            parts.append(f"join={join.need}:{join.waits_for_all}:{join.collects}:{label}")
            parts += [self.names[branch] for branch in self.parents[number]]  # their order counts
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()


def is_feedback(annotation: Any) -> bool:
    """True for `Feedback | None`, the parameter that carries what guards said."""
    return annotation is Feedback or Feedback in typing.get_args(annotation)


def contract_name(annotation: Any) -> str:
    """A type as a person writes it, for messages."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
