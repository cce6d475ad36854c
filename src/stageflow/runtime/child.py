"""The program of a child process: reads calls from its standard input, answers on its output."""

from __future__ import annotations

import importlib
import os
import pickle
import struct
import sys
from typing import Any, BinaryIO

_HEADER = struct.Struct("!Q")


def main() -> None:
    """Serves until its parent closes the pipe. The stage's own prints go to standard error."""
    calls = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        header = calls.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return
        (size,) = _HEADER.unpack(header)
        _send(answers, _answer(calls.read(size)))


def _answer(message: bytes) -> bytes:
    try:
        address, path, arguments = pickle.loads(message)
        sys.path[:] = path
        return pickle.dumps((True, _function(address)(**arguments)))
    except BaseException as error:  # the stage boundary: it travels back as data
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
