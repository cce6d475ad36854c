"""Simulated processes that share a ledger, die at every step, and have clocks of their own.

A process is what its store and its network let through: once it is dead, neither answers it, and
nothing that it still does reaches anybody. A request that it has sent arrives all the same.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from stageflow import Runtime
from stageflow.sim import Sim
from stageflow.stages.work import Effect, Ledger, LedgerRules
from stageflow.stages.work.ledger.entry import EffectEntry, Granted

from .effect_facts import Facts
from .orders import PIPELINES, Receipt, Reply, duplicates, points, replied

RULES: Final = LedgerRules(keep_s=86_400.0, lease_s=60.0, skew_s=10.0)
LATENCY_S: Final = 0.05
SKEW_MAX_S: Final = 5.0
"""Of one clock; two are at most twice as far apart, which is what the rules allow."""
START_S: Final = 1_700_000_000.0
AT_ONCE_S: Final = 0.3
"""Within which the duplicates of a key begin."""
CRASHES, CANCELS, EXPIRIES, ELSEWHERE = 0.6, 0.1, 0.2, 0.3
"""Shares of keys: with a crash, of calls cancelled, looked at around their expiry, whose processes
are on several hosts and know of each other only by leases."""

T = TypeVar("T")


class ProcessDied(Exception):
    """What a dead process meets wherever it turns."""


@dataclass
class Receiver:
    """Counts what arrives, by order and generation of its key."""

    applied: Counter[tuple[str, int]] = field(default_factory=Counter)
    answers: dict[str, Receipt] = field(default_factory=dict)
    """By effect key and generation."""
    generation: Counter[str] = field(default_factory=Counter)

    def apply(self, order: str, key: str | None) -> Receipt:
        """The effect; `key` None: whatever was done before under it."""
        place = f"{key}/{self.generation[order]}"
        if key is not None and place in self.answers:
            return self.answers[place]
        self.applied[order, self.generation[order]] += 1
        number = sum(self.applied.values())
        self.answers[place] = Receipt("ok", [f"document-{number}"], 1, number)
        return self.answers[place]


@dataclass
class Host:
    """What the processes of one key share."""

    sim: Sim
    rng: random.Random
    kind: str
    entries: dict[str, EffectEntry]
    receiver: Receiver
    point: str | None
    """Where the first process that gets there dies; None once it has, or when none does."""
    sees_processes: bool
    alive: dict[str, bool] = field(default_factory=dict)
    fired: str | None = None


class Process:
    """One of the processes that cause effects of one key. Its own store, client and holders."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name
        self.skew_s = host.rng.uniform(-SKEW_MAX_S, SKEW_MAX_S)
        self.tasks: list[asyncio.Task[Any]] = []
        self.claims = 0
        host.alive[name] = True
        self.ledger = Ledger(self, rules=RULES, holders=self)
        self.runtime = Runtime(deps={"ledger": _Lent(self.ledger), "client": _Lent(self)})

    # -- dying -------------------------------------------------------------------------------

    def reached(self, point: str) -> None:
        """Dies here when it is its turn to."""
        self.living()
        if self.host.point == point:
            self.host.fired, self.host.point = point, None
            self.host.alive[self.name] = False
            for task in self.tasks:
                task.cancel()
            self.living()

    def living(self) -> None:
        if not self.host.alive[self.name]:
            raise ProcessDied(self.name)

    async def travel(self) -> None:
        """A message's way there or back."""
        self.living()
        await asyncio.sleep(self.host.rng.random() * LATENCY_S)
        self.living()

    # -- holders -----------------------------------------------------------------------------

    def new(self) -> str:
        self.claims += 1
        return f"{self.name}/{self.claims}"

    def is_alive(self, holder: str) -> bool | None:
        name = holder.rpartition("/")[0]
        return self.host.alive[name] if self.host.sees_processes or name == self.name else None

    # -- store -------------------------------------------------------------------------------

    def now_s(self) -> float:
        """By this process's clock."""
        return START_S + self.host.sim.now() + self.skew_s

    async def change(self, key: str, decide: Callable[..., tuple[Any, T]]) -> T:
        step = getattr(getattr(decide, "func", None), "__name__", "")
        await self.travel()
        if step in ("claim", "record"):
            self.reached(f"before_{step}")
        changed, answer = decide(self.host.entries.get(key), self.now_s())
        if changed is not None:
            self.host.entries[key] = changed
        if isinstance(answer, Granted) or step == "record":
            self.reached("after_claim" if step != "record" else "after_record")
        await self.travel()
        return answer

    async def change_within(self, key: str, decide: Callable[..., tuple[Any, T]]) -> T:
        await self.travel()
        self.reached("before_claim")
        written: list[str] = []
        changed, answer = decide(self.host.entries.get(key), self.now_s(), written)
        for order in written:
            self.host.receiver.apply(order, None)
        self.host.entries[key] = changed
        if written:
            self.reached("after_record")
        await self.travel()
        return answer

    async def sweep(self, *, skew_s: float) -> int:
        return 0

    async def close(self) -> None:
        return None

    # -- client ------------------------------------------------------------------------------

    async def send(self, order: str, effect: Effect) -> Receipt:
        self.reached("before_act")
        host, loop = self.host, self.host.sim.loop
        answer: asyncio.Future[Receipt] = loop.create_future()
        key = effect.key if host.kind == "keyed" else None

        def arrives() -> None:
            receipt = host.receiver.apply(order, key)
            if host.kind == "reconciled":
                host.receiver.answers[effect.key] = receipt
            if not answer.done():
                answer.set_result(receipt)

        # From here on it is on its way, whatever becomes of its sender.
        loop.call_later(host.rng.random() * LATENCY_S, arrives)
        receipt = await answer
        self.reached("after_act")
        await self.travel()
        return receipt

    def write(self, order: str, transaction: list[str]) -> Receipt:
        self.reached("before_act")
        transaction.append(order)
        self.reached("after_act")
        number = len(self.host.receiver.applied) + 1
        return Receipt("ok", [f"row-{order}-{number}"], 1, number)

    async def look_up(self, effect: Effect) -> Receipt | None:
        await asyncio.sleep(2 * LATENCY_S)  # nothing is on its way any more
        await self.travel()
        return self.host.receiver.answers.get(effect.key)

    # -- calls -------------------------------------------------------------------------------

    async def call(self, order: str, *, amount: int = 7, memo: str = "first") -> Reply:
        """One duplicate."""
        pipeline = PIPELINES[self.host.kind]
        return await replied(pipeline, self.runtime, "shop", order=order, amount=amount, memo=memo)

    def start(self, order: str) -> asyncio.Task[Reply]:
        task = asyncio.get_running_loop().create_task(self.call(order))
        self.tasks.append(task)
        return task


class _Lent:
    """A dep that a runtime uses and does not close."""

    def __init__(self, dep: Any) -> None:
        self.dep = dep

    def __enter__(self) -> Any:
        return self.dep

    def __exit__(self, *raised: object) -> None:
        return None


async def key_story(
    sim: Sim, order: str, rng: random.Random, *, kind: str, processes: int, least: int, most: int
) -> Facts:
    """A key from its first claim to its expiry, and what was seen of it."""
    point = rng.choice(points(kind)) if rng.random() < CRASHES else None
    host = Host(sim, rng, kind, {}, Receiver(), point, rng.random() >= ELSEWHERE)
    facts = Facts(order, kind)
    running = [Process(host, f"p{number}") for number in range(processes)]
    calls = []
    for _ in range(duplicates(rng, least, most)):
        process = rng.choice(running)
        await asyncio.sleep(rng.random() * AT_ONCE_S / 2)
        if host.alive[process.name]:
            calls.append(process.start(order))
            if rng.random() < CANCELS:
                facts.cancelled += 1
                sim.loop.call_later(rng.random() * AT_ONCE_S, calls[-1].cancel)
    for ended in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(ended, Reply):
            facts.add(ended)
    host.point = None
    facts.crashed = host.fired
    await _afterwards(host, order, facts)
    facts.effects = max(host.receiver.applied.values(), default=0)
    facts.first_effects = host.receiver.applied[order, 0]
    return facts


async def _afterwards(host: Host, order: str, facts: Facts) -> None:
    """Replays of the key, others' parameters under it, and its expiry."""
    last = Process(host, "last")
    await asyncio.sleep(RULES.lease_s + 2 * RULES.skew_s + 1)
    facts.final = await last.call(order)
    facts.add(facts.final)
    for changed in ({"amount": 8}, {"memo": "second"}):
        facts.refusals.append((await last.call(order, **changed)).reason)
    if facts.final.status == "ok" and host.rng.random() < EXPIRIES:
        await asyncio.sleep(RULES.keep_s - 3 * (RULES.lease_s + 2 * RULES.skew_s))
        facts.add(await Process(host, "before expiry").call(order))
        await asyncio.sleep(4 * (RULES.lease_s + 2 * RULES.skew_s))
        host.receiver.generation[order] = 1
        again = await Process(host, "after expiry").call(order)
        facts.expired = again.status == "ok" and again.value != facts.final.value
