"""A process in which another framework runs the same fan-out, when that framework is here.

Its package is imported under the same name as ours, so it can't be loaded beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ...runner.components import peer_folder

PEER: Final = "peer:stageflow-core==1.2.0"
LIMIT_S: Final = 60.0


class Peer:
    """The process; it runs a fan-out each time it is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Peer | None]:
        """The peer, or None when it is not installed; its process ends with the block."""
        folder = peer_folder(PEER)
        if folder is None:
            yield None
            return
        path = os.pathsep.join([str(folder), *(each for each in sys.path if each)])
        with subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("peer_fan_out.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        ) as process:
            try:
                yield cls(process)
            finally:
                process.kill()

    def cpu_s(self, width: int) -> float:
        """CPU seconds of one fan-out of no-op stages. RuntimeError when it did not give all."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{width}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        if len(answer) != 2 or int(answer[1]) != width:
            raise RuntimeError(f"the peer answered {answer} when it was asked for {width} stages")
        return float(answer[0])
