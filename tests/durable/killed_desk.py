"""A program that a test runs: a desk of every kind, killed after each record, then resumed.

`python killed_desk.py FOLDER JOURNAL` prints one JSON line per kill; `... hold` starts a run, says
so, and waits to be killed. JOURNAL is an address as Runtime takes it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stageflow import (
    Allow,
    Branch,
    Context,
    Decision,
    EventType,
    Pipeline,
    Redact,
    Retry,
    Run,
    Runtime,
    Stream,
    Subscription,
    agent,
    enrich,
    first_of,
    guard,
    route,
    transform,
    work,
)
from stageflow.journal.opening import opened
from stageflow.journal.store import LoadedRun, RunHeader, RunSummary
from stageflow.model.record import Record, RecordType

FOLDER, JOURNAL = (Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 2 else (Path(), "")
SIDE = "ran.txt"
KEYS = FOLDER / "desk.key"


def ran(name: str) -> None:
    """One line in a file that outlives the process: the stage's body was entered."""
    handle = os.open(FOLDER / SIDE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{name}\n".encode())
    os.close(handle)


@transform
async def clean(text: str) -> str:
    ran("clean")
    return text.strip()


@guard
async def redacts(clean: str) -> Decision:
    ran("redacts")
    return Redact(clean.replace("42", "**"))


@guard
async def watches(clean: str) -> Decision:
    ran("watches")
    return Allow()


@enrich(retry=Retry(attempts=3, base_s=0.0))
async def notes(clean: str, ctx: Context) -> list[str]:
    ran("notes")
    await asyncio.sleep(0)
    if ctx.attempt == 1:
        raise ConnectionError
    return [clean, clean]


@route(branches=("short", "long"))
async def way(clean: str) -> Branch:
    ran("way")
    return Branch("short", confidence=0.5)


@transform(when=way.branch("short"))
def brief(clean: str) -> str:
    ran("brief")
    return clean[:5]


@transform(when=way.branch("long"))
async def wordy(clean: str) -> str:
    ran("wordy")
    return clean * 9


chosen = first_of(brief, wordy, name="chosen")


@work(keyed=True)
async def saved(chosen: str, ctx: Context) -> str:
    ran(f"saved {ctx.effect_key}")
    return chosen


@work
async def sent(saved: str, notes: list[str]) -> str:
    ran("sent")
    return f"{saved} {len(notes)}"


@agent
async def answer(sent: str) -> Stream[str]:
    ran("answer")
    for word in sent.split():
        yield word


DESK = Pipeline(
    "desk",
    [clean, redacts, watches, notes, way, brief, wordy, chosen, saved, sent, answer],
    inputs={"text": str},
    outputs=answer,
)


class Killing:
    """A journal whose process dies as soon as `last` records of its run are on disk."""

    def __init__(self, last: int) -> None:
        self._inner = opened(JOURNAL)
        self._last = last
        self._written = 0

    def _count(self, records: Sequence[Record]) -> None:
        self._written += len(records)
        if self._written >= self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    async def create(self, header: RunHeader, records: tuple[Record, ...]) -> int:
        epoch = await self._inner.create(header, records)
        self._count(records)
        return epoch

    async def append(self, run: str, epoch: int, records: tuple[Record, ...]) -> None:
        for record in records:  # one at a time, so that the kill may fall between any two
            await self._inner.append(run, epoch, (record,))
            self._count((record,))

    async def claim(self, run: str, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        return await self._inner.claim(run, rerun=rerun)

    async def load(self, run: str) -> LoadedRun:
        return await self._inner.load(run)

    async def runs(self, *, tenant: str | None = None, limit: int = 50) -> list[RunSummary]:
        return await self._inner.runs(tenant=tenant, limit=limit)

    async def close(self) -> None:
        await self._inner.close()


def killed(last: int) -> None:
    async def main() -> None:
        async with Runtime(journal=Killing(last), keys=KEYS) as runtime:
            await DESK.using(runtime=runtime, run_id=f"r{last}").run(text=" the 42 lines ")

    asyncio.run(main())


def counts() -> Counter[str]:
    path = FOLDER / SIDE
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


async def ownerless(runtime: Runtime, run: str) -> None:
    """Waits until the dead owner of `run` is known to be dead: a lease must expire first."""
    while any(  # noqa: ASYNC110 - the database's clock tells nobody
        one.live for one in await runtime.runs() if one.header.run == run
    ):
        await asyncio.sleep(0.02)


def resumed(last: int) -> dict[str, Any]:
    """What the next process finds, and what it makes of it."""

    async def main() -> dict[str, Any]:
        before = counts()
        name = f"r{last}"
        async with Runtime(journal=JOURNAL, keys=KEYS) as runtime:
            await ownerless(runtime, name)
            loaded = await runtime.load(name)
            done = {record.node for record in loaded.records if record.is_accepted}
            events = Subscription()
            run: Run[Any] = await runtime.resume(name, pipeline=DESK, events=(events,))
            suspended = run.status == "suspended"
            if suspended:
                assert run.reason == "effect_unknown" and run.nodes["sent"].state == "unknown"
                run = await runtime.resume(name, pipeline=DESK, rerun=["sent"])
            after = await runtime.load(name)
        ends = {
            (record.node, record.token)
            for record in loaded.records
            if record.type is RecordType.OUTCOME
        }
        open_attempts = {
            (record.node, record.token)
            for record in loaded.records
            if record.type is RecordType.INTENT
        } - ends
        told = [event for event in events.drain() if event.type is EventType.STAGE_ENDED]
        again = counts() - before
        return {
            "records": len(loaded.records),
            "status": (run.status, after.status),
            "output": run.output,
            "repeated": sorted(name for name in again if name.partition(" ")[0] in done),
            "most": max(counts().values()),
            "suspended": suspended,
            "open": sorted(str(node) for node, _ in open_attempts),
            "abandoned": sorted(str(e.node) for e in told if e.status == "abandoned"),
            "keys": len([name for name in counts() if name.startswith("saved ")]),
        }

    return asyncio.run(main())


def forked(body: Callable[[], Any]) -> tuple[int, Any]:
    """(wait status, what `body` gave) of a child process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        status = 1
        try:
            os.write(writing, json.dumps(body()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return status, json.loads(text) if text else None


def hold() -> None:
    async def main() -> None:
        @transform
        async def waits(text: str) -> str:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await asyncio.sleep(60)
            return text

        async with Runtime(journal=JOURNAL, keys=KEYS) as runtime:
            desk = Pipeline("held", [waits], inputs={"text": str})
            await desk.using(runtime=runtime, run_id="r").run(text="a")

    asyncio.run(main())


def main() -> None:
    last = 1
    while True:
        status, _ = forked(functools.partial(killed, last))
        again, told = forked(functools.partial(resumed, last))
        assert again == 0, f"the next process could not resume after record {last}"
        sys.stdout.write(json.dumps({"after": last, **told}) + "\n")
        (FOLDER / SIDE).unlink()
        if not os.WIFSIGNALED(status):
            return
        last += 1


if __name__ == "__main__":
    hold() if sys.argv[3:] == ["hold"] else main()
