"""Outputs of some 2,000 tools, right and wrong in 39 ways, through a stage to a consumer.

What real systems get wrong: a reply with status 200 that is an error page; NaN, a name twice, a
number that became infinite, all taken by the usual parser; a reply cut off where it still reads
well; a field that the type does not know and that is gone without a word; a reply of any size read
before anybody asks for its size; a repair that guesses. What is wrong is known by an oracle that is
no part of the check: the library `jsonschema`, and what each mutation did.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

from pydantic import BaseModel

from stageflow import Pipeline
from stageflow.stages.work.tools import tool
from stageflow_lab import (
    History,
    Judgement,
    Measured,
    Metric,
    Scenario,
    Sizes,
    World,
    share,
)
from stageflow_lab.metric import counted

from .json_suite import cases, parser, told
from .output_defects import DEFECTS
from .output_mutations import CAP, MUTATIONS
from .tool_contracts import subject
from .tool_runs import Tally, follow
from .tool_schemas import tool_schemas

ZEROES: Final = {"invalid_passed": "wrong", "valid_refused": "right", "lossy": "passed"}
"""What must never happen, and among how many outputs it could have."""
AT_ONCE_MAX: Final = 100
"""Outputs of one tool in a row; then it is made anew, in another form."""


def load(world: World) -> History:
    """Every output once through a pipeline; the parsing suite beside them."""
    history = History(world.size)
    _parse(history)
    tallies: dict[str, Tally] = {}
    schemas = tool_schemas()
    outputs = world.size["outputs"]
    each = max(1, min(AT_ONCE_MAX, outputs // world.size["schemas"]))
    sent, number, used = 0, 0, set()
    while sent < outputs and number < 10 * (outputs // each + len(schemas)):
        place = number % len(schemas)
        made = subject(schemas[place], number + number // len(schemas))
        seed = world.seed_for("tool", number)
        done = asyncio.run(follow(made, sent, min(each, outputs - sent), seed, tallies))
        if done:
            used.add(place)
        sent, number = sent + done, number + 1
        world.progress(sent, outputs, "outputs")
    history.record("load", outputs=sent, schemas=len(used))
    for name, tally in tallies.items():
        history.fired(name, tally.counts["wrong"] + tally.counts["right"])
        history.record(
            "outputs",
            mutation=name,
            counts=dict(tally.counts),
            most_taken=tally.most_taken,
            examples=tally.examples,
        )
    return history


def _parse(history: History) -> None:
    check = parser()
    for case in cases():
        history.record("parsed", name=case.name, expected=case.expected, told=told(case, check))


class _Word(BaseModel):
    word: str


def ordinary_use(world: World) -> None:
    """A tool that gives what it should."""

    @tool(output=_Word)
    async def asked() -> str:
        return '{"word": "tide"}'

    async def main() -> Any:
        return await Pipeline("word", [asked], outputs=asked).run()

    run = asyncio.run(main())
    assert run.output.value == _Word(word="tide"), run.status


# -- check -----------------------------------------------------------------------------------------


def check(history: History) -> Judgement:
    """Sums over all mutations; of the suite, what it leaves open counts when it was decided."""
    total: Counter[str] = Counter()
    most, notes = 0, []
    for event in history.of("outputs"):
        total.update(event.data["counts"])
        most = max(most, event.data["most_taken"])
        for metric, examples in event.data["examples"].items():
            notes += [f"{metric}: {event.data['mutation']}: {examples[0]}"]
    parsed = [event.data for event in history.of("parsed")]
    due = {"y": ("accepted",), "n": ("refused",), "i": ("accepted", "refused")}
    unlike = [each for each in parsed if each["told"] not in due[each["expected"]]]
    notes += [f"json_suite: {each['name']} was {each['told']}" for each in unlike]
    zeroes = {name: counted(total[name], total[of]) for name, of in ZEROES.items()}
    load = history.last("load")
    return Judgement(
        {
            "invalid_passed": zeroes["invalid_passed"],
            "valid_refused": zeroes["valid_refused"],
            "lossy_repairs": zeroes["lossy"],
            "refused_coded": share(total["refused"], total["wrong"]),
            "json_suite": share(len(parsed) - len(unlike), len(parsed)),
            "external_label": share(total["labelled"], total["passed"]),
            "repairs_recorded": share(total["recorded"], total["repaired"]),
            "oversize_taken": Measured(most / CAP, n=most),
            "outputs": 0 if load is None else load.data["outputs"],
            "schemas": 0 if load is None else load.data["schemas"],
            "mutations": history.count("outputs"),
            "suite_cases": len(parsed),
        },
        unknown=None if load is not None and load.data["outputs"] else "no output was sent",
        notes=tuple(notes[:20]),
    )


SCENARIO = Scenario(
    row="WORK-009",
    claim="no invalid, truncated, oversized or self-contradicting tool output gets downstream, and "
    "no valid one is lost.",
    sizes=Sizes(
        quick={"outputs": 20_000, "schemas": 2_000},
        full={"outputs": 2_000_000, "schemas": 2_000},
    ),
    metrics=(
        Metric("invalid_passed", "==", 0, "outputs", doc="wrong ones that a consumer was given"),
        Metric("valid_refused", "==", 0, "outputs", doc="right ones that no consumer was given"),
        Metric(
            "lossy_repairs",
            "==",
            0,
            "outputs",
            doc="right ones that reached the consumer with another value, or with a repair on "
            "record that was none",
        ),
        Metric(
            "refused_coded", "==", 1.0, doc="wrong ones that ended their stage by a tool.* code"
        ),
        Metric(
            "json_suite",
            "==",
            1.0,
            doc="cases of JSONTestSuite, and of UTF-8, that were accepted or refused as they say",
        ),
        Metric(
            "external_label",
            "==",
            1.0,
            doc="outputs given on, labelled at the tool, at its consumer and in their provenance",
        ),
        Metric("repairs_recorded", "==", 1.0, doc="repaired ones whose provenance says so"),
        Metric(
            "oversize_taken",
            "<=",
            1.1,
            "caps",
            doc="the most that was taken of a stream of 50 caps, in pieces of a tenth of one",
        ),
        Metric("outputs", ">=", 20_000, "outputs", gate=False),
        Metric("schemas", ">=", 2_000, "schemas", gate=False),
        Metric("mutations", ">=", 25, gate=False),
        Metric("suite_cases", ">=", 293, "cases", gate=False),
    ),
    components=("python:jsonschema", "python:jsonschema_rs", "python:bfcl_eval"),
    faults=tuple(MUTATIONS),
    sabotages=DEFECTS,
    load=load,
    check=check,
    plain=ordinary_use,
    wall_limit_s={"quick": 240.0, "full": 4 * 3_600.0, "soak": 9 * 3_600.0},
)
