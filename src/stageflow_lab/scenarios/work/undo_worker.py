"""A real process that lives a part of a story over a database, files and HTTP, and kills itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from stageflow import LocalKeys
from stageflow.journal.keys import KEY_BYTES
from stageflow.stages.work import Files, Resource, State, UndoLog, WebResources
from stageflow.stages.work.undo import files
from stageflow.stages.work.undo.records import Record
from stageflow.stages.work.undo.sealing import TimelineSeal

from ...sabotage import patched
from .local_server import HOST
from .undo_facts import Seen
from .undo_life import RULES, Life, Pending, Process, Progress, ReachedResource, ReachedStore
from .undo_shops import RESOURCE, PostgresShop, Shop, SQLiteShop
from .undo_stories import PLACES, Place, Story
from .undo_truth import Fact, Permit, Sent, StepSeen, UndoSeen, plain

IN_FLIGHT_S: Final = 1.0
"""How long a request to a server on this host may be on its way."""
_KINDS: Final = {each.__name__: each for each in (Fact, Permit, Sent, UndoSeen, StepSeen)}


@dataclass(frozen=True, slots=True)
class Perhaps:
    """A write is about to be made; when nothing more is told, its process died in it."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class Job:
    """What one process has to do."""

    name: str
    story: Story
    life: int
    """How many processes have died at it before."""
    folder: Path
    port: int
    schema: str
    """Of the server whose rows it changes; "" for SQLite."""
    is_sealed: bool
    """Whether its log has keys."""

    def shop(self) -> Shop:
        """Its database."""
        return PostgresShop(self.schema) if self.schema else SQLiteShop(self.folder)


class RealWorld:
    """Implements World over a folder. What happened is a line of JSON each, before anybody dies."""

    def __init__(self, job: Job, client: httpx.AsyncClient) -> None:
        self._shop = job.shop()
        self._files = job.folder / "files"
        self._base = f"http://{HOST}:{job.port}/{job.name}"
        self._client = client
        self._told = job.folder / "told"
        self.resources: Sequence[Resource] = (
            self._shop.orders(),
            Files(self._files, name="files"),
            WebResources(
                client,
                self._base,
                media_type="text/plain",
                in_flight_s=IN_FLIGHT_S,
                name="pages",
            ),
        )
        self._lines = list(told(self._told))

    # -- others ------------------------------------------------------------------------------

    def fresh(self) -> str:
        return f"theirs {len(self._lines)}"

    async def edit(self, place: Place, value: str | None) -> None:
        resource, key = place
        there = await self.text(place)
        if value is None and there is None:
            return
        if resource == RESOURCE:
            revision = 1_000 * (1 + len(self._lines))  # others begin with revisions of their own
            self._shop.put(key, value, revision=revision)
        elif resource == "files":
            self._edit_file(key, value)
        elif value is None:
            await self._client.delete(f"{self._base}/{key}")
        else:
            headers = {"Content-Type": "text/plain"}
            await self._client.put(f"{self._base}/{key}", content=value, headers=headers)
        self.tell(Fact("theirs", place, await self._now(place)))

    def _edit_file(self, key: str, value: str | None) -> None:
        """As editors do it: in place, or by a new file that is renamed."""
        path = self._files / key
        if value is None:
            path.unlink()
        elif len(self._lines) % 2 and path.exists():
            path.write_text(value)
        else:
            draft = self._files / f"{key}.draft"
            draft.write_text(value)
            draft.rename(path)

    async def text(self, place: Place) -> str | None:
        there = await self._now(place)
        text: str | None = there["text"] if isinstance(there, dict) else there
        return text

    async def _now(self, place: Place) -> Any:
        resource, key = place
        if resource == RESOURCE:
            return plain(self._shop.row(key))
        if resource == "files":
            path = self._files / key
            return path.read_text() if path.exists() else None
        answer = await self._client.get(f"{self._base}/{key}")
        return None if answer.status_code == 404 else answer.text

    async def change_form(self) -> None:
        self.tell(Fact("form", (RESOURCE, ""), self._shop.change_form()))

    # -- what happened -----------------------------------------------------------------------

    def tell(self, fact: Any) -> None:
        line = {"kind": type(fact).__name__, **asdict(fact)}
        self._lines.append(line)
        with self._told.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    async def settle(self) -> None:
        """Whether the write in which the last process died happened: before anybody else writes."""
        last: dict[str, Any] = self._lines[-1] if self._lines else {"kind": ""}
        if last["kind"] == Perhaps.__name__:
            fact: Fact = _made("Fact", dict(last["fact"]))
            if await self._now(fact.place) == fact.value:
                self.tell(fact)

    def facts_count(self) -> int:
        return sum(line["kind"] == "Fact" for line in self._lines)

    def was_sent(self, step: int) -> bool:
        return any(line["kind"] == "Sent" and line["step"] == step for line in self._lines)


class ReachedFiles(ReachedResource):
    """A folder, as a process reaches it: one may also die while files are being exchanged, and what
    happened then is told by its heir."""

    def __init__(self, inner: Resource, process: Process, world: RealWorld) -> None:
        super().__init__(inner, process)
        self._told = world

    async def wrote(self, key: str, content: bytes | None, expected: State, fact: Fact) -> State:
        self._told.tell(Perhaps(fact))
        return await super().wrote(key, content, expected, fact)


@contextlib.contextmanager
def deadly_renames(process: Process) -> Iterator[None]:
    """The process may die before and after each exchange of two files."""
    original = files._renamed

    def renamed(source: Path, target: Path, flags: int) -> bool:
        process.pass_by("write")
        done = original(source, target, flags)
        process.pass_by("write")
        return done

    with patched(files, "_renamed", renamed):
        yield


@contextlib.contextmanager
def noted_before_they_are_sealed(process: Process) -> Iterator[None]:
    """The process knows its intents of a sealed log, too."""
    original = TimelineSeal.closed

    def closed(self: TimelineSeal, record: Record, place: int) -> Record:
        process.note(record)
        return original(self, record, place)

    with patched(TimelineSeal, "closed", closed):
        yield


class RealProcess(Process):
    """This process."""

    def __init__(self, world: RealWorld, job: Job) -> None:
        super().__init__(world, job.story, job.life)
        self._deaths = job.folder / "deaths"

    def die(self) -> None:
        with self._deaths.open("a", encoding="utf-8") as file:
            file.write(self.doing + "\n")
        os.kill(os.getpid(), signal.SIGKILL)


def prepare(job: Job) -> None:
    """What a story needs before its first process."""
    (job.folder / "files").mkdir(parents=True)
    job.shop().prepare()


def work_off(job: Job) -> None:
    """The body of a forked process."""
    asyncio.run(_work_off(job))


async def _work_off(job: Job) -> None:
    progress_file = job.folder / "progress"
    progress = _progress(progress_file)

    def save(now: Progress) -> None:
        progress_file.write_text(json.dumps(asdict(now)))

    async with httpx.AsyncClient(timeout=10.0) as client:
        world = RealWorld(job, client)
        process = RealProcess(world, job)
        await world.settle()
        place = job.story.meanwhile[job.life - 1] if job.life else None
        if place is not None:
            await world.edit(PLACES[place], world.fresh())
        store = ReachedStore(job.shop().log(), process)
        rows, folder, pages = world.resources
        undo = UndoLog(
            store,
            ReachedResource(rows, process),
            ReachedFiles(folder, process, world),
            ReachedResource(pages, process),
            rules=RULES,
            keys=LocalKeys(bytes(KEY_BYTES)) if job.is_sealed else None,
        )
        life = Life(process, undo, job.story, progress, save=save)
        with deadly_renames(process), noted_before_they_are_sealed(process):
            await life.live()
        process.left = None
        steps, is_unfinished = await life.steps()
        await undo.aclose()
    ended = {
        "refused": progress.refused,
        "is_unfinished": is_unfinished,
        "steps": [asdict(step) for step in steps],
    }
    (job.folder / "ended").write_text(json.dumps(ended))


def _progress(path: Path) -> Progress:
    if not path.exists():
        return Progress()
    data = json.loads(path.read_text())
    pending = data.pop("pending")
    return Progress(**data, pending=None if pending is None else Pending(**pending))


def told(path: Path) -> list[dict[str, Any]]:
    """The lines so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def seen_of(name: str, folder: Path) -> Seen:
    """What was seen of a story that is over."""
    ended = json.loads((folder / "ended").read_text())
    seen = Seen(name, refused=ended["refused"], is_unfinished=ended["is_unfinished"])
    for line in told(folder / "told"):
        kind = line.pop("kind")
        if kind == Perhaps.__name__:
            continue
        made = _made(kind, line)
        if isinstance(made, Fact):
            seen.facts.append(made)
        elif isinstance(made, UndoSeen):
            seen.undos.append(made)
        else:
            seen.letters.append(made)
    seen.steps = [_made("StepSeen", step) for step in ended["steps"]]
    deaths = folder / "deaths"
    seen.deaths = deaths.read_text().split() if deaths.exists() else []
    return seen


def _made(kind: str, data: dict[str, Any]) -> Any:
    """JSON has lists where these have tuples."""
    for name in ("place", "steps", "kept", "undoes"):
        if name in data:
            data[name] = tuple(data[name])
    if "conflicts" in data:
        data["conflicts"] = tuple(tuple(place) for place in data["conflicts"])
    return _KINDS[kind](**data)
