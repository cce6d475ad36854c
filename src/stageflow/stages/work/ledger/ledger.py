"""The ledger as stages and people use it: claims with an owner, and what came of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from stageflow.model.errors import BuildError
from stageflow.model.forms import form_of, is_address, scheme_of
from stageflow.model.marks import reached
from stageflow.stages.work.holders import Holders, ProcessHolders
from stageflow.stages.work.ledger import entry as machine
from stageflow.stages.work.ledger.entry import (
    Claim,
    EffectEntry,
    Granted,
    LedgerRules,
    NotKnown,
    Replayed,
)
from stageflow.stages.work.ledger.store import EffectStore
from stageflow.stages.work.unbroken import to_its_end, unbroken

T = TypeVar("T")
_RENEWALS = 3
"""Renewals in one lease."""


class Ledger:
    """Shared by any number of stages, runs and pipelines; by processes, where its store is.

    `store` is the path of a SQLite file (which may be your own database), a `postgresql://` or
    `redis://` address, or an EffectStore. Give it to the runtime as a dep named `ledger`, which
    closes it in the end. Raises BuildError `effect.address`, EffectError `effect.missing_extra`.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | EffectStore,
        *,
        rules: LedgerRules | None = None,
        holders: Holders | None = None,
    ) -> None:
        self.store = _opened(store)
        self.rules = _checked(rules)
        self.holders: Holders = ProcessHolders() if holders is None else holders

    async def __aenter__(self) -> Ledger:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the store."""
        await self.store.close()

    async def sweep(self) -> int:
        """Forgets the keys that have expired; how many. Call it now and then: nothing else does."""
        return await self.store.sweep(skew_s=self.rules.skew_s)

    async def allow(self, key: str) -> bool:
        """A person's word that the UNKNOWN effect with this key did not happen, so that it may.

        False when it is not unknown (any more).
        """
        return await self.change(key, partial(machine.allow, fence=None, rules=self.rules))

    async def change(self, key: str, decide: Callable[..., tuple[EffectEntry | None, T]]) -> T:
        """One atomic step, finished even when the awaiting task is cancelled meanwhile."""
        return await to_its_end(self.store.change(key, decide))

    # -- what a stage does -------------------------------------------------------------------

    async def claim(self, key: str, *, fingerprint: str, holder: str, repeatable: bool) -> Claim:
        """Asks whether `holder` may cause the effect. A claim that nobody waits for is released."""
        decide = self._claiming(fingerprint=fingerprint, holder=holder, repeatable=repeatable)
        answer, cancelled = await unbroken(self.store.change(key, decide))
        if cancelled:
            if isinstance(answer, Granted):
                await self.release(key, answer.fence, may_change=True)
            raise asyncio.CancelledError
        _mark(answer)
        return answer

    async def transact(
        self, key: str, act: Callable[[Any], bytes], *, fingerprint: str, holder: str
    ) -> Claim:
        """Claims, acts and records in one transaction of the store's database.

        `act` takes the transaction and returns the outcome. Replayed, with that outcome, when it
        was done now or before.
        """
        decide = self._claiming(fingerprint=fingerprint, holder=holder, repeatable=True)

        def within(
            entry: EffectEntry | None, now_s: float, transaction: Any
        ) -> tuple[EffectEntry | None, Claim]:
            claimed, answer = decide(entry, now_s)
            if not isinstance(answer, Granted):
                return claimed, answer
            outcome = act(transaction)
            done, _ = machine.record(
                claimed, now_s, fence=answer.fence, outcome=outcome, rules=self.rules
            )
            return done, Replayed(outcome)

        return await to_its_end(self.store.change_within(key, within))

    def _claiming(
        self, *, fingerprint: str, holder: str, repeatable: bool
    ) -> Callable[[EffectEntry | None, float], tuple[EffectEntry | None, Claim]]:
        return partial(
            machine.claim,
            fingerprint=fingerprint,
            holder=holder,
            repeatable=repeatable,
            rules=self.rules,
            is_alive=self.holders.is_alive,
        )

    async def record(self, key: str, fence: int, outcome: bytes) -> bool:
        """It happened. False when the claim passed to somebody else meanwhile."""
        return await self.change(
            key, partial(machine.record, fence=fence, outcome=outcome, rules=self.rules)
        )

    async def release(self, key: str, fence: int, *, may_change: bool) -> bool:
        """It did not happen (`may_change`), or may safely be done again as it was."""
        return await self.change(
            key, partial(machine.release, fence=fence, may_change=may_change, rules=self.rules)
        )

    async def lose(self, key: str, fence: int) -> bool:
        """Nobody knows whether it happened."""
        return await self.change(key, partial(machine.lose, fence=fence))

    async def settle(self, key: str, fence: int, outcome: bytes) -> bool:
        """It turned out that the UNKNOWN effect happened."""
        return await self.change(
            key, partial(machine.settle, fence=fence, outcome=outcome, rules=self.rules)
        )

    async def permit(self, key: str, fence: int) -> bool:
        """It turned out that the UNKNOWN effect of this claim did not happen."""
        return await self.change(key, partial(machine.allow, fence=fence, rules=self.rules))

    def renewing(self, key: str, fence: int) -> Renewal:
        """A context in which the claim's lease is renewed."""
        return Renewal(self, key, fence)


class Renewal:
    """Renews one lease, a few times per term, as long as it is entered. Costs a timer."""

    __slots__ = ("_fence", "_key", "_ledger", "_task", "_timer")

    def __init__(self, ledger: Ledger, key: str, fence: int) -> None:
        self._ledger = ledger
        self._key = key
        self._fence = fence
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._arm()

    def _arm(self) -> None:
        wait_s = self._ledger.rules.lease_s / _RENEWALS
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._due)

    def _due(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        rules = self._ledger.rules
        decide = partial(machine.renew, fence=self._fence, rules=rules)
        try:
            still = await self._ledger.store.change(self._key, decide)
        except Exception:  # a store that is away is asked again; without an answer the lease ends
            still = True
        if still:
            self._arm()

    async def __aexit__(self, *raised: object) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()


def _mark(answer: Claim) -> None:
    if isinstance(answer, Replayed):
        reached("effect_replayed")
    elif isinstance(answer, NotKnown):
        reached("effect_unknown")


def _opened(store: str | os.PathLike[str] | EffectStore) -> EffectStore:
    # Each store is loaded when it is asked for: two of them need extras.
    if not isinstance(store, (str, os.PathLike)):
        if not hasattr(store, "change_within"):
            raise _unknown(form_of(store))
        return store
    if isinstance(store, str) and (not store or is_address(store)):
        if store.startswith(("postgresql://", "postgres://")):
            from stageflow.stages.work.ledger.postgres import PostgresEffects

            return PostgresEffects(store)
        if store.startswith(("redis://", "rediss://")):
            from stageflow.stages.work.ledger.redis import RedisEffects

            return RedisEffects(store)
        raise _unknown(f"{scheme_of(store)}..." if store else form_of(store))
    from stageflow.stages.work.ledger.sqlite import SQLiteEffects

    return SQLiteEffects(Path(store))


def _unknown(got: str) -> BuildError:
    return BuildError(
        "effect.address",
        "this address of an effect ledger is not known",
        field="store",
        expected="the path of a SQLite file, postgresql://..., redis://..., or an EffectStore",
        got=got,
        fix="Ledger('effects.db')",
    )


def _checked(rules: LedgerRules | None) -> LedgerRules:
    if rules is None:
        return LedgerRules()
    if not isinstance(rules, LedgerRules):
        raise BuildError(
            "effect.rules",
            "the rules of a ledger are LedgerRules",
            field="rules",
            expected="LedgerRules",
            got=type(rules).__name__,
            fix="Ledger('effects.db', rules=LedgerRules(lease_s=60.0))",
        )
    return rules
