"""Contracts: declared types, checked where a value enters, and values in the journal."""

from stageflow.contracts.contract import Contract, contract_of
from stageflow.contracts.violation import ContractViolated
from stageflow.contracts.wiring import assignable, why_not_assignable

__all__ = ["Contract", "ContractViolated", "assignable", "contract_of", "why_not_assignable"]
