"""What keeps a ledger's entries: one atomic change of one key at a time.

`stageflow.stages.work.ledger.conformance.check_effect_store` executes what is promised here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from stageflow.model.errors import EffectError
from stageflow.stages.work.ledger.entry import EffectEntry

T = TypeVar("T")
Decide: TypeAlias = Callable[[EffectEntry | None, float], tuple[EffectEntry | None, T]]
"""Entry and the store's time to the entry as it should be, and an answer. Pure; may be called
several times. Returning the same object changes nothing."""
Within: TypeAlias = Callable[[EffectEntry | None, float, Any], tuple[EffectEntry | None, T]]
"""As Decide, with the open transaction in which the entry will be written."""


class EffectStore(Protocol):
    """Shared by tasks, and by processes where the store lies outside of them."""

    async def change(self, key: str, decide: Decide[T]) -> T:
        """Reads, decides and writes `key` in one atomic step, durably; returns the answer.

        When the awaiting task is cancelled the change may happen or not. Raises EffectError
        `effect.store` when the store can't be reached; the change may have happened then, too.
        """
        ...

    async def change_within(self, key: str, decide: Within[T]) -> T:
        """`change` with effects of the caller's own in the same transaction; in a worker thread.

        What `decide` raises undoes everything. Raises EffectError `effect.no_transactions` when
        the store has none.
        """
        ...

    async def sweep(self, *, skew_s: float) -> int:
        """Forgets DONE and FREE keys that expired `skew_s` ago; how many that were."""
        ...

    async def close(self) -> None:
        """Releases everything; a second close does nothing."""
        ...


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(EffectEntry)


def encoded(entry: EffectEntry) -> bytes:
    """The entry as a store keeps it."""
    return _encoder.encode(entry)


def decoded(data: bytes, key: str) -> EffectEntry:
    """The entry again. EffectError `effect.damaged` when it is none."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError:
        raise EffectError(
            "effect.damaged",
            f"what the ledger holds under key {key} is no entry",
            expected="an entry that this version of stageflow wrote",
            got=f"{len(data)} bytes",
            fix="restore the ledger from a copy; until then nobody knows whether it happened",
        ) from None


def unreachable(store: str, error: BaseException) -> EffectError:
    """The store's own error, as a coded one without its text, which may quote values."""
    return EffectError(
        "effect.store",
        f"the effect ledger in {store} did not answer",
        expected="a store that can be read and written",
        got=type(error).__name__,
        fix="look at the store; the stage may be resumed when it is back",
    )


def closed() -> EffectError:
    """What a store says when it is used after its end."""
    return EffectError(
        "effect.closed",
        "this effect ledger is closed",
        expected="a ledger that lives as long as the runtime that uses it",
        fix="Runtime(deps={'ledger': lambda: Ledger('effects.db')}) closes it in the end",
    )


def contended(key: str, tries: int) -> EffectError:
    """What a store that compares and sets says when it never gets its turn."""
    return EffectError(
        "effect.contended",
        f"key {key} of the effect ledger changed each time it was to be written",
        expected=f"a turn within {tries} tries",
        fix="let fewer duplicates of one effect run at a time",
    )


def no_transactions(store: str) -> EffectError:
    """What a store without transactions of the user's says."""
    return EffectError(
        "effect.no_transactions",
        f"a ledger in {store} shares no transaction with an effect",
        expected="a ledger in the database that the effect writes to",
        got=store,
        fix="Ledger('orders.db') or Ledger('postgresql://...'), or sink='plain' or 'keyed'",
    )
