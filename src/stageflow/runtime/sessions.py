"""The lines of sessions in one runtime: who arrived when, whose turn it is, what it will see.

With a journal the journal decides whose turn it is, since other processes may have turns of the
same session (stageflow.journal.turns). Here turns of one runtime queue up before it, so that only
the first of them asks, and what it will see is kept, so that most turns need not look. Without a
journal this is all there is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stageflow.journal.store import RUNNING, LoadedRun
from stageflow.model.errors import JournalError, RunError
from stageflow.model.marks import reached
from stageflow.model.session import PastTurn, Seen, Window
from stageflow.runtime.limits import Limits
from stageflow.runtime.past import ended_here, sizes_of, visible_in
from stageflow.runtime.turn import come, seen_before, seen_by

if TYPE_CHECKING:
    from stageflow.runtime.driver import Driver


class SessionLine:
    """One session of one tenant, as this runtime knows it."""

    __slots__ = (
        "arrivals",
        "begun",
        "cut_off",
        "entering",
        "is_fresh",
        "is_whole",
        "key",
        "recovered",
        "turns",
        "window",
    )

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.arrivals: OrderedDict[Arrival, None] = OrderedDict()
        """Turns of this runtime that are not over, in order of arrival."""
        self.entering: OrderedDict[Arrival, None] = OrderedDict()
        """Those of them that the journal does not know yet."""
        self.recovered: dict[Arrival, None] = {}
        """Those of them that were taken up from the journal."""
        self.cut_off: dict[str, None] = {}
        """Runs whose end could not be written: the journal holds them for live, and nobody drives
        them. At most one for each time that the journal failed a turn of this line."""
        self.begun = 0
        """Turns that have begun, as far as is known here."""
        self.turns: deque[PastTurn] = deque()
        """Those that ended ok, the latest last, as far as they fit `window`."""
        self.window: Window | None = None
        """None when nothing has been looked up."""
        self.is_whole = True
        """False when older turns than those in `turns` ended ok."""
        self.is_fresh = False
        """True when nobody but this runtime is known to have had a turn since the last look."""

    def fill(self, newest_first: list[PastTurn], window: Window, *, is_whole: bool) -> None:
        """What was looked up takes the place of what was known."""
        self.turns = deque(reversed(newest_first))
        self.is_whole = is_whole
        self.cut(window)

    def cut(self, window: Window) -> None:
        """Lets the oldest turns go until the rest fits."""
        self.window = window
        size = sum(turn.size_bytes for turn in self.turns)
        while self.turns and (len(self.turns) > window.turns or size > window.bytes):
            size -= self.turns.popleft().size_bytes
            self.is_whole = False

    def seen(self, window: Window) -> Seen:
        """What the next turn sees through `window`."""
        turns, is_whole = self.turns, self.is_whole
        if window != self.window:
            other = SessionLine(self.key)
            other.fill(list(reversed(turns)), window, is_whole=is_whole)
            turns, is_whole = other.turns, other.is_whole
        return Seen(self.key[1], tuple(turns), is_whole)


class Arrival:
    """One run's place in its session's line, from its start to its end."""

    __slots__ = (
        "_future",
        "_sessions",
        "has_begun",
        "is_recovered",
        "line",
        "number",
        "refusal",
        "saw",
        "window",
    )

    def __init__(self, sessions: Sessions, line: SessionLine, window: Window) -> None:
        self._sessions = sessions
        self.line = line
        self.window = window
        self.has_begun = False
        self.number = 0
        """In order of beginning; 0 until then."""
        self.saw: tuple[int, int] | None = None
        """For a run that had begun before a crash: the number it had then, and how many turns it
        saw."""
        self.is_recovered = False
        """True for a run that has its place in the journal's line from before."""
        self.refusal: Exception | None = None
        """Why the run was ended before it began, to be raised when that is on record."""
        self._future: asyncio.Future[None] | None = None

    async def come(self, driver: Driver) -> bool:
        """Returns when the turn has begun, or when the run shall end without; True when the caller
        was cancelled meanwhile. What the journal must know is on record then."""
        return await come(driver, self)

    def told(self, driver: Driver) -> dict[str, Any]:
        """What the end of the run tells about its values."""
        return visible_in(driver)

    def leave_after(self, driver: Driver) -> None:
        """The driver's run is over, however it ended: the next turn may begin."""
        is_ok = driver.end is not None and driver.end.status == "ok" and driver.bug is None
        if (driver.end is None or driver.bug is not None) and _is_ours(driver):
            self.line.cut_off[driver.identity.run] = None
        self.leave(ended_here(driver, self.number) if is_ok and self.has_begun else None)

    @property
    def may_try(self) -> bool:
        """Whether no other turn of this runtime is certainly before it. A recovered run has another
        place in the journal's line than here: only the journal knows who is before it."""
        return self.is_recovered or next(iter(self.line.arrivals), None) is self

    @property
    def may_enter(self) -> bool:
        return next(iter(self.line.entering), None) is self

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Waits for what another arrival, or `wake`, will make true."""
        while not is_so():
            self._future = asyncio.get_running_loop().create_future()
            try:
                await self._future
            finally:
                self._future = None

    async def pause(self, wait_s: float) -> None:
        """Waits that long, or until `wake`."""
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer = loop.call_later(wait_s, self.wake)
        try:
            await self._future
        finally:
            timer.cancel()
            self._future = None

    def wake(self) -> None:
        """Lets it look again."""
        future = self._future
        if future is not None and not future.done() and not future.get_loop().is_closed():
            future.set_result(None)

    def enter(self) -> None:
        """The journal knows this turn now: the next one may follow."""
        if self.line.entering.pop(self, True) is None:
            _wake_first(self.line.entering)

    def begin(self) -> None:
        """Its turn has come."""
        self.line.begun += 1
        self.number = self.line.begun
        self.has_begun = True

    def leave(self, ended: PastTurn | None = None) -> None:
        """The turn is over; `ended` when later ones shall see it. A second call does nothing."""
        line = self.line
        self.enter()
        if self not in line.arrivals:
            return
        del line.arrivals[self]
        line.recovered.pop(self, None)
        if ended is not None:
            line.turns.append(ended)
            line.cut(self.window)
        _wake_first(line.arrivals)
        for other in line.recovered:
            other.wake()
        self._sessions.forget_idle()


class Sessions:
    """Every line of one runtime. At most `Limits.sessions` are kept; the one that was used least
    recently and has no turn now is forgotten first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lines: OrderedDict[tuple[str, str], SessionLine] = OrderedDict()

    def arrive(self, tenant: str, session: str, window: Window, *, is_new: bool = True) -> Arrival:
        """A place at the end of the session's line. RunError when a bound is reached.

        One that is not new was counted when it was, and has its place in the journal's line.
        """
        key = (tenant, session)
        line = self._lines.get(key)
        if line is None:
            self.forget_idle(room=1)
            if len(self._lines) >= self._limits.sessions:
                raise RunError(
                    "session.too_many",
                    "too many sessions of this runtime have a turn at once",
                    expected=f"at most {self._limits.sessions} sessions",
                    fix="wait for some of the turns, or raise Limits(sessions=...)",
                )
            line = self._lines[key] = SessionLine(key)
        self._lines.move_to_end(key)
        if is_new and len(line.arrivals) >= self._limits.turns_waiting:
            raise RunError(
                "session.full",
                f"session {session!r} has too many turns that wait",
                expected=f"at most {self._limits.turns_waiting} turns that are not over",
                fix="wait for some of them, or raise Limits(turns_waiting=...)",
            )
        arrival = Arrival(self, line, window)
        line.arrivals[arrival] = None
        if is_new:
            line.entering[arrival] = None
        else:
            arrival.is_recovered = True
            line.recovered[arrival] = None
        return arrival

    async def take_up(self, driver: Driver, loaded: LoadedRun, window: Window) -> None:
        """For a recovered run of a session: it waits for its turn again, or is part of one."""
        header, history = loaded.header, driver.history
        assert header.session is not None and history is not None
        if header.parent is not None or loaded.status != RUNNING:
            driver.session = await seen_by(driver, loaded)
        else:
            history.sizes = sizes_of(loaded.records)
            driver.turn = turn = self.arrive(header.tenant, header.session, window, is_new=False)
            turn.saw = seen_before(loaded.records)

    def known(self, tenant: str, session: str) -> SessionLine | None:
        """The session's line; None when this runtime has none of it."""
        return self._lines.get((tenant, session))

    def forget_idle(self, *, room: int = 0) -> None:
        """Keeps within the bound and leaves `room`, as far as sessions without a turn go."""
        over = len(self._lines) + room - self._limits.sessions
        if over <= 0:
            return
        for key in [key for key, line in self._lines.items() if not line.arrivals][:over]:
            reached("session_forgotten")
            del self._lines[key]


def _is_ours(driver: Driver) -> bool:
    """Whether the journal holds the driver's run for this runtime's, as far as is known here."""
    bug, history = driver.bug, driver.history
    is_taken = isinstance(bug, JournalError) and bug.code == "journal.stale_owner"
    return history is not None and history.durable_seq > 0 and not is_taken


def _wake_first(arrivals: OrderedDict[Arrival, None]) -> None:
    first = next(iter(arrivals), None)
    if first is not None:
        first.wake()
