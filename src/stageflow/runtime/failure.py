"""What went wrong in a stage, kept as data: bounded, and the same after a restart."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from typing import Any

from stageflow.model.errors import BROKEN, StageflowError

_FRAMES_MAX = 12
_MESSAGE_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt. Holds no live exception, so nothing keeps frames or values alive."""

    path: tuple[str, ...]
    """Node names from the run down to where it happened; longer than one through ctx.run."""
    reason: str
    """Code: `error:ValueError`, `timeout`, `contract.violated`, `failed`, `crash_loop`, ..."""
    type: str
    """Exception class; "" when the stage said so without raising."""
    message: str
    traceback: str = ""
    """At most 12 frames of the innermost exception and its direct cause."""
    data: Any = None
    """What the stage gave as StageOutput.fail(..., data=...)."""
    retries: bool = False
    """Whether the node where it happened tries again by a policy of its own: then no stage above
    that it failed through does."""
    final: str = ""
    """Why there was no further attempt, though the policy had some left: `permanent`, `unplaced`
    (nothing says what the error means, and repeating an effect without a key may do it twice),
    `nested` (the
    failure is of a run that the stage started, which has policies of its own), `deadline` (none
    could have ended before it), `budget` (that of the dependency is used up); "" otherwise."""

    @property
    def node(self) -> str:
        """The node of the run itself; `path[-1]` is the innermost."""
        return self.path[0] if self.path else ""

    def __str__(self) -> str:
        path = self.path
        if len(path) > 8:
            path = (*path[:4], f"({len(path) - 8} more)", *path[-4:])
        where = " > ".join(path)
        what = f"{self.type}: {self.message}" if self.type else self.message or self.reason
        lines = [f"{where}: {what} [{self.reason}]"]
        if self.traceback:
            lines.append(self.traceback.rstrip())
        return "\n".join(lines)


class StageFailed(StageflowError):
    """Raised where a failed run's missing output is asked for, and by ctx.run for its child.

    `failure` says what happened, `original` is the stage's exception when it happened in this
    process.
    """

    def __init__(
        self,
        failure: Failure,
        *,
        status: str,
        pipeline: str,
        original: BaseException | None = None,
    ) -> None:
        self.failure = failure
        self.status = status
        self.original = original
        super().__init__(
            "run.stage_failed",
            f"the run ended as {status}: {failure}",
            pipeline=pipeline,
            node=failure.node,
        )


def beside(failure: Failure, first: Failure, fallback: str) -> Failure:
    """The failure of a fallback's value under its node's name; what the node's own stage said
    stays."""
    message = f"{first.message} (then its fallback {fallback!r}: {failure.message})"
    return replace(first, message=message[:_MESSAGE_MAX])


def failure_of(error: BaseException, node: str) -> Failure:
    """The failure that an exception stands for."""
    if isinstance(error, StageFailed):
        inner = error.failure
        return replace(inner, path=(node, *inner.path))
    message = str(error)
    if isinstance(error, StageflowError):
        reason = "deadlock" if error.code == "run.deadlock" else error.code
        trace = _trace(error) if error.code == BROKEN else ""
        return Failure((node,), reason, type(error).__name__, message[:_MESSAGE_MAX], trace)
    return Failure(
        (node,),
        f"error:{type(error).__name__}",
        type(error).__name__,
        message if len(message) <= _MESSAGE_MAX else message[:_MESSAGE_MAX] + "...",
        _trace(error),
    )


def _trace(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/stageflow/runtime/" not in f.filename.replace("\\", "/")]
    text = "".join(traceback.format_list(ours[-_FRAMES_MAX:]))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        said = str(cause)
        text += f"  caused by {type(cause).__name__}: {said[:200]}\n"
    return text
