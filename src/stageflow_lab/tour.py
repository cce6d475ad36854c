"""`make lab`: the first rows measured, the example killed and resumed, and a report of it all."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import cli
from .errors import LabError
from .outage import Outage, available, stage_outage
from .report.terminal import Page

ROWS: Final = ("CORE-008", "DAG-006", "DAG-009", "CONTRACT-001")
QUESTION: Final = "How do I copy an object in Python?"


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes the tour; the exit code is that of the rows, or 1 when the resume broke a promise."""
    parser = argparse.ArgumentParser(prog="make lab", description=__doc__)
    parser.add_argument("--out", default="out", metavar="DIR", help="where the report goes")
    parser.add_argument("--question", default=QUESTION, help="what the example is asked")
    chosen = parser.parse_args(arguments)
    page, started, out = Page(sys.stdout), time.monotonic(), Path(chosen.out)

    _heading(page, f"1. Rows of the roadmap: {', '.join(ROWS)}")
    code = cli.main(["run", *ROWS])

    _heading(page, "2. The answer desk, killed half-way and resumed")
    if available(Path.cwd()):
        broken = _outage(page, out / "answer_desk", question=chosen.question)
        code = code or broken
    else:
        page.line("skipped: the example is in the source checkout; start from its root")

    _heading(page, "3. Report")
    cli.main(["report", "--html", str(out)])
    page.line(f"done in {time.monotonic() - started:.0f} s")
    return code


def _outage(page: Page, folder: Path, *, question: str) -> int:
    try:
        outage = stage_outage(Path.cwd(), folder, question=question, tell=Page(sys.stderr).line)
    except LabError as error:
        page.line(str(error))
        return 1
    _tell(page, outage, question=question)
    return 1 if outage.problems else 0


def _heading(page: Page, text: str) -> None:
    page.line()
    page.line(page.bold(text))
    page.stream.flush()


def _tell(page: Page, outage: Outage, *, question: str) -> None:
    page.line(f"{'NODE':<18} {'BODY STARTED':>12} {'ACCEPTED':>9}  BEFORE THE KILL")
    for node, accepted in outage.accepted.items():
        started = outage.started.get(node)
        seen = "-" if started is None else str(started)
        finished = "finished" if node in outage.finished_before else ""
        page.line(f"{node:<18} {seen:>12} {accepted:>9}  {finished}")
    page.line(f"answers filed: {outage.letters}")
    page.line()
    page.line(f"Q: {question}")
    for line in outage.answer.splitlines():
        margin = "   " + " " * (len(line) - len(line.lstrip()))
        for piece in textwrap.wrap(line.strip(), page.width - len(margin)) or [""]:
            page.line(margin + piece)
    page.line()
    if outage.problems:
        page.line("FAIL: " + "; ".join(outage.problems))
    else:
        page.line(
            f"pass: of {len(outage.accepted)} nodes, {len(outage.finished_before)} had finished "
            "and none of them ran again; one outcome a node, one answer filed"
        )


if __name__ == "__main__":
    sys.exit(main())
