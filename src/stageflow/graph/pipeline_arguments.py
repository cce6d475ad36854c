"""The forms of what `Pipeline(...)` is given, before anything in it is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stageflow.graph.stage import Stage
from stageflow.model.errors import BuildError
from stageflow.model.forms import form_of


def check_arguments(name: Any, stages: Any, *, inputs: Any, deps: Any) -> None:
    """BuildError `graph.argument` when one of a pipeline's arguments has another form."""
    if not isinstance(name, str) or not name:
        raise _of_another_form(str(name), "name", "text", name, "Pipeline('desk', [draft])")
    if isinstance(stages, (Stage, str)) or not isinstance(stages, Iterable):
        fix = f"Pipeline({name!r}, [draft, review])"
        raise _of_another_form(name, "stages", "a list of stages", stages, fix)
    for field, given in (("inputs", inputs), ("deps", deps)):
        if given is not None and not isinstance(given, Mapping):
            fix = f"{field}={{'text': str}}"
            raise _of_another_form(name, field, "a dict of names to types", given, fix)


def _of_another_form(pipeline: str, field: str, expected: str, got: Any, fix: str) -> BuildError:
    return BuildError(
        "graph.argument",
        f"{field} can't be given to a pipeline like this",
        pipeline=pipeline,
        field=field,
        expected=expected,
        got=form_of(got),
        fix=fix,
    )
