"""What every store of effects must do: checks that raise AssertionError, for ours and others'."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from stageflow.model.errors import EffectError
from stageflow.stages.work.ledger.entry import (
    EffectEntry,
    EffectState,
    Granted,
    LedgerRules,
    claim,
)
from stageflow.stages.work.ledger.store import EffectStore

RULES: Final = LedgerRules()
WRITERS: Final = 25
"""Tasks of each of two handles that want one key at a time."""


async def check_effect_store(open_: Callable[[], EffectStore]) -> None:
    """Runs every check on stores that `open_` makes over the same entries, and closes them."""
    for name, check in CHECKS.items():
        first, second = open_(), open_()
        try:
            await check(first, second)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        finally:
            await first.close()
            await second.close()


def _entry(state: EffectState, *, fence: int = 1, until_s: float = math.inf) -> EffectEntry:
    return EffectEntry(state, fence, "f", "holder", until_s, b"\0outcome\xff")


async def read(store: EffectStore, key: str) -> EffectEntry | None:
    """What the store holds under `key`."""
    return await store.change(key, lambda entry, _: (entry, entry))


async def _write(store: EffectStore, key: str, entry: EffectEntry | None) -> None:
    await store.change(key, lambda *_: (entry, None))


async def _keeps_what_is_written(first: EffectStore, second: EffectStore) -> None:
    for state in EffectState:
        await _write(first, "kept", _entry(state))
        assert await read(second, "kept") == _entry(state)
        assert await read(second, "other") is None, "one key is not another"
    await _write(second, "kept", None)
    assert await read(first, "kept") is None


async def _lets_one_of_many_claim(first: EffectStore, second: EffectStore) -> None:
    async def wants(store: EffectStore, number: int) -> Any:
        decide = partial(
            claim,
            fingerprint="f",
            holder=f"holder {number}",
            repeatable=False,
            rules=RULES,
            is_alive=lambda _: True,
        )
        return await store.change("wanted", decide)

    stores = [first, second] * WRITERS
    answers = await asyncio.gather(*(wants(store, n) for n, store in enumerate(stores)))
    granted = [answer for answer in answers if isinstance(answer, Granted)]
    assert len(granted) == 1, f"{len(granted)} of {len(stores)} were let cause one effect"
    await _write(first, "wanted", None)


async def _loses_no_change(first: EffectStore, second: EffectStore) -> None:
    def next_fence(entry: EffectEntry | None, _: float) -> tuple[EffectEntry, None]:
        fence = 1 if entry is None else entry.fence + 1
        return _entry(EffectState.CLAIMED, fence=fence), None

    stores = [first, second] * WRITERS
    await asyncio.gather(*(store.change("counted", next_fence) for store in stores))
    counted = await read(first, "counted")
    assert counted is not None and counted.fence == len(stores), "a change overwrote another"
    await _write(first, "counted", None)


async def _undoes_what_raises(first: EffectStore, second: EffectStore) -> None:
    def raises(*_: Any) -> Any:
        raise LookupError

    await _write(first, "raised", _entry(EffectState.DONE))
    for change in (first.change, first.change_within):
        try:
            await change("raised", raises)
        except (LookupError, EffectError):
            continue
        raise AssertionError("what decides raised, and nobody heard of it")
    assert await read(second, "raised") == _entry(EffectState.DONE)
    await _write(first, "raised", None)


async def _forgets_only_what_ended(first: EffectStore, second: EffectStore) -> None:
    for state in EffectState:
        await _write(first, state.value, _entry(state, until_s=1.0))
    await first.sweep(skew_s=0.0)
    for state in (EffectState.CLAIMED, EffectState.UNKNOWN):
        assert await read(second, state.value) is not None, f"{state.value} was forgotten"
    for state in EffectState:
        await _write(first, state.value, None)


async def _has_transactions_or_says_so(first: EffectStore, second: EffectStore) -> None:
    def within(entry: Any, now_s: float, transaction: Any) -> Any:
        return _entry(EffectState.DONE), transaction

    try:
        transaction = await first.change_within("within", within)
    except EffectError as error:
        assert error.code == "effect.no_transactions", error.code
        return
    assert transaction is not None, "the effect is given no transaction"
    assert await read(second, "within") == _entry(EffectState.DONE)
    await _write(first, "within", None)


CHECKS: Final[Mapping[str, Callable[[EffectStore, EffectStore], Awaitable[None]]]] = (
    MappingProxyType(
        {
            "keeps what is written": _keeps_what_is_written,
            "lets one of many claim": _lets_one_of_many_claim,
            "loses no change": _loses_no_change,
            "undoes what raises": _undoes_what_raises,
            "forgets only what ended": _forgets_only_what_ended,
            "has transactions or says so": _has_transactions_or_says_so,
        }
    )
)
