"""Ordinary use of the framework, which must go on working under every sabotage."""

from __future__ import annotations

import asyncio

from .errors import LabError
from .world import World


def plain(world: World) -> None:
    """Run a pipeline of three stages and compare its output.

    Raises LabError `lab.plain` when the output is not what three plain functions give: then a
    sabotage broke everything, and a scenario failing under it shows nothing.
    """
    # Imported here: a scenario with its own `plain` must not need the whole runtime.
    from stageflow import Pipeline, enrich, transform

    @transform
    def words(text: str) -> list[str]:
        return text.split()

    @enrich
    async def lengths(words: list[str]) -> list[int]:
        return [len(word) for word in words]

    @transform
    def total(words: list[str], lengths: list[int]) -> str:
        return f"{len(words)} words, {sum(lengths)} letters"

    pipeline = Pipeline("plain", [words, lengths, total], inputs={"text": str}, outputs=total)
    run = asyncio.run(pipeline.run(text="the moon raises the tides"))
    if run.status != "ok" or run[total] != "5 words, 21 letters":
        raise LabError(
            "lab.plain",
            "a pipeline of three stages gives another result under this sabotage.",
            expected="status ok, 5 words, 21 letters",
            got=f"status {run.status}",
            fix="make the sabotage narrower, so that ordinary runs go on working under it",
        )
