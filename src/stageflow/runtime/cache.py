"""Values of stages that later runs may have: of one tenant each, bounded, dropped when too old.

A tenant's values are found by nobody else, not even where a body could not tell the tenants apart:
that a value is there already, and how fast it comes, would tell what others ask. Room is shared
fairly: it is always the tenant with most bytes whose oldest value goes, so one that fills the cache
drives out its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from stageflow.graph import Node, Source
from stageflow.model.bag import MISSING
from stageflow.model.errors import StageflowError
from stageflow.model.marks import reached
from stageflow.model.outputs import Allow, Block
from stageflow.model.values import content_hash

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver

ENTRY_BYTES = 256
"""What an entry weighs besides its value."""


class CacheKey(NamedTuple):
    """What makes two executions the same one."""

    tenant: str
    labels: tuple[str, ...]
    """Of what the stage takes, sorted."""
    function: Any
    """The body itself: two closures of one name are two."""
    version: str
    contract: str
    arguments: tuple[tuple[str, str], ...]
    """Parameters and the hashes of their contents."""


class _Entry(NamedTuple):
    value: Any
    """Canonical."""
    size_bytes: int
    stored_wall_s: float


@dataclass(slots=True)
class _Share:
    """What one tenant has."""

    entries: OrderedDict[CacheKey, _Entry] = field(default_factory=OrderedDict)
    """Least recently used first."""
    size_bytes: int = 0


class ResultCache:
    """The values kept by one runtime. Changed on its event loop only."""

    def __init__(self, *, entries_max: int, bytes_max: int) -> None:
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.hits = 0
        self.misses = 0
        self.dropped = 0
        """Values that went to make room; those that grew too old are not counted."""
        self._shares: dict[str, _Share] = {}
        self._entries = 0
        self._size_bytes = 0

    def __len__(self) -> int:
        return self._entries

    @property
    def size_bytes(self) -> int:
        """Encoded size of all values, and a little for each."""
        return self._size_bytes

    def get(self, key: CacheKey, *, ttl_s: float | None, now_wall_s: float) -> Any:
        """The canonical value, or MISSING."""
        share = self._shares.get(key.tenant)
        entry = None if share is None else share.entries.get(key)
        if share is None or entry is None:
            self.misses += 1
            return MISSING
        age_s = now_wall_s - entry.stored_wall_s
        if ttl_s is not None and not 0 <= age_s < ttl_s:  # a clock set back is no youth
            self._remove(key.tenant, key)
            self.misses += 1
            return MISSING
        share.entries.move_to_end(key)
        self.hits += 1
        reached("result_reused")
        return entry.value

    def put(self, key: CacheKey, value: Any, *, size_bytes: int, now_wall_s: float) -> None:
        """Keeps a canonical value, in the place of an older one; what is too large is not kept."""
        size = size_bytes + ENTRY_BYTES
        if size > self.bytes_max or self.entries_max < 1:
            return
        share = self._shares.setdefault(key.tenant, _Share())
        if key in share.entries:
            self._remove(key.tenant, key)
            share = self._shares.setdefault(key.tenant, share)
        share.entries[key] = _Entry(value, size, now_wall_s)
        share.size_bytes += size
        self._size_bytes += size
        self._entries += 1
        while self._entries > self.entries_max or self._size_bytes > self.bytes_max:
            tenant = max(self._shares, key=lambda name: self._shares[name].size_bytes)
            self._remove(tenant, next(iter(self._shares[tenant].entries)))
            self.dropped += 1

    def forget(self, tenant: str) -> None:
        """Drops everything that is kept for a tenant."""
        share = self._shares.pop(tenant, None)
        if share is not None:
            self._entries -= len(share.entries)
            self._size_bytes -= share.size_bytes

    def _remove(self, tenant: str, key: CacheKey) -> None:
        share = self._shares[tenant]
        entry = share.entries.pop(key)
        share.size_bytes -= entry.size_bytes
        self._size_bytes -= entry.size_bytes
        self._entries -= 1
        if not share.entries:
            del self._shares[tenant]


def found(driver: Driver, node: Node) -> Any:
    """The kept value of what `node` is about to do, or MISSING; then its key is remembered, for
    `keep`."""
    stage = node.stage
    assert stage is not None and stage.cache is not None, "asked for cached stages only"
    if not driver.runtime.shares_deps(driver, node):
        return MISSING
    key = key_of(driver, node)
    now_s = driver.runtime.clock.wall_s()
    value = driver.runtime.cache.get(key, ttl_s=stage.cache.ttl, now_wall_s=now_s)
    if value is MISSING:
        driver.cache_keys[node.index] = key
    else:  # a value that is given again is no younger for it, also after an attempt that failed
        driver.cache_keys.pop(node.index, None)
    return value


def keep(driver: Driver, node: Node, frozen: Any, raw: Any, payload: bytes | None) -> None:
    """Keeps an accepted value under the key that `found` looked for."""
    key = driver.cache_keys.pop(node.index, None)
    if key is None:
        return
    size = _size_bytes(node, frozen, raw, payload)
    if size is not None:
        now_s = driver.runtime.clock.wall_s()
        driver.runtime.cache.put(key, frozen, size_bytes=size, now_wall_s=now_s)


def key_of(driver: Driver, node: Node) -> CacheKey:
    """Whose execution of `node` this is, and of what."""
    stage = node.stage
    assert stage is not None
    return CacheKey(
        tenant=driver.tenant,
        labels=tuple(sorted(driver.taken_labels(node.index))),
        function=stage.function,
        version=stage.version,
        contract=node.contract.hash,
        arguments=tuple(_hashes(driver, node).items()),
    )


def _hashes(driver: Driver, node: Node) -> Mapping[str, str]:
    """Hash of each argument that has a value, by parameter; deps are the runtime's own."""
    hashes = {}
    for argument in node.arguments:
        if argument.source is Source.NODE:
            value = driver.bag.values[argument.ref]
        elif argument.source is Source.INPUT:
            value = driver.inputs.get(argument.ref, MISSING)
        else:
            continue
        if value is not MISSING:
            hashes[argument.parameter] = content_hash(value)
    return hashes


def _size_bytes(node: Node, frozen: Any, raw: Any, payload: bytes | None) -> int | None:
    """Of the value, encoded; None for what is not to be kept."""
    if node.gates:
        # What a guard puts in a value's place, and what it asks of one run's loop, are that run's.
        return len(raw.reason) if isinstance(raw, Block) else 0 if isinstance(raw, Allow) else None
    if payload is not None:
        return len(payload)
    try:
        return len(node.contract.encode(frozen))
    except StageflowError:  # of a type that only this process knows: no bound could be kept
        return None
