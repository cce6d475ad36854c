"""A program that tests run, stop, cut off and kill: one journalled run of five stages.

`python shared_desk.py FOLDER JOURNAL start|resume RUN` says "holding" when its middle stage waits,
which it does until FOLDER/go exists, and ends by printing the run's status or the error's code.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from stageflow import Pipeline, Runtime, StageflowError, transform

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 4 else Path()


def ran(name: str) -> None:
    """One line in a file that outlives the process: the stage's body was entered."""
    with (FOLDER / "ran.txt").open("a", encoding="utf-8") as file:
        file.write(f"{name} {os.getpid()}\n")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@transform
async def first(text: str) -> str:
    ran("first")
    return text + "1"


@transform
async def second(first: str) -> str:
    ran("second")
    return first + "2"


@transform
async def held(second: str) -> str:
    ran("held")
    say("holding")
    while not (FOLDER / "go").exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)
    return second + "3"


@transform
async def fourth(held: str) -> str:
    ran("fourth")
    return held + "4"


@transform
async def last(fourth: str) -> str:
    ran("last")
    return fourth + "5"


DESK = Pipeline("shared", [first, second, held, fourth, last], inputs={"text": str}, outputs=last)


async def main(journal: str, does: str, run: str) -> None:
    try:
        async with Runtime(journal=journal) as runtime:
            if does == "start":
                ended = await DESK.using(runtime=runtime, run_id=run).run(text="0")
            else:
                ended = await runtime.resume(run, pipeline=DESK)
        say(f"{ended.status} {ended.output}")
    except StageflowError as error:
        say(error.code)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[2:]))
