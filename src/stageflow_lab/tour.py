"""`make lab`: the first rows measured, the example killed, resumed and released, and a report."""

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
QUESTION: Final = "Why are default values shared between objects?"
"""The desk's guard sends the first answer to it back."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes the tour; the exit code is that of the rows, or 1 when the resume broke a promise."""
    parser = argparse.ArgumentParser(prog="make lab", description=__doc__)
    parser.add_argument("--out", default="out", metavar="DIR", help="where the report goes")
    parser.add_argument("--question", default=QUESTION, help="what the example is asked")
    chosen = parser.parse_args(arguments)
    page, started, out = Page(sys.stdout), time.monotonic(), Path(chosen.out)

    _heading(page, f"1. Rows of the roadmap: {', '.join(ROWS)}")
    code = cli.main(["run", *ROWS])

    _heading(page, "2. The answer desk: killed half-way, resumed, and released by an editor")
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
    before, after = outage.before, outage.after
    page.line(f"{'':<20}{'BEFORE THE KILL':^20}{'AFTER IT':^20}")
    page.line(f"{'STAGE OR STEP':<20}" + f"{'started':>10}{'finished':>10}" * 2)
    for name in outage.names:
        has_body = name in after.started
        started, done = before.started[name], before.count(name)
        again, finished = after.started[name] - started, after.count(name) - done
        page.line(
            f"{name:<20}{started if has_body else '-':>10}{done:>10}"
            f"{again if has_body else '-':>10}{finished:>10}"
        )
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
        done = sum(before.finished.values())
        page.line(
            f"pass: of {sum(after.finished.values())} results, {done} were on record at the kill "
            "and none of them was made again; one answer filed, and that once released"
        )


if __name__ == "__main__":
    sys.exit(main())
