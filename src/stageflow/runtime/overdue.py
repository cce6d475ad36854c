"""Waits for a pool that take longer than they should: who is waited for, told as an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CHAIN_MAX: Final = 16
"""Holders that are named; a longer chain says how many more there are."""


@dataclass(frozen=True, slots=True)
class Holder:
    """One of those for whom a wait for a pool goes on."""

    pool: str
    units: int
    run: str
    tenant: str
    node: str
    awaits: tuple[str, ...]
    """Pools that it waits for itself, or its child runs do; their holders follow in the chain."""


def chain_told_to(tenant: str, chain: Sequence[Holder]) -> str:
    """The chain in words, nearest holder first. Of other tenants' holders only the pool is told."""
    told = []
    for each in chain[:CHAIN_MAX]:
        is_own = each.tenant == tenant
        whose = f"{each.node} of run {each.run}" if is_own else "another tenant"
        awaits = " and ".join(repr(pool) for pool in each.awaits)
        awaited = f", which awaits {awaits}" if awaits else ""
        told.append(f"{each.units} of {each.pool!r} held by {whose}{awaited}")
    if len(chain) > CHAIN_MAX:
        told.append(f"and {len(chain) - CHAIN_MAX} more")
    return "; ".join(told)
