"""Sagas as pipelines: a WORK stage with its undo for each leg, groups as stages, locks first."""

from __future__ import annotations

from typing import Any, Protocol

from stageflow import (
    Context,
    Happened,
    NotHappened,
    Pipeline,
    Retry,
    Stage,
    transform,
    work,
)

from .saga_specs import Group, Leg, Part, Saga

TRIES = Retry(attempts=3, base_s=0.05, max_s=0.5)
ANSWER_S = 1.0
"""How long a step waits for its receiver."""
HOLD_S = 20.0


class Client(Protocol):
    """How a stage reaches the receivers from its process."""

    async def send(self, saga: Saga, leg: Leg, *, is_undo: bool, key: str) -> int:
        """Has the leg booked, or taken back; the cents."""
        ...

    async def looked_up(self, saga: Saga, leg: Leg, *, is_undo: bool) -> bool:
        """Whether it is booked, once no request for it is under way."""
        ...


def pipelines_of(saga: Saga) -> dict[str, Pipeline[Any]]:
    """The saga's pipeline, first, and those within it, by name."""
    made: dict[str, Pipeline[Any]] = {}
    outer = _pipeline(saga, f"saga_{saga.name}", saga.parts, made, holds=True)
    return {outer.name: outer, **made}


def _pipeline(
    saga: Saga,
    name: str,
    parts: tuple[Part, ...],
    made: dict[str, Pipeline[Any]],
    *,
    holds: bool = False,
) -> Pipeline[Any]:
    stages: list[Stage[..., Any]] = []
    if holds:

        @transform(timeout=2 * HOLD_S)
        async def held(ctx: Context) -> None:
            await ctx.hold(*saga.accounts(), wait_s=HOLD_S)

        stages.append(held)
    for part in parts:
        after = part.after or (("held",) if holds else ())
        if isinstance(part, Group):
            inner = _pipeline(saga, f"{name}_{part.name}", part.parts, made)
            made[inner.name] = inner
            stages.append(inner.as_stage(part.name).named(after=after))
        else:
            stages.append(_stage(saga, part, after))
    return Pipeline(name, stages, deps={"client": Client})


def _stage(saga: Saga, leg: Leg, after: tuple[str, ...]) -> Stage[..., Any]:
    async def body(ctx: Context, client: Client) -> int:
        return await client.send(saga, leg, is_undo=False, key=ctx.effect_key)

    async def undo(ctx: Context, client: Client, result: int) -> None:
        assert result == leg.cents, "an undo is given what its step returned"
        await client.send(saga, leg, is_undo=True, key=ctx.effect_key)

    async def found(client: Client) -> Happened | NotHappened:
        is_there = await client.looked_up(saga, leg, is_undo=False)
        return Happened(leg.cents) if is_there else NotHappened()

    async def found_undone(client: Client) -> Happened | NotHappened:
        is_there = await client.looked_up(saga, leg, is_undo=True)
        return Happened(None) if is_there else NotHappened()

    def options(reconcile: Any) -> dict[str, Any]:
        of_receiver: dict[str, dict[str, Any]] = {
            "keyed": {"keyed": True},
            "asked": {"reconcile": reconcile},
            "plain": {},
        }
        return {"timeout": ANSWER_S, "retry": TRIES, **of_receiver[leg.receiver]}

    if leg.role == "step":
        undoes = work(undo, name="undo", **options(found_undone))
        return work(body, name=leg.name, after=after, undo=undoes, **options(found))
    is_pivot = leg.role == "pivot"
    return work(body, name=leg.name, after=after, pivot=is_pivot, **options(found))
