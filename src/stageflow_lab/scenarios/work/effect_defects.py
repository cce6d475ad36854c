"""What a ledger of effects gets wrong, as sabotages of WORK-002."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from stageflow.stages.work import Ledger, idempotency
from stageflow.stages.work.ledger import entry as machine
from stageflow.stages.work.ledger.entry import Claim, EffectEntry

from ...sabotage import Sabotage, patched, sabotage


@sabotage(metric="effects_per_key")
def check_then_act() -> Iterator[None]:
    """A claim looks at the key in one step and writes what it decided in another."""

    async def claim(
        self: Ledger, key: str, *, fingerprint: str, holder: str, repeatable: bool
    ) -> Claim:
        seen: list[EffectEntry | None] = []

        def look(entry: EffectEntry | None, now_s: float) -> Any:
            seen.append(entry)
            return entry, now_s

        now_s = await self.change(key, look)
        changed, answer = machine.claim(
            seen[-1],
            now_s,
            fingerprint=fingerprint,
            holder=holder,
            repeatable=repeatable,
            rules=self.rules,
            is_alive=self.holders.is_alive,
        )
        await asyncio.sleep(0)
        if changed is not seen[-1]:
            await self.change(key, lambda *_: (changed, None))
        return answer

    with patched(Ledger, "claim", claim):
        yield


@sabotage(metric="mismatched_refused")
def fingerprint_omits_parameters() -> Iterator[None]:
    """What tells two effects apart is their first parameter only."""
    original = idempotency.fingerprint

    def fingerprint(parameters: Mapping[str, Any], freezer: Any) -> str:
        return original(dict(list(parameters.items())[:1]), freezer)

    with patched(idempotency, "fingerprint", fingerprint):
        yield


@sabotage(metric="unknown_surfaced")
def unknown_taken_for_done() -> Iterator[None]:
    """An effect of which nobody knows whether it happened is a failure like any other."""
    original = machine.claim

    def claim(entry: EffectEntry | None, now_s: float, **options: Any) -> Any:
        changed, answer = original(entry, now_s, **options)
        if isinstance(answer, machine.NotKnown):
            return changed, machine.InFlight(answer.fence)
        return changed, answer

    with patched(machine, "claim", claim):
        yield


@sabotage(metric="applied_once")
def key_of_the_attempt() -> Iterator[None]:
    """The key that a receiver is shown is made of the claim, so that each is another to it."""
    original = idempotency.Effect

    def effect(key: str, fence: int) -> Any:
        return original(f"{key}-{fence}", fence)

    with patched(idempotency, "Effect", effect):
        yield


DEFECTS: Final[tuple[Sabotage, ...]] = (
    check_then_act,
    fingerprint_omits_parameters,
    unknown_taken_for_done,
    key_of_the_attempt,
)


def applied(name: str | None) -> AbstractContextManager[None]:
    """The defect `name` while entered, in a process of the load; nothing for None."""
    by_name = {each.name: each for each in DEFECTS}
    return nullcontext() if name is None else by_name[name].apply()
