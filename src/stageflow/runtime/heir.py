"""Late values of a run that was taken up anew in the process that drove it before.

A thread that outlived its attempt comes back to the driver that started it. When the same process
has claimed the run again meanwhile, as a stage does that runs a child a second time, only the new
driver may write the run's journal: the value is told to that one, which refuses and records it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a driver asks its heir; an heir only hands on to one
    from stageflow.runtime.driver import Driver

_Late = tuple[int, int, int, Any, BaseException | None]


class Heir:
    """Who answers for one run. Between the claim and the new driver's start, values wait here."""

    __slots__ = ("_driver", "_waiting")

    def __init__(self) -> None:
        self._driver: Driver | None = None
        self._waiting: list[tuple[Driver, _Late]] = []

    def takes(self, teller: Driver, late: _Late) -> bool:
        """False when `teller` itself has to answer for what its thread brought."""
        if self._driver is teller:
            return False
        if self._driver is None:
            self._waiting.append((teller, late))
        else:
            self._driver.came_late(*late)
        return True

    def begins(self, driver: Driver) -> None:
        """The new driver starts: from now on it is told."""
        self._driver = driver
        waiting, self._waiting = self._waiting, []
        for _, late in waiting:
            driver.came_late(*late)

    def declines(self) -> None:
        """The run could not be taken up: each driver answers for its own threads."""
        waiting, self._waiting = self._waiting, []
        for teller, late in waiting:
            self._driver = teller
            teller.came_late(*late)
