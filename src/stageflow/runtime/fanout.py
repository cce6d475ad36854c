"""Many children of one stage, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from stageflow.runtime import children
from stageflow.runtime.arguments import check_count, check_function, checked_items

if TYPE_CHECKING:
    from stageflow.runtime.context import Context
    from stageflow.runtime.outcome import Run
    from stageflow.runtime.pipeline import Pipeline

O = TypeVar("O")  # noqa: E741


async def mapped(
    ctx: Context,
    pipeline: Pipeline[O],
    items: Iterable[Mapping[str, Any]],
    *,
    key: Callable[[Mapping[str, Any]], str] | None,
    at_once: int,
) -> list[O]:
    """Outputs in the order of the items. `at_once` loops share one iterator, so that a lazy source
    is read as fast as children finish."""
    check_count("at_once", at_once, least=1)
    if key is not None:
        check_function(key, "ctx.map(pipeline, items, key=lambda item: item['id'])")
    outputs: dict[int, O] = {}
    stage = asyncio.current_task()  # what it holds is held while its children work
    source: Iterator[tuple[int, Mapping[str, Any]]] = enumerate(checked_items(items))

    async def serve() -> None:
        for place, item in source:
            name = str(place) if key is None else key(item)
            run: Run[O] = await children.run_child(
                ctx._driver, ctx._node, pipeline, name, item, ctx.deadline_s, caller=stage
            )
            outputs[place] = run.value_or_raise()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(serve())
    except BaseExceptionGroup as group_error:
        raise _first(group_error) from None
    return [outputs[place] for place in range(len(outputs))]


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
