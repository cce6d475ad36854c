"""Real processes beside simulations: a command of its own, which tells in lines of JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...history import History

SAID_MAX = 2_000
"""Characters of what a command that failed has said."""


def beside(
    history: History, folder: Path, command: Sequence[str], simulate: Callable[[], None]
) -> list[dict[str, Any]]:
    """Simulates while `command` runs; what it told, a dict for each line.

    A command that fails is recorded as `broken`, with what it said. Its output lies in `folder`.
    """
    with (folder / "errors").open("w+b") as errors, (folder / "out").open("w+b") as out:
        rounds = subprocess.Popen(command, stdout=out, stderr=errors)
        try:
            simulate()
            rounds.wait()
        finally:
            rounds.terminate()
            rounds.wait()
    if rounds.returncode:
        said = (folder / "errors").read_text("utf-8", errors="replace")
        history.record("broken", said=said[-SAID_MAX:] or f"status {rounds.returncode}")
    # A line that its death cut short is left out.
    return [json.loads(line) for line in (folder / "out").read_text("utf-8").split("\n")[:-1]]
