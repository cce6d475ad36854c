"""Mistakes that a type checker must find before anything is built."""

from __future__ import annotations

from stageflow import Branch, Pipeline, Retry, agent, guard, route, transform


@transform
def length(text: str) -> int:
    return len(text)


@guard  # refused: mypy, pyright
def no_decision(length: int) -> bool:
    return True


@route(branches=("a",))  # refused: mypy, pyright
def no_branch(length: int) -> str:
    return "a"


@agent(timeot=3.0)  # refused: mypy, pyright
async def misspelt(length: int) -> str:
    return "x"


@agent(retry=3)  # refused: mypy, pyright
async def wrong_option(length: int) -> str:
    return "x"


@agent(when="a")  # refused: mypy, pyright
async def wrong_when(length: int) -> str:
    return "x"


Retry(attempts="3")  # refused: mypy, pyright
Branch(1)  # refused: mypy, pyright

pipeline = Pipeline("typed", [length], inputs={"text": str}, outputs=length)


async def use() -> None:
    run = await pipeline.run(text="x")
    wrong: str = run.output  # refused: mypy, pyright
    also_wrong: str = run[length]  # refused: mypy, pyright
    run[3]  # refused: mypy, pyright
    length.named(7)  # refused: mypy, pyright
    pipeline.using(window=3)  # refused: mypy, pyright
    pipeline.using(request_key=7)  # refused: mypy, pyright
    pipeline.using(sesion="s")  # refused: mypy, pyright
    del wrong, also_wrong
