"""Undoing to any step: the exact state comes back, and nobody else's edit is overwritten.

What real systems get wrong: the snapshot that is restored is older than somebody's edit; what was
there is noted after the act, and so not at all when the process dies; an undo that was cut off
stays half done; and a letter is sent because nobody asked. The log is that of ARIES: the intent
before the act, and undos that are logged like any other change.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Sequence
from typing import Any, Final

from stageflow import Context, Pipeline, Runtime, work
from stageflow.sim import Sim, simulate
from stageflow.stages.work import Files, UndoLog, put_back
from stageflow_lab import (
    History,
    Judgement,
    Metric,
    Scenario,
    Sizes,
    World,
    counted,
    share,
)

from ..dag.forked import spread
from .beside import beside
from .engine_sums import EngineSums, examples, totals, undecided
from .simulated_undos import story_seen
from .undo_defects import DEFECTS
from .undo_facts import Seen, facts_of
from .undo_rounds import Plan, command
from .undo_stories import drawn

CHUNK: Final = 50
"""Stories that a process draws and lives at a time."""


def load(world: World) -> History:
    """Simulations in two processes, and real processes that are killed beside them."""
    history = History(world.size)
    folder = world.scratch / "real"
    folder.mkdir()
    plan = Plan(
        seed=world.seed_for("real"),
        kills=world.size["kills"],
        folder=str(folder),
        sabotage=world.sabotage,
    )
    sums = _sums("real")
    for facts in beside(history, folder, command(plan), lambda: _simulate(world, history)):
        sums.add(facts)
    sums.write(history)
    return history


def _sums(engine: str) -> EngineSums:
    return EngineSums(engine, kind="stories", deaths=("record", "write"))


def _simulate(world: World, history: History) -> None:
    count = world.size["sim"]
    sums = _sums("sim")
    asked = [(number, min(CHUNK, count - number)) for number in range(0, count, CHUNK)]
    simulated = functools.partial(_stories, world.seed_for("sim"))
    for done, facts in enumerate(spread(simulated, asked, workers=world.size["workers"], chunk=1)):
        sums.add(facts)
        world.progress(done + 1, count, "simulated stories")
    sums.write(history)


def _stories(seed: int, asked: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    found = []
    for first, count in asked:
        for number, story in enumerate(drawn(count, seed + first), first):
            rng = random.Random(f"{seed}/{number}")

            async def main(
                sim: Sim, story: Any = story, number: int = number, rng: random.Random = rng
            ) -> Seen:
                return await story_seen(sim, story, f"s{number}", rng)

            found.append(facts_of(simulate(main, seed=rng.randrange(2**48)).value))
    return found


def ordinary_use(world: World) -> None:
    """A run that edits two files, and is taken back."""
    folder = world.scratch / "notes"
    folder.mkdir()
    files = Files(folder, name="notes")

    @work(keyed=True, undo=put_back)
    async def edited(ctx: Context, undo: UndoLog, text: str) -> int:
        line = undo.of(ctx)
        await line.change(files, "a.txt", text)
        return await line.change(files, "b.txt", text)

    async def main() -> None:
        edits = Pipeline(
            "edits", [edited], inputs={"text": str}, outputs=edited, deps={"undo": UndoLog}
        )
        path = world.scratch / "ordinary_undo.db"
        async with Runtime(deps={"undo": lambda: UndoLog(path, files)}) as runtime:
            run = await edits.using(runtime=runtime).run(text="new")
            assert (run.status, run.output) == ("ok", 2), run.failures
        assert (folder / "a.txt").read_text() == "new"
        async with UndoLog(path, files) as undo:
            line = undo.timeline("more", by="ann")
            await line.change(files, "a.txt", "newer")
            restored = await line.undo_to(0)
        assert restored.steps == (1,) and (folder / "a.txt").read_text() == "new"

    asyncio.run(main())


# -- check ---------------------------------------------------------------------------------------


NEEDED: Final = (
    ("clean", "no undo was free of conflicts"),
    ("conflicts", "nobody else had changed anything"),
    ("interrupted", "no process died in an undo"),
    ("redone", "no undo was undone"),
    ("forms", "no table changed its form"),
    ("sent", "nothing was sent"),
    ("refused", "nothing had to be refused"),
    ("over_postgres", "no story had its rows and its log in PostgreSQL"),
    ("sealed", "no story's log was sealed"),
)
"""Counts without which nothing is decided, and what their absence means."""


def check(history: History) -> Judgement:
    """Sums over both engines."""
    engines, total = totals(history, "stories")
    return Judgement(
        {
            "state_back": share(total["back"], total["clean"]),
            "conflicts_detected": share(total["reported"], total["conflicts"]),
            "clobbered_edits": counted(total["clobbered"], total["writes"]),
            "half_undone_after_restart": counted(total["half_undone"], total["interrupted"]),
            "unapproved_irreversible": counted(total["unapproved"], total["sent"]),
            "audit_matches": share(total["audit_right"], total["audited"]),
            "stories_sim": engines.get("sim", {}).get("stories", 0),
            "kills_real": engines.get("real", {}).get("deaths", 0),
            "stories_real": engines.get("real", {}).get("stories", 0),
            "stories_postgres": total["over_postgres"],
            "stories_sealed": total["sealed"],
            "undos": total["undos"],
            "undone_undos": total["redone"],
            "outside_edits": total["edits"],
            "form_changes": total["forms"],
            "refused_irreversible": total["refused"],
            "in_doubt": total["doubted"],
        },
        unknown=undecided(history, "stories", NEEDED, nothing="no stories were lived"),
        notes=examples(history),
    )


SCENARIO = Scenario(
    row="WORK-010",
    claim="undoing to any step restores the exact prior state unless someone changed it since, "
    "which is reported, never overwritten.",
    sizes=Sizes(
        quick={"sim": 2_000, "kills": 100, "workers": 2},
        full={"sim": 200_000, "kills": 1_000, "workers": 2},
        fixed=("workers",),
    ),
    metrics=(
        Metric(
            "state_back",
            "==",
            1.0,
            doc="undos after which every place that nobody else had changed holds what it held at "
            "the step; all is 100%",
        ),
        Metric(
            "conflicts_detected",
            "==",
            1.0,
            doc="places that somebody else had changed, left as they were and reported; 100%",
        ),
        Metric(
            "clobbered_edits",
            "==",
            0,
            "writes",
            doc="writes over something that was not what the log believed to be there, and undos "
            "over somebody else's",
        ),
        Metric(
            "half_undone_after_restart",
            "==",
            0,
            "undos",
            doc="undos whose process died, and of which a place was not as it should be when "
            "others had recovered",
        ),
        Metric(
            "unapproved_irreversible",
            "==",
            0,
            "letters",
            doc="letters sent more often than people had permitted",
        ),
        Metric(
            "audit_matches",
            "==",
            1.0,
            doc="steps that the log tells as done, not done or in doubt, and that were; 100%",
        ),
        Metric("stories_sim", ">=", 2_000, "stories", gate=False),
        Metric("kills_real", ">=", 100, "processes", gate=False),
        Metric("stories_real", ">=", 1, "stories", gate=False),
        Metric("stories_postgres", ">=", 1, "stories", gate=False),
        Metric("stories_sealed", ">=", 1, "stories", gate=False),
        Metric("undos", ">=", 1, "undos", gate=False),
        Metric("undone_undos", ">=", 1, "undos", gate=False),
        Metric("outside_edits", ">=", 1, "edits", gate=False),
        Metric("form_changes", ">=", 1, "changes", gate=False),
        Metric("refused_irreversible", ">=", 1, "letters", gate=False),
        Metric("in_doubt", ">=", 0, "steps", gate=False),
    ),
    components=("service:postgresql", "python:psycopg", "python:hypothesis", "python:httpx"),
    faults=("died_record", "died_write"),
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    wall_limit_s={"quick": 600.0, "full": 6 * 3_600.0, "soak": 9 * 3_600.0},
)
