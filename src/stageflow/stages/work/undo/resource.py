"""What an undo log can put back: anything that is read and written by key, under a condition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from stageflow.model.errors import BuildError, EffectError
from stageflow.model.forms import form_of
from stageflow.stages.work.undo.records import State


class Changed(Exception):
    """A place was not as it was expected to be, and so was left as it is."""


class WriteRefused(EffectError):
    """A resource will not have this content at this key, now or later; nothing was changed."""


class FormLost(Exception):
    """A recorded content has no equal in the form that its resource has now."""


class Resource(Protocol):
    """A table, a folder, a service. Safe for any number of tasks.

    `stageflow.stages.work.undo.conformance.check_resource` executes what is promised here.
    """

    @property
    def name(self) -> str:
        """Under which undo logs know it, also in another process and another year."""
        ...

    @property
    def in_flight_s(self) -> float:
        """How long after a write began it may still happen, though whoever made it has died."""
        ...

    async def read(self, key: str) -> State:
        """What is at `key`."""
        ...

    async def write(self, key: str, content: bytes | None, expected: State) -> State:
        """Makes `content` what is at `key` and returns what is there then, if it is as `expected`
        up to the moment of the write; else raises Changed and has changed nothing.

        `content` is in the form of `expected`; None: nothing is to be there. Raises WriteRefused
        for what the resource will never take. When it is cancelled or raises anything else, it
        may have happened.
        """
        ...

    async def encoded(self, value: Any, before: State) -> bytes | None:
        """What `write` will leave at a key where `before` is, when somebody wants `value` there."""
        ...

    def value(self, content: bytes | None) -> Any:
        """A content as people see it."""
        ...

    def adapted(self, content: bytes | None, then: str, now: str) -> bytes | None:
        """The content of form `then` as it would be in form `now`, had nobody touched it. FormLost
        when it can't be told, or something of it has no place there any more."""
        ...


@dataclass(frozen=True, slots=True)
class Irreversible:
    """A kind of act that nobody can take back, such as a letter or a message to a queue.

    `send` is given the payload, and a key that is the same when the act is tried again. Raises
    BuildError `undo.option`.
    """

    name: str
    send: Callable[[bytes, str], Awaitable[object]]
    keyed: bool = False
    """Whether the receiver recognises the key, so that asking it twice is asking it once."""

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name):
            raise wrong_option("Irreversible", "name", "text of at least one character", self.name)
        if not callable(self.send):
            raise wrong_option("Irreversible", "send", "an async function", self.send)


def wrong_option(what: str, field: str, expected: str, got: object) -> BuildError:
    """A part of a resource or of a final act is nothing of its kind."""
    return BuildError(
        "undo.option",
        f"{what} has a value for {field} that it can't have",
        field=field,
        expected=expected,
        got=form_of(got),
        fix="docs/undo.md shows each of them",
    )
