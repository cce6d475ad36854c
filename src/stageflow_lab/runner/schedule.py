"""Running many requests, a few at a time, in one thread that waits on all their pipes."""

from __future__ import annotations

import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from ..results import Result
from ..verdict import Verdict
from .process import Supervised
from .request import Request

_TICK_S: Final = 0.1


class Watcher(Protocol):
    """Told what happens. `tick` comes about ten times a second."""

    def started(self, running: Supervised) -> None:
        """A child process was started."""

    def tick(self, running: Sequence[Supervised]) -> None:
        """Time has passed."""

    def finished(self, running: Supervised, result: Result) -> None:
        """A result is there."""


def run_all(
    requests: Iterable[Request], *, at_once: int, watcher: Watcher
) -> tuple[list[Result], bool]:
    """Run every request; the results in the order of the requests, and whether Ctrl-C came.

    After Ctrl-C or SIGTERM the finished results stand, and every other request gives `unknown:
    interrupted`.
    """
    waiting = deque(enumerate(requests))
    running: dict[int, Supervised] = {}
    results: dict[int, Result] = {}
    interrupted = False
    try:
        with _sigterm_like_ctrl_c():
            while waiting or running:
                while waiting and len(running) < at_once:
                    place, request = waiting.popleft()
                    running[place] = Supervised(request)
                    watcher.started(running[place])
                _wait(running.values())
                watcher.tick(tuple(running.values()))
                for place in [place for place, each in running.items() if each.finished]:
                    each = running.pop(place)
                    results[place] = each.end()
                    watcher.finished(each, results[place])
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for place, each in running.items():
            if not each.finished:
                each.stop(Verdict.UNKNOWN, "interrupted")
            results[place] = each.end()
            watcher.finished(each, results[place])
    for place, request in waiting:
        results[place] = _never_ran(request)
    return [results[place] for place in sorted(results)], interrupted


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """What ends a lab that runs unattended ends its loads, too."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(running: Iterable[Supervised]) -> None:
    """Read whatever comes within one tick, and end what is over its limit."""
    with selectors.DefaultSelector() as selector:
        for each in running:
            for descriptor in each.descriptors:
                selector.register(descriptor, selectors.EVENT_READ, each)
        if selector.get_map():
            for key, _ in selector.select(timeout=_TICK_S):
                key.data.read(key.fd)
        else:
            # Every pipe is closed but a child lives on: nothing to wait on but its end.
            time.sleep(_TICK_S)
    for each in running:
        each.expire()


def _never_ran(request: Request) -> Result:
    return Result(
        row=request.found.row,
        verdict=Verdict.UNKNOWN,
        reason="interrupted before it started",
        size=request.size,
        seed=request.seed,
        scale=request.scale,
        sabotage=request.sabotage,
        folders=request.folders,
    )
