"""Work that goes on in another process when the one that did it was killed by SIGKILL."""

from __future__ import annotations

import multiprocessing
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any, Final, TypeVar

LOOK_EVERY_S: Final = 0.005


class Lives(ABC):
    """One piece of work, from its first process to its last. Forks: its process has no threads."""

    def __init__(self) -> None:
        self.life = 0
        """Processes that have died at it."""
        self._process: BaseProcess | None = None

    @abstractmethod
    def body(self) -> tuple[Callable[[Any], None], Any]:
        """What the next process does, and what it is told; `life` is its number."""

    @abstractmethod
    def facts(self) -> Any:
        """What was seen, once it is over."""

    def remove(self) -> None:
        """Leaves nothing of it in a server."""
        return

    def begin(self) -> None:
        """Starts its next process."""
        target, job = self.body()
        self._process = multiprocessing.get_context("fork").Process(
            target=target, args=(job,), daemon=True
        )
        self._process.start()

    def is_over(self) -> bool:
        """Looks after the process: a killed one is followed by another."""
        process = self._process
        assert process is not None, "it has begun"
        if process.exitcode is None:
            return False
        process.join()
        if process.exitcode == -signal.SIGKILL:
            self.life += 1
            self.begin()
            return False
        if process.exitcode:
            raise SystemExit(f"a worker failed with {process.exitcode}")
        return True

    def end(self) -> None:
        """Nothing of it runs on."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self.remove()


L = TypeVar("L", bound=Lives)


def lived(make: Callable[[int], L], *, kills: int, most: int, at_once: int) -> Iterator[L]:
    """Pieces of work 0, 1, ..., at most `most`, until so many processes were killed; each when it
    is over. `facts` of it must be asked for before the next."""
    killed, number = 0, 0
    living: list[L] = []
    try:
        while True:
            wanted = killed < kills and number < most
            while wanted and len(living) < at_once:
                living.append(make(number))
                living[-1].begin()
                number += 1
            for each in list(living):
                if each.is_over():
                    killed += each.life
                    yield each
                    each.end()
                    living.remove(each)
            if not living and not wanted:
                return
            time.sleep(LOOK_EVERY_S)
    finally:
        for each in living:
            each.end()
