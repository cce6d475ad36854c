"""What is running now: live lines in a terminal, occasional plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from ..results import Result
from ..runner.process import Supervised
from .figures import duration
from .terminal import Page

PLAIN_EVERY_S: Final = 10.0
_REDRAW_EVERY_S: Final = 0.2
_BAR_CELLS: Final = 16


class Display:
    """A Watcher that shows `total` runs on `page`; `noun` names one of them."""

    def __init__(self, page: Page, *, total: int, noun: str = "row") -> None:
        self._page = page
        self._total = total
        self._noun = noun
        self._finished = 0
        self._drawn = 0
        self._next_at = 0.0
        self._told: dict[int, float] = {}

    def started(self, running: Supervised) -> None:
        """A terminal shows it at the next redraw; elsewhere one line says so."""
        self._told[id(running)] = time.monotonic() + PLAIN_EVERY_S
        if not self._live:
            self._page.line(f"[{self._finished}/{self._total}] {title(running)} started")
            self._page.stream.flush()

    def tick(self, running: Sequence[Supervised]) -> None:
        """Redraw, or tell the progress of what has been silent for PLAIN_EVERY_S."""
        now = time.monotonic()
        if self._live:
            if now >= self._next_at:
                self._next_at = now + _REDRAW_EVERY_S
                self._draw(running)
            return
        for each in running:
            if now >= self._told[id(each)]:
                self._told[id(each)] = now + PLAIN_EVERY_S
                self._page.line(f"[{self._finished}/{self._total}] {self._state(each)}")
                self._page.stream.flush()

    def finished(self, running: Supervised, result: Result) -> None:
        """One lasting line: the verdict, the row, the time it took, why it is no pass."""
        self._finished += 1
        self._told.pop(id(running), None)
        self._erase()
        verdict = self._page.verdict(result.verdict, width=7)
        why = f"  {result.reason}" if result.reason is not None else ""
        text = f"{title(running)}  {duration(running.elapsed_s)}{why}"
        room = max(40, self._page.width - 18)
        shown = text if len(text) <= room else text[: room - 1] + "…"
        self._page.line(f"[{self._finished}/{self._total}] {verdict} {shown}")
        self._page.stream.flush()

    def close(self) -> None:
        """Remove the live lines."""
        self._erase()
        self._page.stream.flush()

    @property
    def _live(self) -> bool:
        return self._page.stream.isatty()

    def _draw(self, running: Sequence[Supervised]) -> None:
        self._erase()
        left = self._total - self._finished - len(running)
        lines = [self._state(each)[: self._page.width - 2] for each in running]
        if left > 0:
            lines.append(f"{left} {self._noun}{'s' if left != 1 else ''} waiting")
        for line in lines:
            self._page.line(f"  {line}")
        self._drawn = len(lines)
        self._page.stream.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._page.stream.write(f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0

    def _state(self, each: Supervised) -> str:
        elapsed = duration(each.elapsed_s)
        if each.total <= 0:
            return f"{title(each)}  {each.note}  {elapsed}"
        part = min(max(each.done / each.total, 0.0), 1.0)
        cells = int(part * _BAR_CELLS)
        bar = "█" * cells + "░" * (_BAR_CELLS - cells)
        count = f"{each.done:,}/{each.total:,} {each.note}".rstrip()
        return f"{title(each)}  {bar} {part:4.0%}  {count}  {elapsed}"


def title(running: Supervised) -> str:
    """The row, and in an audit what is done to it."""
    request = running.request
    if request.scale == 1.0 and request.sabotage is None:
        return request.found.row
    what = request.sabotage or "healthy"
    how = "plain use" if request.mode == "plain" else f"seed {request.seed}"
    return f"{request.found.row} {what}, {how}"
