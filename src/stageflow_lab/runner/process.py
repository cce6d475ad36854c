"""One child process under supervision: its pipes, its wall limit, its end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from ..results import Result
from ..verdict import Verdict
from .request import Request
from .stragglers import MARK, end_stragglers
from .versions import versions

IMPORT_LIMIT_S: Final = 60.0
OUTPUT_KEPT_BYTES: Final = 4 * 1024 * 1024
_CHUNK: Final = 65_536


class Supervised:
    """A request being run. Its owner waits on `descriptors`, calls `read` and `expire`, then `end`.

    `done`, `total` and `note` are the last progress told; `total` 0 means that none was told yet.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self._began = datetime.now(UTC)
        self.started = time.monotonic()
        self.done, self.total, self.note = 0, 0, "starting"
        self._limit_s = self._allowed_s = IMPORT_LIMIT_S
        self._limit_name = "import limit"
        self._stopped: tuple[Verdict, str] | None = None
        self._partial = b""
        self._mark = uuid.uuid4().hex
        self._files: dict[int, _Capture] = {}
        self._process, self._pipe = self._spawn()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """File descriptors to wait on; empty once the child and all its heirs closed them."""
        return tuple(self._files) + ((self._pipe,) if self._pipe >= 0 else ())

    @property
    def finished(self) -> bool:
        """True once the child process has ended."""
        return self._process.poll() is not None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def read(self, descriptor: int) -> None:
        """Take what is ready on one descriptor."""
        try:
            data = os.read(descriptor, _CHUNK)
        except OSError:
            data = b""
        if descriptor == self._pipe:
            if data:
                self._hear(data)
            else:
                os.close(self._pipe)
                self._pipe = -1
        elif data:
            self._files[descriptor].write(data)
        else:
            self._files.pop(descriptor).close()

    def expire(self) -> None:
        """Kill the group when the wall limit has passed."""
        if self._stopped is None and self.elapsed_s > self._limit_s:
            self.stop(Verdict.ERROR, f"{self._limit_name} of {self._allowed_s:g} s passed")

    def stop(self, verdict: Verdict, reason: str) -> None:
        """End the child now; its result gets this verdict and reason."""
        self._stopped = (verdict, reason)
        self._kill_group()

    def end(self) -> Result:
        """Close everything, end what was left running, and return the result."""
        self._kill_group()
        code = self._process.wait()
        leftover = end_stragglers(self._mark)
        for descriptor in self.descriptors:
            self._drain(descriptor)
        result = self._result(code)
        if leftover:
            what, was = ("process", "was") if leftover == 1 else ("processes", "were")
            note = f"{leftover} {what} outlived the load and {was} ended"
            result = replace(result, notes=(*result.notes, note))
        if not self.request.keep:
            shutil.rmtree(self.request.scratch, ignore_errors=True)
        return result

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int]:
        request = self.request
        request.scratch.mkdir(mode=0o700, parents=True)
        request.evidence.mkdir(parents=True, exist_ok=True)
        file = request.evidence / "request.json"
        request.write(file)
        ours, theirs = os.pipe()
        environment = {
            **os.environ,
            MARK: self._mark,
            "TMPDIR": str(request.scratch),
            "PYTHONHASHSEED": str(request.seed % 2**32),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        told = [str(file), str(theirs), str(os.getpid())]
        command = [sys.executable, "-m", "stageflow_lab.runner.child", *told]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs,),
                start_new_session=True,
                cwd=request.scratch,
                env=environment,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        for stream, name in ((process.stdout, "stdout.txt"), (process.stderr, "stderr.txt")):
            assert stream is not None
            self._files[stream.fileno()] = _Capture(stream, request.evidence / name)
        return process, ours

    def _hear(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            # A load may write to any descriptor it inherits; what is not ours is passed over.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if message["event"] == "ready":
            self._allowed_s = float(message["wall_limit_s"])
            self._limit_s = self.elapsed_s + self._allowed_s
            self._limit_name = "wall limit"
            self.note = "running"
        elif message["event"] == "progress":
            self.done, self.total = int(message["done"]), int(message["total"])
            self.note = str(message["note"])

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _drain(self, descriptor: int) -> None:
        """Take what is already there; an heir that still holds the pipe cannot make us wait."""
        os.set_blocking(descriptor, False)
        for _ in self._chunks(descriptor):
            pass
        if descriptor in self._files:
            self._files.pop(descriptor).close()
        elif self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _chunks(self, descriptor: int) -> Iterator[bytes]:
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, _CHUNK):
                if descriptor in self._files:
                    self._files[descriptor].write(data)
                yield data

    def _result(self, code: int) -> Result:
        request = self.request
        written = request.evidence / "outcome.json"
        if self._stopped is None and written.exists():
            return Result.from_json(json.loads(written.read_text("utf-8")))
        verdict, reason = self._stopped or (Verdict.ERROR, _death(code))
        if verdict is Verdict.ERROR and self.total:
            reason += f" at {self.done:,} of {self.total:,} {self.note}".rstrip()
        return Result(
            row=request.found.row,
            verdict=verdict,
            reason=reason,
            size=request.size,
            seed=request.seed,
            scale=request.scale,
            sabotage=request.sabotage,
            started=self._began.isoformat(timespec="seconds"),
            duration_s=round(self.elapsed_s, 3),
            versions=versions(),
            scenario_hash=request.found.text_hash(),
            folders=request.folders,
        )


class _Capture:
    """A child's output into a file, bounded; what goes beyond is counted and told."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._file = path.open("wb")
        self._left = OUTPUT_KEPT_BYTES
        self._dropped = 0

    def write(self, data: bytes) -> None:
        kept = data[: self._left]
        self._file.write(kept)
        self._left -= len(kept)
        self._dropped += len(data) - len(kept)

    def close(self) -> None:
        if self._dropped:
            self._file.write(f"\n[{self._dropped:,} more bytes were left out]\n".encode())
        self._file.close()
        self._stream.close()


def _death(code: int) -> str:
    if code >= 0:
        return f"the process ended with code {code} before it gave an outcome; see stderr.txt"
    with contextlib.suppress(ValueError):
        return f"the process died of {signal.Signals(-code).name}"
    return f"the process died of signal {-code}"
