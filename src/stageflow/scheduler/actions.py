"""What the scheduler asks of its driver."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class Launch(NamedTuple):
    """Start the attempt that the scheduler's state holds for this node.

    It may start once every record written so far is durable; `follows` of the step says which.
    """

    node: int


class Wait(NamedTuple):
    """Call `retry_due(node, token)` after `wait_s` seconds."""

    node: int
    token: int
    wait_s: float


class Ask(NamedTuple):
    """Show a person what this node shows; call `expired(node, token)` after `expires_s` seconds."""

    node: int
    token: int
    expires_s: float | None


class Stop(NamedTuple):
    """Cancel this running attempt; its end is reported like any other."""

    node: int
    token: int


class End(NamedTuple):
    """The run is over. `status` is final; nothing is running."""

    status: str
    reason: str


Action: TypeAlias = Launch | Wait | Ask | Stop | End
