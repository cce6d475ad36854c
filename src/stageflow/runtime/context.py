"""What a stage may ask of its run: the `ctx` parameter."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from stageflow.graph import Stage
from stageflow.model.identity import Identity
from stageflow.model.session import Session
from stageflow.model.snapshot import ContextSnapshot
from stageflow.model.values import thaw
from stageflow.runtime import children, interim
from stageflow.runtime.durable import do_step
from stageflow.runtime.fanout import mapped
from stageflow.runtime.locks import WAIT_S
from stageflow.runtime.messages import receive, send
from stageflow.runtime.pools import Asker, JoinedLease, Lease
from stageflow.runtime.shared_pools import SharedLease

if TYPE_CHECKING:  # both refer to each other's instances; neither needs the other's class
    from stageflow.runtime.driver import Driver
    from stageflow.runtime.outcome import Run
    from stageflow.runtime.pipeline import Pipeline

O = TypeVar("O")  # noqa: E741
P = ParamSpec("P")
T = TypeVar("T")


class Context:
    """One attempt's view of its run. Ask for it with a parameter named `ctx` or annotated so."""

    __slots__ = ("_driver", "_node", "_numbers", "_version", "attempt", "deadline_s", "node")

    def __init__(self, driver: Driver, node: int, *, attempt: int, deadline_s: float) -> None:
        self._driver = driver
        self._node = node
        self.node: str = driver.plan.nodes[node].name
        self.attempt = attempt
        """1, 2, ... over all attempts of this revision, those before a crash included."""
        self.deadline_s = deadline_s
        """On the event loop's clock: when this attempt will be stopped."""
        self._version = driver.version
        self._numbers: dict[str, int] = {}

    @property
    def snapshot(self) -> ContextSnapshot:
        """The run as it was when this attempt began."""
        return self._driver.snapshot(self._version)

    @property
    def revision(self) -> int:
        """1, or more when a guard asked for the node's value again; the same for every attempt."""
        return self._driver.scheduler.revision[self._node]

    def number(self, what: str) -> int:
        """1, 2, ... for each call in this attempt that gives the same `what`.

        Names what a stage does in a fixed order: a stage that is executed again, after a crash or
        by a retry, gets the same numbers.
        """
        number = self._numbers[what] = self._numbers.get(what, 0) + 1
        return number

    @property
    def session(self) -> Session | None:
        """Earlier turns of the session that this run belongs to; None for a run of no session.

        The same for the whole run, its children, and after a crash.
        """
        seen = self._driver.session
        return None if seen is None else Session(seen)

    @property
    def identity(self) -> Identity:
        """Whose run this is; a private copy."""
        return self._driver.identity.copied()

    @property
    def labels(self) -> frozenset[str]:
        """Of all that this attempt was given; what it makes has them too."""
        return self._driver.taken_labels(self._node)

    @property
    def cancelled(self) -> bool:
        """True once this attempt is to stop: a sync stage in a long loop should look and return."""
        return self._driver.is_stopping(self._node, self.attempt)

    def heartbeat(self, details: Any = None) -> None:
        """A sign of life, for a stage with `heartbeat=`; from any thread, as often as you like.

        `details`, such as how far the work is, are there for the next attempt in this process.
        StageflowError `stage.no_heartbeat` from a stage that promises none.
        """
        interim.beat(self._driver, self._node, self.attempt, details)

    @property
    def heartbeat_details(self) -> Any:
        """What was given last with a heartbeat, by this attempt or one before it; else None."""
        kept = self._driver.beats.details(self._node)
        return None if kept is None else thaw(kept)

    @property
    def effect_key(self) -> str:
        """Key under which this node's effect is known outside: the same for every attempt.

        Derives from tenant, run and node only, so a sink that honours it applies an effect once.
        """
        identity = self._driver.identity
        digest = hashlib.blake2b(digest_size=16)
        for part in (identity.tenant, identity.run, self.node):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)  # no two lists of parts read alike
        return digest.hexdigest()

    def pool(
        self, name: str, units: int = 1, *, bound_s: float | None = None
    ) -> Lease | SharedLease | JoinedLease:
        """Units of a pool of the runtime for the length of an `async with`; waits until they are
        free, for no longer than this attempt may take. Higher priorities go first, equal ones in
        the order of asking; who holds units is as urgent as the most urgent who waits for them.

        A wait of more than `bound_s` (default `Limits(pool_wait_s=...)`) is told as an event
        WAIT_EXCEEDED that names the holders.

        For async stages. Raises RunError: at once `pool.unknown`, `pool.request`; when entered
        `pool.full`, and `run.deadlock` when this wait would close a cycle of stages that wait for
        one another. A stage that lets the latter through fails with reason `deadlock`. Of a shared
        pool `async with` gives a fence, a number that grows with every grant, and when it is left
        raises `pool.lease_lost` if the units were no longer this process's.
        """
        driver = self._driver
        asker = Asker(driver, self.node, driver.precedence(self._node))
        return driver.runtime.pools.lease(asker, name, units, bound_s=bound_s)

    async def send(self, key: str, value: Any) -> None:
        """Gives a message to the other stages of this run; they get it by `receive`.

        Once per key and revision: a durable step, so that it is there after a crash, and sending
        it again gives nobody another. Values are plain: after a crash they are read back without a
        declared type. RunError `resume.diverged` for another value under the same key,
        `message.guarded` from a stage that has guards.
        """
        await send(self._driver, self._node, key, value)

    async def receive(
        self, key: str, *senders: Stage[..., Any] | str, need: int | None = None
    ) -> dict[str, Any]:
        """Messages under `key` by the name of their sender; waits for all of `senders`, or for
        the first `need` of them, no longer than this attempt may take.

        Takes nothing away: whoever asks again gets the same. RunError `message.never` when too
        few senders are left that could send, `message.senders`, `run.unknown_node`;
        `run.deadlock` when this wait would never end, because those it waits for wait for it.
        """
        return await receive(self._driver, self._node, key, senders, need)

    async def hold(self, *names: str, wait_s: float = WAIT_S) -> None:
        """Holds names until the outermost run that this one is part of has ended, undone or done.

        Whoever reads by `clean_read` does not see what a holder may yet take back. Waits while
        another run holds one of them; all are taken at once, or none. Held already: does nothing.
        A suspended run holds on. RunError `lock.busy` after `wait_s`, `lock.no_store`.
        """
        await self._driver.runtime.locks.hold(self._driver, names, wait_s=wait_s)

    async def clean_read(
        self, read: Callable[[], Awaitable[T]], /, *names: str, wait_s: float = WAIT_S
    ) -> T:
        """What `read` gives when no saga of this tenant held any of `names` meanwhile.

        Calls it again until that is so: it must only read. RunError `lock.busy` after `wait_s`.
        """
        driver = self._driver
        tenant = driver.identity.tenant
        return await driver.runtime.locks.clean_read(tenant, names, read, wait_s=wait_s)

    async def emit(self, item: Any) -> None:
        """Sends an item to the run's stream; waits while the reader is behind.

        An item of a guarded node is held until its guards allow the node's value. Without a
        reader it goes nowhere; `run.chunks` has it should this attempt be cut off. From a sync
        stage use `emit_from_thread`.
        """
        interim.keep_item(self._driver, self._node, item)
        await interim.emit(self._driver, self._node, item)

    def emit_from_thread(self, item: Any) -> None:
        """`emit` for sync stages; blocks the thread while the reader is behind."""
        interim.keep_item(self._driver, self._node, item)
        interim.emit_from_thread(self._driver, self._node, item, self.attempt)

    async def run(self, pipeline: Pipeline[O], /, *, key: str, **inputs: Any) -> O:
        """Runs another pipeline as a child of this run and returns its output.

        The child has its own snapshot and bag, this run's tenant, session and correlation, and
        at most this attempt's time; it is cancelled, and has ended, before this stage is. `key`
        tells children of one stage apart: with a journal, a stage that is executed again gets the
        recorded output of a child that ended ok, and any other goes on where it stopped. Raises
        StageFailed when it does not end ok, JournalError `resume.diverged` when the inputs under
        one key have changed, StageflowError `run.key_in_use` for a key that is still running.
        """
        run: Run[O] = await children.run_child(
            self._driver, self._node, pipeline, key, inputs, self.deadline_s
        )
        return run.value_or_raise()

    async def undo(self, pipeline: Pipeline[Any], /, *, key: str) -> None:
        """Takes the child back that the undone step ran under `key`; returns when that is done.

        For the undo of a stage that calls `run` or `map`; `as_stage` has one by itself. Does
        nothing when there was no such child, or it is taken back already. RunError
        `run.undo_stuck` when a step of it needs a person, `run.not_an_undo` elsewhere.
        """
        await children.undo_child(self._driver, self._node, pipeline, key)

    async def map(
        self,
        pipeline: Pipeline[O],
        items: Iterable[Mapping[str, Any]],
        /,
        *,
        key: Callable[[Mapping[str, Any]], str] | None = None,
        at_once: int = 64,
    ) -> list[O]:
        """One child run per item (a dict of inputs), at most `at_once` side by side.

        Returns their outputs in the order of the items. `key` names each child for re-entry;
        without it the item's place does. The first child that does not end ok cancels the others
        and raises StageFailed. `items` may be lazy: no more than `at_once` are held.
        """
        return await mapped(self, pipeline, items, key=key, at_once=at_once)

    @overload
    async def step(
        self, key: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def step(
        self, key: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    async def step(self, key: str, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls `function` once per key and remembers its result, durably with a journal.

        When this stage runs again, after a crash or under its Retry policy, a step that completed
        returns its recorded result without being called. Without a crash between its end and its
        record it therefore runs once; otherwise at least once. Results pass through the function's
        return annotation, plain values when it has none. RunError `resume.diverged` when the same
        key is used for another call than before, `step.running` for two at a time.
        """
        return await do_step(self._driver, self._node, key, function, args, kwargs)
