"""Every error a user meets: a stable code, the place, what was expected, and the mend.

Codes are `area.what`; each has a page `docs/errors/<code>.md`, held by tests/shape.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final


class StageflowError(Exception):
    """Base of all errors. `str(error)` is the whole message, at most 25 lines.

    Values of users never appear in it, only types, names and paths: messages reach logs.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        pipeline: str | None = None,
        node: str | None = None,
        field: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.pipeline = pipeline
        self.node = node
        self.field = field
        self.expected = expected
        self.got = got
        self.fix = fix
        super().__init__(self._text())

    @property
    def docs(self) -> str:
        """Where this code is explained, relative to the project's root."""
        return f"docs/errors/{self.code}.md"

    def _text(self) -> str:
        lines = [f"[{self.code}] {self.message}"]
        for label in ("pipeline", "node", "field", "expected", "got", "fix"):
            value = getattr(self, label)
            if value is not None:
                lines.append(f"  {label}: {value}")
        lines.append(f"  docs: {self.docs}")
        return "\n".join(lines)

    def at(
        self, *, pipeline: str | None = None, node: str | None = None, field: str | None = None
    ) -> StageflowError:
        """The same error with the place filled in where it was not known yet."""
        self.pipeline = self.pipeline if self.pipeline is not None else pipeline
        self.node = self.node if self.node is not None else node
        self.field = self.field if self.field is not None else field
        self.args = (self._text(),)
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.code, self.message, dict(self.__dict__))


class BuildError(StageflowError):
    """A pipeline or a stage was declared wrongly; raised before anything runs."""


class BuildErrors(BuildError):
    """Several mistakes of one pipeline, reported together. `errors` holds each."""

    def __init__(self, errors: Iterable[BuildError], *, pipeline: str | None = None) -> None:
        self.errors = tuple(errors)
        shown = "\n".join(str(error) for error in self.errors[:5])
        more = len(self.errors) - 5
        tail = f"\n... and {more} more" if more > 0 else ""
        super().__init__(
            "build.several", f"{len(self.errors)} mistakes:\n{shown}{tail}", pipeline=pipeline
        )


class InputError(StageflowError):
    """The arguments of one run do not fit what the pipeline declares."""


class ContractError(StageflowError):
    """A value does not fit the declared type of the place where it entered.

    `problems` holds (path, expected, got-type) per fault.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        problems: tuple[tuple[str, str, str], ...] = (),
        pipeline: str | None = None,
        node: str | None = None,
        field: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.problems = problems
        super().__init__(
            code,
            message,
            pipeline=pipeline,
            node=node,
            field=field,
            expected=expected,
            got=got,
            fix=fix,
        )


class ValueRefused(ContractError):
    """A value cannot be frozen, or could not be decoded again; `field` is its path."""


class RunError(StageflowError):
    """Something asked of a run cannot be given: an output that is missing, a status not reached."""


class EffectError(StageflowError):
    """The effect ledger refused: other parameters, still in flight, fenced off, not reachable."""


class EffectUnknown(EffectError):
    """Nobody knows whether an effect happened. Raised by WORK, it makes its node `unknown`: the run
    goes on elsewhere, and is suspended until somebody has found out."""


class SandboxError(StageflowError):
    """A sandbox refused: no policy, one that this machine can't hold, a start that failed."""


class ToolError(StageflowError):
    """What a tool was given, or gave, is refused: too large, no JSON, cut off, against its
    contract."""


class JournalError(StageflowError):
    """The journal refused: not found, live elsewhere, stale owner, damaged, newer schema."""


class SimulationError(StageflowError):
    """A simulated run met something that cannot be simulated: a thread, a socket, real time."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of `names`, or None when nothing is close."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return found[0] if found else None


def _rebuild(
    cls: type[StageflowError], code: str, message: str, state: dict[str, object]
) -> StageflowError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    error.args = (error._text(),)
    return error


BROKEN: Final = "stage.broken_error"
_LOOKED_AT_MAX: Final = 1_000
"""Errors of one chain or group that are looked at; what comes after them is told nowhere."""


def tamed(error: BaseException) -> BaseException:
    """An error of a stage as the engine may look at it: itself, or, when a method of its class
    raises, a StageflowError that stands for it, with its traceback."""
    try:
        _look_at(error)
    except Exception as raised:
        name, why = type(error).__name__, type(raised).__name__
        return StageflowError(
            BROKEN,
            f"the stage raised {name}, and looking at that raises {why}",
            expected="an exception whose text and attributes can be read",
            got=name,
            fix=f"mend __str__ and the like of {name}",
        ).with_traceback(BaseException.__dict__["__traceback__"].__get__(error))
    return error


def _look_at(error: BaseException) -> None:
    """All that is asked of an error that a stage raised, of its causes, and of those in a group."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo and len(seen) < _LOOKED_AT_MAX:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        str(each)
        isinstance(each, _Nobodys)
        each.with_traceback(each.__traceback__)
        iter(each.args)
        todo += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            todo += each.exceptions


class _Nobodys(Exception):
    """Never raised: whoever is compared with it looks at his own class."""
