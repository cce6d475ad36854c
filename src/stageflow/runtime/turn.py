"""A run that is a turn of a session waits until its turn comes, and is told what it sees."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stageflow.graph import Plan
from stageflow.journal.store import RUNNING, SUSPENDED, EndedTurn, LineTurn, LoadedRun
from stageflow.journal.turns import in_the_way
from stageflow.model.errors import JournalError, RunError
from stageflow.model.record import Record, RecordType
from stageflow.model.session import PastTurn, Seen, Window
from stageflow.runtime.past import on_record, plan_finder

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver
    from stageflow.runtime.runtime import Runtime
    from stageflow.runtime.sessions import Arrival

LOOK_AFTER_S = 0.005
"""After this a turn that waits for one of another process looks again: twice as long each time, up
to `LOOK_EVERY_S`. Turns of one runtime wake each other."""
LOOK_EVERY_S = 0.25
PART = 16
"""Turns that are read from the journal at a time, until the window is full."""


async def come(driver: Driver, turn: Arrival) -> bool:
    """See Arrival.come."""
    cancelled = False
    timer = None
    if driver.deadline_in_s is not None:
        # Armed again when the run opens: waiting is part of its time.
        timer = driver.loop.call_at(
            driver.started_s + driver.deadline_in_s,
            lambda: driver.cancel("timeout", status="failed"),
        )
    try:
        if driver.history is None:
            turn.enter()
        else:
            cancelled = await driver.whole(_enter(driver, turn))
        wait_s = LOOK_AFTER_S
        while driver.asked is None and not turn.has_begun and not cancelled:
            try:
                await turn.until(lambda: turn.may_try or driver.asked is not None)
                if driver.asked is None:
                    await _tried(driver, turn)
                if driver.asked is None and not turn.has_begun:
                    await turn.pause(wait_s)
                    wait_s = min(2 * wait_s, LOOK_EVERY_S)
            except asyncio.CancelledError:
                cancelled = True
        if driver.history is not None and not turn.has_begun:
            cancelled = await driver.whole(_begin(driver, turn, number=0)) or cancelled
    finally:
        if timer is not None:
            timer.cancel()
    return cancelled


def seen_before(records: tuple[Record, ...]) -> tuple[int, int] | None:
    """The number under which a recorded turn began first, and how many turns it saw then."""
    for record in records:
        if record.type is RecordType.TURN and record.data["turn"]:
            return record.data["turn"], record.data["sees"]
    return None


async def seen_by(driver: Driver, loaded: LoadedRun) -> Seen | None:
    """What this recorded turn saw, or for a child the turn that it is part of; None when that has
    not begun."""
    header = loaded.header
    assert driver.history is not None and header.session is not None
    journal = driver.history.journal
    while header.parent is not None:
        loaded = await journal.load(header.parent)
        header = loaded.header
    before = seen_before(loaded.records)
    return None if before is None else await _seen_again(driver, before)


async def past_turns(
    runtime: Runtime,
    key: tuple[str, str],
    *,
    before: int | None,
    limit: int,
    plan: Plan | None,
) -> list[PastTurn]:
    """Turns of a session, by tenant and name, that ended ok, the latest first."""
    now = await runtime.needs_journal().turns(*key, before=before, limit=limit)
    plan_of = plan_finder(plan)
    return [on_record(one.number, await runtime.load(one.run), plan_of) for one in now.ended]


async def _enter(driver: Driver, turn: Arrival) -> None:
    """Puts the run on record, in the order of arrival; begins at once when nobody is before it."""
    history = driver.history
    assert history is not None
    if driver.recovered:
        driver.restate_end()
        driver.scheduler.turn()
        history.held = history.taken(driver)
        return
    await turn.until(lambda: turn.may_enter)
    try:
        driver.first = driver.start_scheduler()
        records = history.taken(driver)
        if turn.may_try and driver.asked is None:
            if not _is_ready(turn):
                await _look(driver, turn)
            if turn.line.is_fresh:
                await driver.open_deps()
                seen = turn.line.seen(turn.window)
                numbered = _numbered(records, turn.line.begun + 1, len(seen.turns))
                try:
                    await history.create(driver, numbered)
                except JournalError as refused:
                    _check_is_wait(refused)
                    turn.line.is_fresh = False
                else:
                    turn.begin()
                    driver.session = seen
                    return
        await history.create(driver, records[:1])
        history.held = records[1:]
    finally:
        turn.enter()


async def _tried(driver: Driver, turn: Arrival) -> None:
    """The first of this runtime's turns tries to begin. It may have to wait on, or to end."""
    if any(other.has_begun for other in turn.line.arrivals if other is not turn):
        # Perhaps it is over on record, and still cleans up: what it gave is not known here before
        # it leaves, which wakes this one.
        return
    if driver.history is None:
        if await _opened(driver, turn):
            driver.session = turn.line.seen(turn.window)
            turn.begin()
        return
    if not _is_ready(turn):
        blocker = await _look(driver, turn)
        if blocker is not None and blocker.run in turn.line.cut_off:
            await driver.whole(_closed(driver, turn, blocker.run))
        elif blocker is not None and blocker.status == SUSPENDED:
            turn.refusal = _suspended(turn, blocker)
            driver.cancel("session_suspended")
    # To its end, also when the caller is cancelled: a turn that began must be known to have.
    if (
        turn.line.is_fresh
        and await _opened(driver, turn)
        and await driver.whole(_begin(driver, turn, number=turn.line.begun + 1))
    ):
        raise asyncio.CancelledError


async def _opened(driver: Driver, turn: Arrival) -> bool:
    """Opens the driver's deps before its turn is taken; False when that failed, and the run shall
    end without one."""
    try:
        if driver.plan.deps and await driver.whole(driver.open_deps()):
            raise asyncio.CancelledError
    except Exception as error:  # a dep's own: the run is ended, and on record, before it is raised
        turn.refusal = error
        driver.cancel("deps", status="failed")
        return False
    return True


async def _begin(driver: Driver, turn: Arrival, *, number: int) -> None:
    """Writes what was held back, unless others come first; `number` 0 never begins."""
    history = driver.history
    assert history is not None
    seen = turn.line.seen(turn.window)
    if number and turn.saw is not None:
        seen = await _seen_again(driver, turn.saw)
    try:
        await history.write_held(driver, _numbered(history.held, number, len(seen.turns)))
    except JournalError as refused:
        _check_is_wait(refused)
        turn.line.is_fresh = False
        return
    if number:
        turn.begin()
        driver.session = seen


async def _closed(driver: Driver, turn: Arrival, run: str) -> None:
    """Ends a run of this runtime whose own end the journal did not take when it was due."""
    history, runtime = driver.history, driver.runtime
    assert history is not None
    turn.line.cut_off.pop(run, None)
    if run in runtime.active:
        return  # somebody has resumed it
    try:
        loaded = await history.journal.claim(run)
    except JournalError as error:
        if error.code != "journal.run_is_live":
            raise
        return  # another process has, which is why its end was refused here
    if loaded.status == RUNNING:
        seq, now_s = loaded.records[-1].seq + 1, runtime.clock.wall_s()
        data = {"status": "failed", "reason": "engine"}
        ended = Record(RecordType.RUN_ENDED, seq, wall_s=now_s, data=data)
        await history.journal.append(run, loaded.epoch, (ended,))


def _is_ready(turn: Arrival) -> bool:
    """Whether what is known suffices to begin, if nobody else has had a turn."""
    return turn.line.is_fresh and turn.line.window == turn.window


async def _look(driver: Driver, turn: Arrival) -> LineTurn | None:
    """Learns from the journal where the session stands. Returns who is in the way."""
    line, window = turn.line, turn.window
    assert driver.history is not None
    journal = driver.history.journal
    tenant, session = line.key
    limit = min(PART, window.turns + 1)
    now = await journal.turns(tenant, session, limit=max(limit, 1))
    blocker = in_the_way(driver.identity.run, now.line)
    line.begun = now.begun
    line.is_fresh = blocker is None
    if blocker is None:
        known = {past.run: past for past in line.turns}
        found: list[PastTurn] = []
        ended = now.ended
        is_full = False
        while ended and not is_full:
            for one in ended:
                found.append(await _past(driver, one, known))
                is_full = not _fits(found, window)
                if is_full:
                    break
            else:
                ended = (
                    await journal.turns(tenant, session, before=ended[-1].number, limit=PART)
                ).ended
        line.fill(found, window, is_whole=True)
    return blocker


async def _seen_again(driver: Driver, before: tuple[int, int]) -> Seen:
    """What a turn saw that began before a crash: turns below its number that ended ok are for ever
    the same."""
    number, count = before
    assert driver.history is not None and driver.identity.session is not None
    tenant, session = driver.identity.tenant, driver.identity.session
    journal = driver.history.journal
    now = await journal.turns(tenant, session, before=number, limit=count + 1)
    turns = [await _past(driver, one, {}) for one in now.ended[:count]]
    return Seen(session, tuple(reversed(turns)), len(now.ended) <= count)


async def _past(driver: Driver, one: EndedTurn, known: dict[str, PastTurn]) -> PastTurn:
    past = known.get(one.run)
    if past is None:
        assert driver.history is not None
        loaded = await driver.runtime.load(one.run)
        past = on_record(one.number, loaded, plan_finder(driver.plan))
    return past


def _fits(newest_first: list[PastTurn], window: Window) -> bool:
    size = sum(past.size_bytes for past in newest_first)
    return len(newest_first) <= window.turns and size <= window.bytes


def _numbered(records: tuple[Record, ...], number: int, sees: int) -> tuple[Record, ...]:
    return tuple(
        record._replace(data={"turn": number, "sees": sees})
        if record.type is RecordType.TURN
        else record
        for record in records
    )


def _check_is_wait(refused: JournalError) -> None:
    """Raises every refusal but that others come first."""
    if refused.code != "journal.not_its_turn":
        raise refused


def _suspended(turn: Arrival, blocker: LineTurn) -> RunError:
    return RunError(
        "session.suspended",
        f"session {turn.line.key[1]!r} has a turn that waits for a person or a decision",
        expected="a session whose last turn is over",
        got=f"run {blocker.run}, which is suspended",
        fix="answer it with runtime.signal, resume or cancel it, or take another session",
    )
