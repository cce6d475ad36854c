"""What the batteries are given: whatever is nothing of its kind is refused, by its name."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stageflow import Runtime, StageflowError
from stageflow.stages.work import (
    Files,
    Irreversible,
    Ledger,
    MemoryEffects,
    MemoryUndo,
    Rows,
    UndoLog,
    UndoRules,
    WebResources,
    idempotent,
)
from stageflow.stages.work.rate import Rate, RateLimiter
from stageflow.stages.work.sandbox import Sandbox, SandboxPolicy, command_tool

Given = dict[str, Any]


def once(**given: Any) -> Any:
    async def body(order: str) -> str:
        return order

    return idempotent(**given)(body)


def limiter(**given: Any) -> RateLimiter:
    return RateLimiter(**{"rate": Rate(50), **given})


def act(**given: Any) -> Irreversible:
    return Irreversible(**{"name": "letter", "send": print, **given})


def web(**given: Any) -> WebResources:
    class Client:
        request = None

    return WebResources(**{"client": Client(), "base": "https://shop.example", **given})


@pytest.mark.parametrize(
    ("made", "given", "code"),
    [
        (limiter, {"rate": 50}, "rate.option"),
        (limiter, {"key": ""}, "rate.option"),
        (limiter, {"key": 3}, "rate.option"),
        (limiter, {"weights": ["acme"]}, "rate.option"),
        (limiter, {"waiters_max": "10"}, "rate.option"),
        (limiter, {"waiters_max": 0}, "rate.option"),
        (limiter, {"store": 3}, "rate.address"),
        (limiter, {"store": "redis//host"}, "rate.address"),
        (SandboxPolicy, {"read": None}, "sandbox.policy"),
        (SandboxPolicy, {"read": [3]}, "sandbox.policy"),
        (SandboxPolicy, {"write": ["/a\0b"]}, "sandbox.policy"),
        (SandboxPolicy, {"network": [443]}, "sandbox.policy"),
        (SandboxPolicy, {"environment": None}, "sandbox.policy"),
        (SandboxPolicy, {"environment": {"A": 3}}, "sandbox.policy"),
        (SandboxPolicy, {"environment": {"A": "\ud800"}}, "sandbox.policy"),
        (SandboxPolicy, {"environment": {3: "A"}}, "sandbox.policy"),
        (Sandbox, {"policy": {"cpu_s": 1}}, "sandbox.policy"),
        (Sandbox, {"at_once": True}, "sandbox.policy"),
        (command_tool, {"allowed": "ls"}, "sandbox.policy"),
        (command_tool, {"allowed": [""]}, "sandbox.policy"),
        (command_tool, {"allowed": None}, "sandbox.policy"),
        (Ledger, {"store": 3}, "effect.address"),
        (Ledger, {"store": ""}, "effect.address"),
        (Ledger, {"store": "postgres//host/shop"}, "effect.address"),
        (UndoLog, {"store": None}, "undo.address"),
        (UndoLog, {"store": "postgresql:host"}, "undo.address"),
        (UndoRules, {"lease_s": math.nan}, "undo.rules"),
        (act, {"name": ""}, "undo.option"),
        (act, {"send": None}, "undo.option"),
        (web, {"client": None}, "undo.option"),
        (web, {"base": "shop.example"}, "undo.option"),
        (Files, {"root": 3}, "undo.option"),
        (once, {"wait_s": "30"}, "effect.option"),
        (once, {"reconcile_s": math.nan}, "effect.option"),
        (once, {"reconcile": "ask"}, "effect.option"),
        (once, {"unknown_on": TimeoutError}, "effect.option"),
        (once, {"unknown_on": ["TimeoutError"]}, "effect.option"),
        (once, {"clients": "order"}, "effect.option"),
        (once, {"name": ""}, "effect.option"),
        (once, {"key": 3}, "effect.key"),
    ],
)
def test_wrong_option(made: Callable[..., Any], given: Given, code: str) -> None:
    with pytest.raises(StageflowError) as refused:
        made(**given)
    told = refused.value
    assert told.code == code and told.expected and told.fix
    assert told.field == next(iter(given)) or "reconcile_s" in given or made is UndoRules


def test_wrong_rules_and_resources() -> None:
    for code, make in (
        ("effect.rules", lambda rules: Ledger(MemoryEffects(), rules=rules)),
        ("undo.rules", lambda rules: UndoLog(MemoryUndo(), rules=rules)),
        ("undo.resources", lambda resource: UndoLog(MemoryUndo(), resource)),
        ("undo.option", lambda database: Rows(database, "orders")),
    ):
        with pytest.raises(StageflowError) as refused:
            make({})  # type: ignore[arg-type, no-untyped-call]
        assert refused.value.code == code and refused.value.got == "dict"


def test_no_file_for_locks_of_a_misspelt_address(tmp_path: Any) -> None:
    with pytest.raises(StageflowError) as refused:
        Runtime(journal=tmp_path / "runs.db", locks="postgres//host/shop")
    assert (refused.value.code, refused.value.field) == ("runtime.option", "locks")


async def nothing() -> None:
    return None


@pytest.mark.parametrize(
    ("field", "ask"),
    [
        ("deadline_s", lambda limiter: limiter.wait(deadline_s=math.nan)),
        ("deadline_s", lambda limiter: limiter.wait(deadline_s=None)),
        ("client", lambda limiter: limiter.call(nothing, client=None)),
        ("attempts", lambda limiter: limiter.call(nothing, repeatable=True, attempts=0)),
        ("attempts", lambda limiter: limiter.call(nothing, attempts="3")),
    ],
)
async def test_wrong_request(field: str, ask: Callable[[RateLimiter], Awaitable[Any]]) -> None:
    async with RateLimiter(Rate(50)) as limiter:
        with pytest.raises(StageflowError) as refused:
            await ask(limiter)
        assert (refused.value.code, refused.value.field) == ("rate.option", field)
        await limiter.wait()  # nothing was taken


async def test_wrong_programs() -> None:
    sandbox = Sandbox()  # refused before anything is started
    for given, code, field in (
        ({"code": 3}, "sandbox.inputs", "code"),
        ({"code": "", "inputs": 0}, "sandbox.inputs", "inputs"),
        ({"code": "", "stdin": "text"}, "sandbox.policy", "stdin"),
    ):
        with pytest.raises(StageflowError) as refused:
            await sandbox.run_python(**given)  # type: ignore[arg-type]
        assert (refused.value.code, refused.value.field) == (code, field)
