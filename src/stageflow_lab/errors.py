"""What the lab refuses, as coded errors."""

from __future__ import annotations

from stageflow.model.errors import StageflowError


class LabError(StageflowError):
    """A row, a scenario, a sabotage or a stored result cannot be used as asked."""
