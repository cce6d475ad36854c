"""Messages between the stages of one run: `ctx.send` and `ctx.receive`.

A message is a value that a stage gives under a key, once, before it has ended. It is a durable step
of its sender, so it is there again after a crash, and a stage that is executed again sends it to
nobody a second time. Receiving takes nothing away: whoever asks later gets the same value. Which of
several senders were first is a durable step of the receiver.

A receiver waits until enough senders have sent. When too few are left that could, it is told so;
when it would wait for somebody who waits for it, that is a deadlock (`stageflow.runtime.waits`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from stageflow.contracts import contract_of
from stageflow.graph import Stage
from stageflow.model.errors import RunError
from stageflow.model.values import thaw
from stageflow.runtime.arguments import check_count, check_key, wrong_argument
from stageflow.runtime.durable import StepResult, do_step
from stageflow.runtime.waits import Hope, Waiter
from stageflow.scheduler import NodeState

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver

_SENT = "message "
_FIRST = "first of "
_CONTRACT = contract_of(Any)
ADVICE = "no two stages that wait for each other's messages before they send their own"


class Mailbox:
    """Who waits for messages in one run."""

    __slots__ = ("_unfinished", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}
        """Sender to those who wait for it, perhaps among others."""
        self._unfinished = -1
        """Nodes of the run that had not ended at the last look."""

    @contextmanager
    def told(self, driver: Driver, senders: Collection[int]) -> Iterator[asyncio.Future[None]]:
        """A future that is done when one of `senders` has sent something, or some node ended."""
        future: asyncio.Future[None] = driver.loop.create_future()
        for sender in senders:
            self._waiting.setdefault(sender, set()).add(future)
        try:
            yield future
        finally:
            for sender in senders:
                self._waiting[sender].discard(future)
                if not self._waiting[sender]:
                    del self._waiting[sender]

    def sent(self, sender: int) -> None:
        """Wakes those who wait for it."""
        for future in self._waiting.get(sender, ()):
            if not future.done():
                future.set_result(None)

    def look(self, driver: Driver) -> None:
        """After an event: wakes those whose hope may have gone with a node that ended."""
        scheduler = driver.scheduler
        if self._waiting and scheduler.unfinished != self._unfinished:
            for sender in self._waiting:
                status = scheduler.status[sender]
                if status.is_terminal or status is NodeState.WAITING:
                    self.sent(sender)
        self._unfinished = scheduler.unfinished


def message(value: Any) -> Any:
    """The step whose result a message is."""
    return value


async def send(driver: Driver, number: int, key: str, value: Any) -> None:
    """Gives `value` under `key`; durable when it returns."""
    check_key(key, "ctx.send('vote', value)")
    node = driver.nodes[number]
    if node.guards:
        raise RunError(
            "message.guarded",
            f"stage {node.name!r} is guarded, and its guards would not see what it sends",
            pipeline=driver.plan.name,
            node=node.name,
            field=key,
            expected="a sender that nobody guards",
            fix="send from a stage before it, or return the value and let stages take it",
        )
    await do_step(driver, number, _SENT + key, message, (value,), {})
    if driver.mailbox is not None:
        driver.mailbox.sent(number)


async def receive(
    driver: Driver,
    number: int,
    key: str,
    senders: Sequence[Stage[..., Any] | str],
    need: int | None,
) -> dict[str, Any]:
    """Values by sender: of all `senders`, or of the first `need` that have sent."""
    node = driver.nodes[number].name
    check_key(key, "ctx.receive('vote', 'critic')")
    if need is not None:
        check_count("need", need)
    for sender in senders:
        if not isinstance(sender, (Stage, str)):
            expected = "stages, or their names"
            raise wrong_argument("senders", expected, sender, "ctx.receive('vote', 'critic')")
    numbers = [driver.plan.find(sender) for sender in senders]
    enough = len(numbers) if need is None else need
    if not numbers or len(set(numbers)) < len(numbers) or not 1 <= enough <= len(numbers):
        raise RunError(
            "message.senders",
            f"stage {node!r} asks for messages of {enough} of {len(numbers)} stages",
            pipeline=driver.plan.name,
            node=node,
            field=key,
            expected="different stages, at least one, and need=1 or more and at most all of them",
            fix="ctx.receive('vote', 'a', 'b', 'c', need=2)",
        )
    names = [driver.nodes[each].name for each in numbers]
    if enough == len(numbers):
        await _arrived(driver, number, key, numbers, enough)
        first = names
    else:

        async def first_of(key: str, names: list[str], need: int) -> list[str]:
            found = await _arrived(driver, number, key, numbers, need)
            return [driver.nodes[each].name for each in found]

        step = f"{_FIRST}{enough} {key} {' '.join(names)}"
        first = await do_step(driver, number, step, first_of, (key, names, enough), {})
    values = {}
    for name in first:
        result = _message_of(driver, driver.plan.index[name], key)
        assert result is not None, "what was received is on record"
        if result.is_encoded:
            result.value, result.is_encoded = _CONTRACT.decode(result.value), False
        values[name] = thaw(result.value)
    return values


def _message_of(driver: Driver, sender: int, key: str) -> StepResult | None:
    """Of its latest revision that sent one."""
    for revision in range(driver.scheduler.revision[sender], 0, -1):
        result = driver.steps_done.get((sender, revision), {}).get(_SENT + key)
        if result is not None and result.is_done:
            return result
    return None


async def _arrived(
    driver: Driver, number: int, key: str, senders: Sequence[int], need: int
) -> list[int]:
    """The first `need` of `senders`, in their order, that have sent; waits for them."""
    if driver.mailbox is None:
        driver.mailbox = Mailbox()
    task = asyncio.current_task()
    assert task is not None, "stages run in tasks"
    graph = driver.runtime.waits
    waits_for: list[int] = []
    wait_number = 0
    while True:
        have = [each for each in senders if _message_of(driver, each, key) is not None]
        if len(have) >= need:
            return have[:need]
        left = _hoped_for(driver, senders, key)
        missing = need - len(have)
        if len(left) < missing:
            raise _never(driver, number, key, [each for each in senders if each not in have])
        if left != waits_for:
            waits_for, wait_number = left, graph.new_number()
        names = ", ".join(driver.nodes[each].name for each in left)
        some = "" if missing == len(left) else f"{missing} of "
        with driver.mailbox.told(driver, left) as news:
            waiter = Waiter(
                driver,
                driver.nodes[number].name,
                f"message {key!r} of {some}{names}",
                ADVICE,
                partial(_hope, driver, senders, key, need, news),
            )
            with graph.waits(task, waiter, number=wait_number):
                await news


def _hoped_for(driver: Driver, senders: Sequence[int], key: str) -> list[int]:
    """Those who have not sent, and have not ended."""
    status = driver.scheduler.status
    return [
        each
        for each in senders
        if not status[each].is_terminal and _message_of(driver, each, key) is None
    ]


def _hope(
    driver: Driver, senders: Sequence[int], key: str, need: int, news: asyncio.Future[None]
) -> Hope | None:
    """What a receiver still waits for; None when it goes on as soon as it runs."""
    have = sum(_message_of(driver, each, key) is not None for each in senders)
    left = _hoped_for(driver, senders, key)
    if news.cancelled() or have >= need or have + len(left) < need:
        return None
    return Hope(frozenset(left), need - have)


def _never(driver: Driver, number: int, key: str, silent: Sequence[int]) -> RunError:
    ended = [each for each in silent if driver.scheduler.status[each].is_terminal]
    names = ", ".join(driver.nodes[each].name for each in ended)
    return RunError(
        "message.never",
        f"message {key!r} will not come: its senders have ended without it",
        pipeline=driver.plan.name,
        node=driver.nodes[number].name,
        field=key,
        expected="a message from each stage that is waited for, before it ends",
        got=f"the end of {names}",
        fix="send in every case, or wait for fewer: ctx.receive(..., need=1)",
    )
