"""What is known of one effect key, and how that may change: a pure state machine.

FREE -> CLAIMED -> DONE, or UNKNOWN when the holder of a claim went away and nobody can say whether
the effect happened. Each claim has the next fence; what an older holder says is refused. Time is
the store's; a store applies each change in one atomic step.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import msgspec

from stageflow.model.errors import BuildError


class EffectState(enum.Enum):
    """The value is what a store keeps."""

    FREE = "free"
    """Nobody holds it and it did not happen, as far as anybody has said."""
    CLAIMED = "claimed"
    """Somebody was let do it, and has not said how it ended."""
    DONE = "done"
    UNKNOWN = "unknown"
    """It may have happened. Only `settle` and `allow` lead out of it, and a sink that honours
    keys."""


EXPIRING = (EffectState.DONE, EffectState.FREE)
"""States that end by themselves, when the key does."""


class EffectEntry(msgspec.Struct, frozen=True):
    """One key. Immutable."""

    state: EffectState
    fence: int
    """Counts the claims of this key; 1 for the first."""
    fingerprint: str
    """Of all parameters; "" when other parameters may come under this key."""
    holder: str = ""
    """CLAIMED: who; UNKNOWN: who it was."""
    until_s: float = math.inf
    """By the store's clock. CLAIMED: end of the lease. DONE, FREE: when the key expires."""
    outcome: bytes = b""
    """DONE: what duplicates are given."""


@dataclass(frozen=True, slots=True)
class LedgerRules:
    """How long things are kept and waited for.

    `keep_s`: after it a key is forgotten, and a duplicate that comes later is a new effect.
    `lease_s`: a holder that has not renewed its claim for so long is gone, whatever else says that
    it lives. `skew_s`: how far the clocks of processes that share a store may be apart; both times
    are stretched by it. A key whose effect is unknown never expires.

    Raises BuildError `effect.rules` for times that are not positive.
    """

    keep_s: float = 30 * 86_400.0
    lease_s: float = 60.0
    skew_s: float = 10.0

    def __post_init__(self) -> None:
        for name, least in (("keep_s", 0.0), ("lease_s", 0.0), ("skew_s", -1e-9)):
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, (int, float)) or not given > least:
                raise BuildError(
                    "effect.rules",
                    f"{name} of a ledger is not a time",
                    field=name,
                    expected="seconds > 0" if least == 0.0 else "seconds >= 0",
                    got=repr(given)[:80],
                    fix="LedgerRules(keep_s=86_400.0, lease_s=60.0, skew_s=10.0)",
                )


class Granted(NamedTuple):
    """Do it, and say how it ended under this fence."""

    fence: int


class Replayed(NamedTuple):
    """It is done; this came out."""

    outcome: bytes


class InFlight(NamedTuple):
    """Somebody is doing it."""

    fence: int


class NotKnown(NamedTuple):
    """It may have happened."""

    fence: int


class OtherParameters(NamedTuple):
    """The key stands for an effect with other parameters."""

    fingerprint: str


Claim: TypeAlias = Granted | Replayed | InFlight | NotKnown | OtherParameters
IsAlive: TypeAlias = Callable[[str], bool | None]
"""Whether the holder lives; None when nobody here can tell."""


def claim(
    entry: EffectEntry | None,
    now_s: float,
    *,
    fingerprint: str,
    holder: str,
    repeatable: bool,
    rules: LedgerRules,
    is_alive: IsAlive,
) -> tuple[EffectEntry | None, Claim]:
    """Somebody wants to cause the effect. `repeatable`: doing it twice under one key is doing it
    once, since the sink honours keys."""
    if entry is None or _has_expired(entry, now_s, rules):
        fence = 1 if entry is None else entry.fence + 1
        return _claimed(fence, fingerprint, holder, now_s, rules)
    if entry.fingerprint and entry.fingerprint != fingerprint:
        return entry, OtherParameters(entry.fingerprint)
    match entry.state:
        case EffectState.DONE:
            return entry, Replayed(entry.outcome)
        case EffectState.CLAIMED if entry.holder == holder:
            return entry, Granted(entry.fence)  # asked again after an answer that was lost
        case EffectState.CLAIMED if not _is_gone(entry, now_s, rules, is_alive):
            return entry, InFlight(entry.fence)
        case EffectState.CLAIMED if not repeatable:
            lost = msgspec.structs.replace(entry, state=EffectState.UNKNOWN, until_s=math.inf)
            return lost, NotKnown(entry.fence)
        case EffectState.UNKNOWN if not repeatable:
            return entry, NotKnown(entry.fence)
    return _claimed(entry.fence + 1, fingerprint, holder, now_s, rules)


def record(
    entry: EffectEntry | None, now_s: float, *, fence: int, outcome: bytes, rules: LedgerRules
) -> tuple[EffectEntry | None, bool]:
    """It happened; False when the claim is not this fence's any more. Saying it twice is fine.

    A holder that was thought gone and comes back says what nobody else knew.
    """
    if entry is None or entry.fence != fence or entry.state is EffectState.FREE:
        return entry, False
    if entry.state is EffectState.DONE:
        return entry, entry.outcome == outcome
    done = msgspec.structs.replace(
        entry, state=EffectState.DONE, until_s=now_s + rules.keep_s, outcome=outcome
    )
    return done, True


def release(
    entry: EffectEntry | None, now_s: float, *, fence: int, may_change: bool, rules: LedgerRules
) -> tuple[EffectEntry | None, bool]:
    """It did not happen, or may safely be done again. `may_change`: then also otherwise."""
    if entry is None or entry.fence != fence or entry.state is not EffectState.CLAIMED:
        return entry, False
    return _freed(entry, now_s, rules, may_change=may_change), True


def lose(entry: EffectEntry | None, now_s: float, *, fence: int) -> tuple[EffectEntry | None, bool]:
    """The holder itself does not know whether it happened."""
    if entry is None or entry.fence != fence or entry.state is not EffectState.CLAIMED:
        return entry, False
    return msgspec.structs.replace(entry, state=EffectState.UNKNOWN, until_s=math.inf), True


def renew(
    entry: EffectEntry | None, now_s: float, *, fence: int, rules: LedgerRules
) -> tuple[EffectEntry | None, bool]:
    """The holder lives; False when the claim is not its own any more."""
    if entry is None or entry.fence != fence or entry.state is not EffectState.CLAIMED:
        return entry, False
    return msgspec.structs.replace(entry, until_s=now_s + rules.lease_s), True


def settle(
    entry: EffectEntry | None, now_s: float, *, fence: int, outcome: bytes, rules: LedgerRules
) -> tuple[EffectEntry | None, bool]:
    """Somebody found out that the UNKNOWN effect happened."""
    if entry is None or entry.fence != fence or entry.state is not EffectState.UNKNOWN:
        return entry, False
    return record(entry, now_s, fence=fence, outcome=outcome, rules=rules)


def allow(
    entry: EffectEntry | None, now_s: float, *, fence: int | None, rules: LedgerRules
) -> tuple[EffectEntry | None, bool]:
    """Somebody found out that the UNKNOWN effect did not happen. `fence` None: whichever it is."""
    if entry is None or entry.state is not EffectState.UNKNOWN:
        return entry, False
    if fence is not None and entry.fence != fence:
        return entry, False
    return _freed(entry, now_s, rules, may_change=False), True


def _claimed(
    fence: int, fingerprint: str, holder: str, now_s: float, rules: LedgerRules
) -> tuple[EffectEntry, Granted]:
    until_s = now_s + rules.lease_s
    return EffectEntry(EffectState.CLAIMED, fence, fingerprint, holder, until_s), Granted(fence)


def _freed(
    entry: EffectEntry, now_s: float, rules: LedgerRules, *, may_change: bool
) -> EffectEntry:
    fingerprint = "" if may_change else entry.fingerprint
    return EffectEntry(EffectState.FREE, entry.fence, fingerprint, until_s=now_s + rules.keep_s)


def _has_expired(entry: EffectEntry, now_s: float, rules: LedgerRules) -> bool:
    return entry.state in EXPIRING and now_s > entry.until_s + rules.skew_s


def _is_gone(entry: EffectEntry, now_s: float, rules: LedgerRules, is_alive: IsAlive) -> bool:
    return is_alive(entry.holder) is False or now_s > entry.until_s + rules.skew_s
