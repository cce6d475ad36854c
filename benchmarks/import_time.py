"""What `import stageflow` costs, beside importing asyncio, which every user of it pays anyway.

Processes of the two take turns (ABBA), so that a busy machine slows both; medians are compared.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 15


def seconds(program: str) -> float:
    """Wall seconds of a Python process that runs `program`."""
    before = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - before


def main() -> None:
    """Measures and prints."""
    subject, floor = "import stageflow", "import asyncio"
    seconds(subject)  # writes the .pyc files
    times: dict[str, list[float]] = {subject: [], floor: []}
    for round_ in range(ROUNDS):
        order = (subject, floor, floor, subject) if round_ % 2 else (floor, subject, subject, floor)
        for program in order:
            times[program].append(seconds(program))
    medians = {program: statistics.median(taken) for program, taken in times.items()}
    for program, median in medians.items():
        print(f"{program:<18} {median * 1000:6.1f} ms")
    print(f"ratio              {medians[subject] / medians[floor]:6.2f}")


main()
