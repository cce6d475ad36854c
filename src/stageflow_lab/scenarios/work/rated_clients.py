"""Clients of services with quotas: the same tasks simulated and real.

Each asks as fast as its limiter lets it, with deadlines, and with requests of which some must not
be sent twice. What it saw is counted, and judged elsewhere.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from stageflow.stages.work.rate import RateLimited, RateLimiter

from .quotas import KINDS, Kind

ONCE: Final = 0.3
"""Share of requests that must not be sent again."""
DEADLINE_S: Final = (0.3, 4.0)
GIVEN_UP_S: Final = 10.0
"""After its deadline a call that was told nothing is given up, and counts as told late: a limiter
that does not look at deadlines may wait for hours."""
SENT_S: Final = 0.005
"""Between the word that it may be sent and the sending."""
PAUSE_S: Final = 0.25
"""After a refusal for its deadline, before a client asks anew."""


class Reply(NamedTuple):
    """As HTTP clients give it."""

    status: int
    headers: dict[str, str]


Send = Callable[[Kind, str], Awaitable[Reply]]
"""To a service, with the identity of a request that must not be sent again, else ""."""


class Client(NamedTuple):
    """One of them."""

    name: str
    kind: Kind
    process: int


def clients_of(count: int, processes: int) -> list[Client]:
    """Of every service some in every process."""
    return [
        Client(f"c{n}", KINDS[n % len(KINDS)], n // len(KINDS) % processes) for n in range(count)
    ]


class Seen:
    """Counts of one process, by service."""

    def __init__(self, *, grace_s: float) -> None:
        self.grace_s = grace_s
        self.counts: dict[str, Counter[str]] = {kind.name: Counter() for kind in KINDS}
        self.served: dict[str, Counter[str]] = {kind.name: Counter() for kind in KINDS}

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            kind: {**counts, "served": dict(self.served[kind])}
            for kind, counts in self.counts.items()
        }


async def work(
    client: Client,
    limiter: RateLimiter,
    send: Send,
    seen: Seen,
    *,
    rng: random.Random,
    until_s: float,
) -> None:
    """One client until the time is over."""
    loop = asyncio.get_running_loop()
    counts, number = seen.counts[client.kind.name], 0
    while loop.time() < until_s:
        number += 1
        identity = f"{client.name}-{number}" if rng.random() < ONCE else ""
        deadline_s = loop.time() + rng.uniform(*DEADLINE_S)

        async def sent(identity: str = identity, deadline_s: float = deadline_s) -> Reply:
            counts["sends"] += 1
            counts["sent_late"] += loop.time() > deadline_s + SENT_S
            return await send(client.kind, identity)

        counts["calls"] += 1
        try:
            async with asyncio.timeout_at(deadline_s + GIVEN_UP_S):
                await limiter.call(
                    sent, client=client.name, deadline_s=deadline_s, repeatable=not identity
                )
            counts["served"] += 1
            seen.served[client.kind.name][client.name] += 1
        except RateLimited as refused:
            counts[refused.code] += 1
            if refused.code == "rate.too_late":
                counts["told_late"] += loop.time() > deadline_s + seen.grace_s
                counts["exhausted"] += refused.is_exhausted
                await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            counts["told_late"] += 1


async def work_all(
    clients: Sequence[Client],
    limiters: dict[str, RateLimiter],
    send: Send,
    seen: Seen,
    *,
    seed: object,
    until_s: float,
) -> None:
    """All clients of one process."""
    async with asyncio.TaskGroup() as group:
        for each in clients:
            rng = random.Random(f"{seed}:{each.name}")
            group.create_task(
                work(each, limiters[each.kind.name], send, seen, rng=rng, until_s=until_s)
            )
