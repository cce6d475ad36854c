"""Whatever a stage returns, says or raises, it is the stage that fails, and never the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from stageflow import (
    Block,
    Branch,
    CantTell,
    ContractError,
    LetStand,
    Pipeline,
    Redact,
    Retry,
    Revise,
    Runtime,
    StageOutput,
    guard,
    route,
    transform,
    work,
)
from stageflow.model.errors import tamed
from stageflow.testing import memory_journal

PATIENCE_S = 10.0


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class NoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307


class Hidden(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError


class NoCause(Exception):
    __cause__ = property(lambda self: 1 / 0)  # type: ignore[assignment]


class NoArguments(Exception):
    args = property(lambda self: 1 / 0)  # type: ignore[assignment]


class NoTrace(Exception):
    def with_traceback(self, tb: Any) -> Any:
        raise ZeroDivisionError


def caused() -> Exception:
    error = ValueError("outer")
    error.__cause__ = Unspeakable()
    return error


BROKEN: dict[str, Callable[[], BaseException]] = {
    "text": Unspeakable,
    "no text": NoText,
    "attributes": Hidden,
    "cause": NoCause,
    "arguments": NoArguments,
    "traceback": NoTrace,
    "its cause's text": caused,
    "one of a group": lambda: ExceptionGroup("g", [ExceptionGroup("h", [Hidden()])]),
}


@pytest.fixture(params=["memory", "journal"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    yield Runtime(journal=memory_journal() if request.param == "journal" else None)


async def outcome(runtime: Runtime, *stages: Any) -> Any:
    pipeline = Pipeline("p", stages, outputs=stages[0]).using(runtime=runtime)
    async with runtime, asyncio.timeout(PATIENCE_S):
        return await pipeline.run()


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("mode", ["sync", "async", "effect"])
@pytest.mark.parametrize("retry", [None, Retry(attempts=2, base_s=0.0)])
async def test_an_error_that_can_not_be_looked_at_is_the_stages_failure(
    runtime: Runtime, broken: str, mode: str, retry: Retry | None
) -> None:
    def raises() -> int:
        raise BROKEN[broken]()

    async def raises_later() -> int:
        await asyncio.sleep(0)
        raise BROKEN[broken]()

    makes: Any = {
        "sync": lambda: transform(raises, retry=retry),
        "async": lambda: transform(raises_later, retry=retry),
        "effect": lambda: work(raises_later, retry=retry),
    }
    run = await outcome(runtime, makes[mode]())
    assert run.status == "failed" and run.failure is not None
    assert run.failure.reason == "stage.broken_error"
    assert "raises" in run.failure.traceback, "where it was raised is told all the same"


def test_an_error_that_can_be_looked_at_stays_itself() -> None:
    for error in (ValueError("a"), ExceptionGroup("g", [OSError()]), asyncio.CancelledError()):
        assert tamed(error) is error


class Unlistable(dict[str, int]):
    def items(self) -> Any:
        raise ZeroDivisionError


class Classless:
    @property
    def __class__(self) -> Any:
        raise ZeroDivisionError


@dataclass
class Holder:
    x: int


async def test_a_value_whose_methods_raise_is_the_stages_failure(runtime: Runtime) -> None:
    @transform
    async def one() -> dict[str, int]:
        return Unlistable(a=1)

    @transform
    def two() -> Holder:
        return Holder(Classless())  # type: ignore[arg-type]

    @transform
    async def three() -> StageOutput:
        return StageOutput.fail("broken", data=Unlistable(a=1))

    stages = [stage.named(stage.name, on_failure="isolate") for stage in (one, two, three)]
    run = await outcome(runtime, *stages)
    assert {name: node.state for name, node in run.nodes.items()} == dict.fromkeys(
        ("one", "two", "three"), "failed"
    )
    assert run.failures["one"].reason == "error:ZeroDivisionError"
    assert run.failures["three"].data == "<Unlistable>"


SAID: tuple[tuple[Callable[[], Any], str], ...] = (
    (lambda: StageOutput.retry("x", after_s="soon"), "after_s"),  # type: ignore[arg-type]
    (lambda: StageOutput.retry("x", after_s=float("nan")), "after_s"),
    (lambda: StageOutput.retry("x", after_s=True), "after_s"),
    (lambda: StageOutput.fail(None), "reason"),  # type: ignore[arg-type]
    (lambda: StageOutput.skip(5), "reason"),  # type: ignore[arg-type]
    (lambda: Block(None), "reason"),  # type: ignore[arg-type]
    (lambda: Redact("x", of=5), "of"),  # type: ignore[arg-type]
    (lambda: Revise(None), "feedback"),  # type: ignore[arg-type]
    (lambda: Revise("x", score="high"), "score"),  # type: ignore[arg-type]
    (lambda: Branch(5), "name"),  # type: ignore[arg-type]
    (lambda: Branch("l", confidence="high"), "confidence"),  # type: ignore[arg-type]
    (lambda: CantTell(5), "reason"),  # type: ignore[arg-type]
    (lambda: LetStand(None), "reason"),  # type: ignore[arg-type]
)


@pytest.mark.parametrize(("says", "field"), SAID)
def test_what_is_said_has_its_form(says: Callable[[], Any], field: str) -> None:
    with pytest.raises(ContractError) as caught:
        says()
    assert (caught.value.code, caught.value.field) == ("contract.said", field)


async def test_who_says_what_can_not_be_said_has_failed_and_lets_nothing_pass(
    runtime: Runtime,
) -> None:
    @transform
    async def draft() -> str:
        return "text"

    @guard
    async def checked(draft: str) -> Revise:
        return Revise(None)  # type: ignore[arg-type]

    @route(branches=("l", "r"), on_failure="isolate")
    async def way() -> Branch:
        return Branch(5)  # type: ignore[arg-type]

    run = await outcome(runtime, draft, checked, way)
    assert run.nodes["draft"].state == "blocked"
    for name in ("checked", "way"):
        assert run.failures[name].reason == "contract.said"
