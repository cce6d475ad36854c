"""The pipelines under test: one order a key, causing one effect at a receiver of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from stageflow import Happened, NotHappened, Pipeline, work
from stageflow.stages.work import Effect, Ledger, idempotent

KINDS: Final = ("plain", "reconciled", "keyed", "transactional")
"""Receivers without keys; that can be asked; that honour keys; in the ledger's database."""
ONCE: Final = ("reconciled", "keyed", "transactional")
"""Kinds that must end with exactly one effect, whatever is cut off."""
POINTS: Final = (
    "before_claim",
    "after_claim",
    "before_act",
    "after_act",
    "before_record",
    "after_record",
)
"""Where a process dies: every step between the claim and the record of an effect."""
WITHIN: Final = ("before_claim", "before_act", "after_act", "after_record")
"""Those of a transaction, in which claim and record are one step."""
WAIT_S: Final = 10.0
"""How long a duplicate waits for one that is in flight."""


def points(kind: str) -> tuple[str, ...]:
    """Where a process that causes an effect of this kind may die."""
    return WITHIN if kind == "transactional" else POINTS


@dataclass(frozen=True)
class Receipt:
    """What a receiver answers; duplicates must be given the whole of it."""

    status: str
    artifacts: list[str]
    version: int
    number: int


class Client(Protocol):
    """How a stage reaches its receiver: simulated or over HTTP."""

    async def send(self, order: str, effect: Effect) -> Receipt:
        """Causes the effect and returns the receiver's answer."""
        ...

    def write(self, order: str, transaction: Any) -> Receipt:
        """Causes the effect in the ledger's own transaction."""
        ...

    async def look_up(self, effect: Effect) -> Receipt | None:
        """The receiver's answer to an effect that it has applied; None when it has not and no
        request for it is under way."""
        ...


@work(keyed=True, timeout=600, name="placed")
@idempotent(name="order", key="order:{order}", sink="plain", clients=("client",), wait_s=WAIT_S)
async def plain(order: str, amount: int, memo: str, client: Client, effect: Effect) -> Receipt:
    """At most once."""
    return await client.send(order, effect)


async def asked(effect: Effect, client: Client) -> Happened | NotHappened:
    """Finds out by the effect's key."""
    found = await client.look_up(effect)
    return NotHappened() if found is None else Happened(found)


@work(keyed=True, timeout=600, name="placed")
@idempotent(
    name="order",
    key="order:{order}",
    sink="plain",
    clients=("client",),
    reconcile=asked,
    wait_s=WAIT_S,
)
async def reconciled(order: str, amount: int, memo: str, client: Client, effect: Effect) -> Receipt:
    """Once, at a receiver that tells what it has done."""
    return await client.send(order, effect)


@work(keyed=True, timeout=600, name="placed")
@idempotent(name="order", key="order:{order}", sink="keyed", clients=("client",), wait_s=WAIT_S)
async def keyed(order: str, amount: int, memo: str, client: Client, effect: Effect) -> Receipt:
    """Once, at a receiver that honours keys."""
    return await client.send(order, effect)


@work(keyed=True, timeout=600, name="placed")
@idempotent(
    name="order", key="order:{order}", sink="transactional", clients=("client",), wait_s=WAIT_S
)
def transactional(order: str, amount: int, memo: str, client: Client, tx: Any) -> Receipt:
    """Once, in one transaction with the ledger's entry."""
    return client.write(order, tx)


def _pipeline(kind: str, stage: Any) -> Pipeline[Any]:
    return Pipeline(
        f"orders_{kind}",
        [stage],
        inputs={"order": str, "amount": int, "memo": str},
        outputs=stage,
        deps={"ledger": Ledger, "client": object},
    )


PIPELINES: Final[Mapping[str, Pipeline[Any]]] = MappingProxyType(
    {
        kind: _pipeline(kind, stage)
        for kind, stage in zip(KINDS, (plain, reconciled, keyed, transactional), strict=True)
    }
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one duplicate was told."""

    status: str
    """Of the run."""
    reason: str
    state: str
    """Of its node."""
    value: str
    """The whole output, as text; "" when there is none."""

    @property
    def is_unknown(self) -> bool:
        """True when the run says that nobody knows whether the effect happened."""
        return self.state == "unknown"


async def replied(pipeline: Pipeline[Any], runtime: Any, tenant: str, **inputs: Any) -> Reply:
    """Runs one duplicate to its end."""
    run = await pipeline.using(runtime=runtime, tenant=tenant).run(**inputs)
    reason = run.failures["placed"].reason if "placed" in run.failures else run.reason
    value = repr(run.output) if run.is_ok else ""
    return Reply(run.status, reason, run.nodes["placed"].state, value)


def duplicates(rng: Any, least: int, most: int) -> int:
    """How many times a key is asked for: mostly a few, now and then as many as there may be."""
    luck = rng.random()
    if luck < 0.97:
        return int(rng.randint(least, least + 1))
    return int(rng.randint(4, 20)) if luck < 0.995 else most
