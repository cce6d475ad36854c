"""What a case of WORK-006 is: an error, or a response, and the kind that a person gave it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

Label = Literal["permanent", "transient", "throttled", "outcome-unknown"]
P: Final[Label] = "permanent"
T: Final[Label] = "transient"
R: Final[Label] = "throttled"
U: Final[Label] = "outcome-unknown"


@dataclass(frozen=True, slots=True)
class Template:
    """One thing to be sorted, of which cases are made."""

    family: str
    """`sqlstate`, `errno`, `http`, `grpc`, `driver`, `tls`, `body`, `misleading`, `wording`."""
    name: str
    label: Label
    make: Callable[[], Any]
    """A new error, or a response as a mapping."""
    unseen: bool = False
    """True when nothing of its source was looked at while the rules were made."""
    sent: bool | None = None
    """What the caller knows of the request, and tells."""
    cut_off: bool = False
    """A timeout, or a connection that broke, after the request was sent."""


@dataclass(frozen=True, slots=True)
class Case:
    """A template as it reaches the caller: as it is, or wrapped on its way."""

    template: Template
    wrap: str
    make: Callable[[], Any]


class ServiceError(Exception):
    """What a client that nobody knows raises for an answer that is no success: the answer is in
    attributes, as most clients have it."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(f"request failed with {answer['status']}")
        self.status_code = answer["status"]
        self.headers = answer.get("headers", {})
        self.body = answer.get("body")


class Odd(Exception):
    """Says nothing but its message."""


def saying(made: Callable[[str], Any], text: str) -> Callable[[], Any]:
    """Makes an error of that type with that message."""
    return lambda: made(text)


def copied(answer: dict[str, Any]) -> Callable[[], Any]:
    """Makes a response of its own each time."""
    return lambda: dict(answer)
