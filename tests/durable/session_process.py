"""A program that tests run: one process with turns of a session, or with one keyed request.

`python session_process.py FOLDER turns NAME COUNT` starts COUNT turns of session "s" at once;
`... hold NAME` starts one and keeps it at work until it is killed; `... ask NAME` asks under a key.
Each prints a JSON line; `FOLDER/log` has a line for each stage that begins and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from stageflow import Context, Pipeline, Runtime, Window, enrich

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


def log(line: str) -> None:
    """One line in a file that all processes share."""
    handle = os.open(FOLDER / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


@enrich
async def answer(text: str, ctx: Context) -> list[str]:
    """What it sees; held turns never come back by themselves."""
    log(f"begin {text}")
    seen = [] if ctx.session is None else [turn.inputs["text"] for turn in ctx.session]
    if text.startswith("hold") and ctx.attempt == 1:
        log(f"saw {json.dumps(seen)}")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(0.002)
    log(f"end {text}")
    return seen


chat = Pipeline("chat", [answer], inputs={"text": str}, outputs=answer)


async def main(what: str, name: str, count: int) -> None:
    async with Runtime(journal=FOLDER / "runs.db") as runtime:
        bound = chat.using(runtime=runtime, window=Window(turns=1000))
        if what == "ask":
            run = await bound.using(request_key="k").run(text=name)
            sys.stdout.write(json.dumps({"run": run.id, "status": run.status}) + "\n")
            return
        turns = bound.using(session="s")
        if what == "hold":
            await turns.using(run_id=f"held-{name}").run(text=f"hold {name}")
            return
        handles = [turns.start(text=f"{name}{number}") for number in range(count)]
        runs = [await handle for handle in handles]
        sys.stdout.write(json.dumps([[run.status, run.output] for run in runs]) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 1))
