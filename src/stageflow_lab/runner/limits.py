"""What a child process may use, set by itself before foreign code is imported."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from typing import Final

OPEN_FILES_MAX: Final = 65_536
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def set_process_limits(parent: int) -> None:
    """No core dump, many open files, and death together with the process `parent` (Linux)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(OPEN_FILES_MAX, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if sys.platform == "linux":
        # A lab that is killed outright must not leave its loads running.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be asked for
            os._exit(1)


def set_memory_limit(limit_bytes: int) -> None:
    """Bound the address space; what asks for more meets MemoryError."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
