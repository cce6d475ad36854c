"""The cases of WORK-006: every template, and each again in the ways in which errors are wrapped."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from .error_bodies import bodies
from .error_cases import Case, ServiceError, Template
from .error_hosts import services
from .error_platforms import platforms
from .error_standards import standards
from .error_unseen import unseen
from .error_vendors import vendors
from .error_words import wordings


class ToolFailed(Exception):
    """What an agent's tool makes of whatever went wrong below it."""


def _as_error(subject: Any) -> BaseException:
    return subject if isinstance(subject, BaseException) else ServiceError(subject)


def _chained(error: BaseException, depth: int) -> BaseException:
    for level in range(depth):
        outer = ToolFailed(f"level {level} failed")
        outer.__cause__ = error
        error = outer
    return error


def _in_context(error: BaseException) -> BaseException:
    outer = RuntimeError("while that was handled")
    outer.__context__ = error
    return outer


WRAPS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "as it is": lambda subject: subject,
        "raised": _as_error,
        "caused": lambda subject: _chained(_as_error(subject), 1),
        "caused thrice": lambda subject: _chained(_as_error(subject), 3),
        "in context": lambda subject: _in_context(_as_error(subject)),
        "grouped": lambda subject: ExceptionGroup("tasks", [_plain(_as_error(subject))]),
        "argument": lambda subject: ToolFailed("tool", _as_error(subject)),
    }
)
"""Ways in which an error reaches the stage boundary, by name."""


def _plain(error: BaseException) -> Exception:
    assert isinstance(error, Exception), "only errors are among the cases"
    return error


def templates() -> Sequence[Template]:
    """All of them, seen and unseen."""
    return [*standards(), *bodies(), *wordings(), *services(), *platforms(), *vendors(), *unseen()]


def cases(count: int, rng: random.Random) -> Iterator[Case]:
    """`count` cases: every template about equally often, its wraps drawn without repetition while
    that can be."""
    all_of = templates()
    # However few they are, every source is among them.
    first = {each.family: each for each in rng.sample(all_of, len(all_of))}
    drawn = [(template, rng.choice(list(WRAPS))) for template in first.values()]
    while len(drawn) < count:
        names = {id(each): rng.sample(list(WRAPS), len(WRAPS)) for each in all_of}
        for turn in range(len(WRAPS)):
            order = rng.sample(all_of, len(all_of))
            drawn += [(template, names[id(template)][turn]) for template in order]
            if len(drawn) >= count:
                break
    for template, wrap in drawn[:count]:
        yield Case(template, wrap, _wrapped(template, wrap))


def _wrapped(template: Template, wrap: str) -> Callable[[], Any]:
    return lambda: WRAPS[wrap](template.make())
