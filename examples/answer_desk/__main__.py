"""Asks the desk one question at the terminal, and you whether the letter may go out."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from stageflow import Run, Runtime

from . import Release, desk, filed, release


async def ask(text: str, model: str | None, *, unasked: bool) -> int:
    """Prints the answer and files it when it is released; 1 when there is none to print."""
    inputs = {"text": text} if model is None else {"text": text, "model": model}
    async with Runtime.local() as runtime:
        run = await desk.using(runtime=runtime).run(**inputs)
        if run.status == "suspended":
            run = await _released(runtime, run, unasked=unasked)
    if run.status == "ok":
        print(f"filed as {run[filed].file}")
        return 0
    print(f"{run.status} ({run.reason})", file=sys.stderr)
    if run.failure is not None:
        print(f"  {run.failure}", file=sys.stderr)
    for node in run.nodes.values():
        if node.reason:
            print(f"  {node.name}: {node.reason}", file=sys.stderr)
    return 1


async def _released(runtime: Runtime, run: Run[Any], *, unasked: bool) -> Run[Any]:
    """The run's end, after the person at the terminal has seen the letter and said a word."""
    (question,) = await runtime.waiting(run.id, pipeline=desk)
    print(question.shown.text)
    for source in question.shown.sources:
        print(f"  -- {source}")
    try:
        approved = unasked or _says_yes("file it? [y/n] ")
    except EOFError:
        print(f"\nlater: stageflow waiting {run.id}", file=sys.stderr)
        return run
    handle = await runtime.signal(
        run.id,
        release.name,
        Release(approved=approved),
        by="terminal",
        shown=question.shown_hash,
        pipeline=desk,
    )
    return await handle


def _says_yes(question: str) -> bool:
    """May block: the run is suspended, on disk, and no task of it waits for this terminal."""
    return input(question).strip().lower() in ("y", "yes")


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.answer_desk", description=__doc__)
    parser.add_argument("question")
    parser.add_argument("--model", help="a pydantic-ai model name; without one the desk is offline")
    parser.add_argument("--yes", action="store_true", help="file the answer without asking")
    chosen = parser.parse_args()
    return asyncio.run(ask(chosen.question, chosen.model, unasked=chosen.yes))


sys.exit(main())
