"""What a framework gets wrong about the types of outputs, as sabotages of CONTRACT-001."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from stageflow.contracts import contract
from stageflow.contracts.contract import Contract
from stageflow.contracts.validation import Validator
from stageflow.graph import Plan
from stageflow.graph import compile as compilation
from stageflow.model.values import Freezer, thaw
from stageflow.runtime.step import Compiled, Step

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="invalid_visible")
def validated_by_consumers_only() -> Iterator[None]:
    """Outputs are kept as they come; each consumer validates what it takes."""
    admit, prepare = Contract.admit, Compiled.__init__

    def keep(self: Contract, value: Any, freezer: Freezer) -> Any:
        return freezer.freeze(value)

    def prepare_checking(self: Compiled, plan: Plan) -> None:
        prepare(self, plan)
        for step in self.steps:
            if step.is_async and step.taken:
                step.function = _checking(step, plan, admit)

    with (
        patched(Contract, "admit", keep),
        patched(Compiled, "__init__", prepare_checking),
    ):
        yield


def _checking(step: Step, plan: Plan, admit: Any) -> Any:
    body, freezer = step.function, Freezer()

    async def checked(**given: Any) -> Any:
        for name, parent in step.taken:
            given[name] = thaw(admit(plan.nodes[parent].contract, given[name], freezer))
        return await body(**given)

    return checked


@sabotage(metric="disagreements")
def constructed_without_validation() -> Iterator[None]:
    """The hot path makes models of dicts by `model_construct`."""
    admit = Contract.admit

    def construct(self: Contract, value: Any, freezer: Freezer) -> Any:
        cls = self.annotation
        is_model = isinstance(cls, type) and issubclass(cls, BaseModel)
        if is_model and type(value) is dict and all(type(key) is str for key in value):
            return freezer.freeze(cls.model_construct(**value))
        return admit(self, value, freezer)

    with patched(Contract, "admit", construct):
        yield


@sabotage(metric="invalid_visible")
def instances_trusted() -> Iterator[None]:
    """An instance of the declared class counts as validated, as pydantic's default has it."""
    admit = Contract.admit

    def trust(self: Contract, value: Any, freezer: Freezer) -> Any:
        cls = self.annotation
        if isinstance(cls, type) and issubclass(cls, BaseModel) and isinstance(value, cls):
            return freezer.freeze(value)
        return admit(self, value, freezer)

    with patched(Contract, "admit", trust):
        yield


@sabotage(metric="values_leaked")
def rejected_value_quoted() -> Iterator[None]:
    """The error quotes what it refuses."""
    with patched(contract, "redacted", repr):
        yield


@sabotage(metric="miswirings_refused")
def types_not_compared() -> Iterator[None]:
    """Wiring goes by names alone."""
    with patched(compilation, "assignable", lambda source, target: True):
        yield


@sabotage(metric="cost_ratio")
def validated_twice() -> Iterator[None]:
    """Every value is validated once more, to be sure."""
    owning = Validator.owning

    def twice(self: Validator) -> Any:
        found = owning(self)
        if found is None:
            return None
        owned, validate = found

        def again(value: Any) -> Any:
            validate(value)
            return validate(value)

        return owned, again

    with patched(Validator, "owning", twice):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    validated_by_consumers_only,
    constructed_without_validation,
    instances_trusted,
    rejected_value_quoted,
    types_not_compared,
    validated_twice,
)
