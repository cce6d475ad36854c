"""The program of a child process: reads calls from its standard input, answers on its output."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import struct
import sys
from contextlib import suppress
from typing import Any, BinaryIO

from stageflow.model.errors import tamed
from stageflow.runtime.process_tree import become_reaper

_HEADER = struct.Struct("!Q")


class _Stage:
    """Whether a stage is running here, and was told to end."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.is_running = False
        self.was_told = False

    def tell(self, *_: object) -> None:
        """SIGTERM: the stage sees a SystemExit, once."""
        if os.getpid() != self.process:
            os._exit(128 + signal.SIGTERM)  # a fork of the stage's, not the stage
        if not self.was_told:
            self.was_told = True
            if self.is_running:
                raise SystemExit("the stage was told to end")


def main() -> None:
    """Serves until its parent closes the pipe. The stage's own prints go to standard error."""
    calls = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # what the stage starts must not read its calls
    os.close(nothing)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    become_reaper()
    stage = _Stage()
    signal.signal(signal.SIGTERM, stage.tell)
    while not stage.was_told:
        header = calls.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return
        (size,) = _HEADER.unpack(header)
        answer = _answer(stage, calls.read(size))
        if os.getpid() != stage.process:
            os._exit(0)  # a fork that ran on where the stage has returned
        if not stage.was_told:
            _send(answers, answer)
    _wait_for_all()


def _wait_for_all() -> None:
    """Until nothing that the stage started is left; the parent kills what does not end."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _answer(stage: _Stage, message: bytes) -> bytes:
    try:
        address, path, arguments = pickle.loads(message)
        sys.path[:] = path
        function = _function(address)
        stage.is_running = True
        try:
            result = function(**arguments)
        finally:
            stage.is_running = False
        return pickle.dumps((True, result))
    except BaseException as raised:  # the stage boundary: it travels back as data
        error = tamed(raised)
        try:
            return pickle.dumps((False, error))
        except Exception:  # an exception that can't be pickled is told by name
            told = RuntimeError(f"{type(error).__name__}: {str(error)[:500]}")
            return pickle.dumps((False, told))


def _function(address: str) -> Any:
    module, _, qualname = address.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return getattr(found, "function", found)  # the name holds the stage that decorates it


def _send(answers: BinaryIO, message: bytes) -> None:
    answers.write(_HEADER.pack(len(message)) + message)
    answers.flush()


if __name__ == "__main__":
    main()
