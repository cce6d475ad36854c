"""What a runtime's pools have to give: units in all, units for each tenant, pools within pools.

A request stands in one line after another: its tenant's in the pool, the pool's, and so on in the
pools around it. It holds what the lines behind it have given while it waits in the next, so that
no line gives more than it has, and always in this order, so that requests for one pool never come
to wait for one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from stageflow.journal.pools import PER_TENANT
from stageflow.model.errors import BuildError, nearest


@dataclass(frozen=True, slots=True)
class Pool:
    """Units that the stages of one runtime share; a plain number is a pool without more.

    Of `units` one tenant has at most `per_tenant` at a time; None: as many as there are. Whoever
    takes units of it takes as many of the pool `within` too.
    """

    units: int
    per_tenant: int | None = None
    within: str | None = None


@dataclass(frozen=True, slots=True)
class SharedPool(Pool):
    """A pool that all processes share whose runtimes name it and keep it in one store."""


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """How much of a pool is out."""

    units: int
    held: int
    waiting: int
    """Requests that stand in the pool's line, or in a tenant's."""
    by_tenant: Mapping[str, int]
    """Units that tenants have of their share, or are about to have; of pools with `per_tenant`."""


class Layer(NamedTuple):
    """One line that a request for a pool stands in: the pool's, or its tenant's."""

    pool: str
    units: int
    is_shared: bool
    tenant: str | None = None

    @property
    def key(self) -> str:
        """Of this line among those of all pools and tenants."""
        return self.pool if self.tenant is None else f"{self.pool}{PER_TENANT}{self.tenant}"

    @property
    def name(self) -> str:
        """As it is told, to whichever tenant."""
        return self.pool if self.tenant is None else f"{self.pool} per tenant"


class Capacity:
    """The pools of one runtime as declared. Immutable.

    Raises BuildError `pool.units`, `pool.per_tenant`, `pool.within`.
    """

    def __init__(self, pools: Mapping[str, int | Pool]) -> None:
        self.pools: Mapping[str, Pool] = {
            name: each if isinstance(each, Pool) else Pool(each) for name, each in pools.items()
        }
        for name, pool in self.pools.items():
            _check_units(name, pool)
        for name in self.pools:
            _check_within(name, self.pools)

    def layers(self, name: str, tenant: str) -> tuple[Layer, ...]:
        """The lines for a request of `tenant`, in the order in which it stands in them."""
        return tuple(self._layers(name, tenant))

    def usage(self, lines: Mapping[str, tuple[int, int]]) -> dict[str, PoolUsage]:
        """By pool. `lines`: a layer's key to the units that are held and the requests that wait."""
        found = {}
        for name, pool in self.pools.items():
            held, waiting = lines.get(name, (0, 0))
            prefix = f"{name}{PER_TENANT}"
            tenants = {
                key.removeprefix(prefix): each
                for key, each in lines.items()
                if key.startswith(prefix)
            }
            waiting += sum(waits for _, waits in tenants.values())
            shares = {tenant: units for tenant, (units, _) in tenants.items()}
            found[name] = PoolUsage(pool.units, held, waiting, shares)
        return found

    def _layers(self, name: str, tenant: str) -> Iterator[Layer]:
        at: str | None = name
        while at is not None:
            pool = self.pools[at]
            is_shared = isinstance(pool, SharedPool)
            if pool.per_tenant is not None:
                yield Layer(at, pool.per_tenant, is_shared, tenant)
            yield Layer(at, pool.units, is_shared)
            at = pool.within


def _check_units(name: str, pool: Pool) -> None:
    kind = type(pool).__name__
    if not _is_count(pool.units):
        raise BuildError(
            "pool.units",
            f"pool {name!r} has no number of units",
            field=name,
            expected="an integer of 1 or more",
            got=repr(pool.units)[:80],
            fix=f"Runtime(pools={{{name!r}: {1 if kind == 'Pool' else 'SharedPool(1)'}}})",
        )
    if pool.per_tenant is not None and (
        not _is_count(pool.per_tenant) or pool.per_tenant > pool.units
    ):
        raise BuildError(
            "pool.per_tenant",
            f"a tenant can't have that many units of pool {name!r}",
            field=name,
            expected=f"an integer between 1 and {pool.units}, or None",
            got=repr(pool.per_tenant)[:80],
            fix=f"{kind}({pool.units}, per_tenant={max(1, pool.units // 2)})",
        )


def _check_within(name: str, pools: Mapping[str, Pool]) -> None:
    chain = [name]
    while (outer := pools[chain[-1]].within) is not None:
        if outer not in pools:
            close = nearest(str(outer), list(pools))
            raise BuildError(
                "pool.within",
                f"pool {chain[-1]!r} lies within one that there is not",
                field=chain[-1],
                expected="the name of another pool of this runtime",
                got=repr(outer)[:80],
                fix=f"did you mean {close!r}?" if close else "name the outer pool in pools= too",
            )
        if outer in chain:
            circle = " within ".join(repr(each) for each in (*chain[chain.index(outer) :], outer))
            raise BuildError(
                "pool.within",
                "pools lie within one another",
                field=name,
                expected="an outermost pool, which lies within none",
                got=circle[:200],
                fix="leave out one within=",
            )
        chain.append(outer)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
