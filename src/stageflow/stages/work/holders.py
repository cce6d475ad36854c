"""Who holds a claim, and whether it lives: a process, by its pid and start time."""

from __future__ import annotations

import json
import uuid
from typing import Protocol

from stageflow.journal.store import Owner


class Holders(Protocol):
    """Names of holders, each used for one claim."""

    def new(self) -> str:
        """A name that nobody else has or will have."""
        ...

    def is_alive(self, holder: str) -> bool | None:
        """Whether whoever has that name still runs; None when nobody here can tell."""
        ...


class ProcessHolders:
    """Implements Holders: a claim is held by this process, and dies with it.

    Another host's processes can't be seen from here; their leases tell.
    """

    def new(self) -> str:
        owner = Owner.this_process()
        return json.dumps([owner.host, owner.boot, owner.pid, owner.started, uuid.uuid4().hex])

    def is_alive(self, holder: str) -> bool | None:
        host, boot, pid, started, _ = json.loads(holder)
        return Owner(host, boot, pid, started).is_alive()
