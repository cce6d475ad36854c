"""What `import stageflow` costs beside what a bare asyncio program imports, in fresh processes.

    python benchmarks/imports.py [--repeats 15]

Floor: `import asyncio, dataclasses, typing, sqlite3`. Both include the interpreter's own start, and
load bytecode, as an installed package does.
Goal 1.5; nothing hangs on it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SUBJECTS = {
    "floor": "import asyncio, dataclasses, typing, sqlite3",
    "ours": "import stageflow",
}

ENVIRONMENT = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}


def milliseconds(program: str) -> float:
    """From the start of the process to its end."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, env=ENVIRONMENT)
    return (time.perf_counter() - begun) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    for repeat in range(options.repeats + 1):
        order = list(SUBJECTS) if repeat % 2 else list(reversed(SUBJECTS))
        for name in order:
            taken = milliseconds(SUBJECTS[name])
            if repeat:  # the first round writes bytecode and warms the disk's cache
                times[name].append(taken)
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["floor"], strict=True))
    for name, taken_ms in times.items():
        print(f"{name:<6}{statistics.median(taken_ms):>8.1f} ms  {SUBJECTS[name]}")
    print(f"ratio {ratio:.2f}, goal 1.5: {'met' if ratio <= 1.5 else 'missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
