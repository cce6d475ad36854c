"""Typed outputs: 300 generated model shapes, valid and broken payloads, 500 wrong wirings.

What real systems get wrong: outputs are not validated at all; they are validated where they are
used, so that the journal and the caller get what no consumer would take; instances are trusted,
though `model_construct` or an assignment made them (pydantic's own default:
https://docs.pydantic.dev/latest/concepts/models/#model-validate).

The oracle is pydantic itself, asked directly about a deep copy. An instance is asked about as the
input that it claims to come from, since pydantic would take it unseen.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from stageflow import Runtime
from stageflow.sim import Sim, SimJournal, simulate

from ...history import History
from ...metric import Measured, Metric, counted, share
from ...ratio import ratio_of
from ...scenario import Judgement, Scenario, Sizes
from ...world import World
from .admission_cost import measure
from .admission_defects import DEFECTS
from .admission_runs import SLOTS, AdmissionPipeline, Seen, is_guarded
from .generated_models import FEATURES, drawn, shape
from .given_values import FORMS, Given, Oracle, given
from .miswirings import build, miswiring
from .payload_mutations import MUTATIONS

MODES: Final = ("memory", "durable", "simulated", "memory")
"""How the runs of a shape go, in turn: REAL without and with a SQLite journal, SIM with one."""
JOURNALLED: Final = frozenset({"durable", "simulated"})
_PLACES: Final = ("consumer", "caller", "journal")


def load(world: World) -> History:
    """Every shape's runs, then the wirings, then the cost."""
    history = History(world.size)
    shapes = world.size["shapes"]
    a_shape = -(-world.size["payloads"] // shapes)
    with asyncio.Runner() as runner:
        for number in range(shapes):
            _give_shape(world, history, runner, number, a_shape)
            world.progress(number + 1, shapes, "shapes")
    for number in range(world.size["miswirings"]):
        case = miswiring(number, world.seed_for("miswiring", number))
        history.fired("wrong wirings")
        wrong, right = build(case, rightly=False), build(case, rightly=True)
        history.record(
            "wiring",
            kind=case.kind,
            refused=wrong.refused,
            code=wrong.code,
            names_both=wrong.names_both,
            ran=wrong.ran + right.ran,
            right_refused=right.refused,
        )
    measure(world, history)
    return history


def _give_shape(
    world: World, history: History, runner: asyncio.Runner, number: int, count: int
) -> None:
    """At least `count` values of one shape."""
    made = shape(number, world.seed_for("shape", number))
    rng = random.Random(world.seed_for("values", number))
    payloads = drawn(made.inputs, world.size["bases"], world.seed_for("payloads", number))
    oracle, admission = Oracle(made), AdmissionPipeline(made)
    history.record("shape", number=number, features=made.features)
    valid = [payload for payload in payloads if oracle.expected(payload) is not None]
    admission.base = valid[0] if valid else None
    path = world.scratch / f"shape{number}.db"
    durable, memory = Runtime(journal=path), Runtime()
    tally, turn, told, invalid = _Tally(history, number), 0, 0, 0
    while told < count:  # a shape without a valid payload has no guards that could give values
        mode = MODES[turn % len(MODES)]
        admission.given = [
            given(made, oracle, payloads[(turn * SLOTS + at) % len(payloads)], rng)
            for at in range(SLOTS)
        ]
        if mode == "simulated":
            seen = simulate(_simulated(admission), seed=world.seed_for(number, turn)).value
        else:
            runtime = durable if mode == "durable" else memory
            seen = runner.run(admission.run(runtime, run_id=f"run{turn}"))
        for at, each in enumerate(seen):
            if admission.base is not None or not is_guarded(at):
                tally.add(mode, at, admission.given[at], each)
                told += 1
                if admission.given[at].expected is None:
                    invalid += 1
        turn += 1
    tally.tell()
    history.fired("invalid outputs", invalid)
    runner.run(durable.aclose())
    for left in world.scratch.glob(f"{path.name}*"):
        left.unlink()


def _simulated(admission: AdmissionPipeline) -> Any:
    async def main(sim: Sim) -> list[Seen]:
        async with Runtime(journal=SimJournal(sim), clock=sim.clock) as runtime:
            return await admission.run(runtime, run_id="simulated")

    return main


class _Tally:
    """Records equal observations of one shape once, with their number.

    Two observations are equal when mode, form, mutation, oracle and failure are, and each place
    shows the oracle's value, another one, or none in both. Nothing is judged here.
    """

    def __init__(self, history: History, number: int) -> None:
        self._history = history
        self._number = number
        self._counts: Counter[tuple[Any, ...]] = Counter()

    def add(self, mode: str, at: int, value: Given, seen: Seen) -> None:
        places = tuple(
            "none" if shown is None else "expected" if shown == value.expected else "other"
            for shown in (seen.consumer, seen.caller, seen.journal)
        )
        who = "guard" if is_guarded(at) else "stage"
        self._counts[
            mode, who, value.form, value.mutation, value.expected is not None, value.canary,
            seen.reason, seen.explained, seen.leaked, *places,
        ] += 1  # fmt: skip

    def tell(self) -> None:
        for key, count in self._counts.items():
            names = (
                "mode", "who", "form", "mutation", "valid", "canary",
                "reason", "explained", "leaked", *_PLACES,
            )  # fmt: skip
            self._history.record(
                "given", shape=self._number, count=count, **dict(zip(names, key, strict=True))
            )


def check(history: History) -> Judgement:
    """Counts what differs from the oracle's verdict; the cost is a ratio."""
    events = [event.data for event in history.of("given")]
    total = sum(data["count"] for data in events)
    invalid = sum(data["count"] for data in events if not data["valid"])
    canaries = sum(data["count"] for data in events if not data["valid"] and data["canary"])
    refused = sum(data["count"] for data in events if data["reason"])
    wirings = [event.data for event in history.of("wiring")]
    good = sum(data["refused"] and data["names_both"] and data["ran"] == 0 for data in wirings)
    return Judgement(
        {
            "disagreements": counted(_total(events, _disagrees), total),
            "invalid_visible": counted(_total(events, _shows_invalid), invalid),
            "refusals_unexplained": counted(
                _total(events, lambda data: bool(data["reason"]) and not data["explained"]), refused
            ),
            "values_leaked": counted(_total(events, lambda data: data["leaked"]), canaries),
            "miswirings_refused": share(good, len(wirings)),
            "right_wirings_refused": counted(
                sum(data["right_refused"] for data in wirings), len(wirings)
            ),
            "cost_ratio": _cost(history, "plain"),
            "instance_cost_ratio": _cost(history, "instance"),
        },
        unknown=next(_gaps(history), None),
        notes=(
            f"{total:,} values of {history.count('shape')} shapes; pydantic refuses {invalid:,}",
        ),
    )


def _total(events: list[Any], holds: Any) -> int:
    return sum(data["count"] for data in events if holds(data))


def _shown(data: Any) -> list[str]:
    """What the places show that this run has."""
    places = _PLACES if data["mode"] in JOURNALLED else _PLACES[:2]
    return [data[place] for place in places]


def _disagrees(data: Any) -> bool:
    if data["valid"]:
        return bool(data["reason"]) or any(shown != "expected" for shown in _shown(data))
    return not data["reason"] or any(shown != "none" for shown in _shown(data))


def _shows_invalid(data: Any) -> bool:
    if data["valid"]:
        return "other" in _shown(data)
    return any(shown != "none" for shown in _shown(data))


def _cost(history: History, form: str) -> Measured:
    rounds = [event.data for event in history.of("cost") if event.data["form"] == form]
    return ratio_of(
        [(data["typed"] - data["calls"] * data["dispatch"], data["floor"]) for data in rounds]
    )


def _gaps(history: History) -> Iterator[str]:
    """What the load should have done and did not."""
    events = [event.data for event in history.of("given")]
    features = {feature for event in history.of("shape") for feature in event.data["features"]}
    for feature in FEATURES:
        if feature not in features:
            yield f"no shape has the feature {feature}"
    for mode in dict.fromkeys(MODES):
        for valid in (True, False):
            if not any(data["mode"] == mode and data["valid"] is valid for data in events):
                yield f"no {'valid' if valid else 'invalid'} value was given in a {mode} run"
    for who in ("stage", "guard"):
        if not any(data["who"] == who and not data["valid"] for data in events):
            yield f"no {who} gave an invalid value"
    for mutation in MUTATIONS:
        if not any(data["mutation"] == mutation and not data["valid"] for data in events):
            yield f"the mutation {mutation} broke nothing"
    for form in FORMS[2:]:
        if not any(data["form"] == form and not data["valid"] for data in events):
            yield f"no {form} instance was invalid"
    if history.sizes and sum(data["count"] for data in events) < history.sizes["payloads"]:
        yield "fewer values were given than the size asks for"
    if history.sizes and history.count("wiring") < history.sizes["miswirings"]:
        yield "fewer wirings were tried than the size asks for"


SCENARIO = Scenario(
    row="CONTRACT-001",
    claim=(
        "no output that breaks its contract is ever visible to another stage, the journal or the "
        "caller; no valid one is refused."
    ),
    sizes=Sizes(
        quick={
            "shapes": 300, "payloads": 20_000, "miswirings": 500, "bases": 17, "cost_rounds": 15,
        },
        full={
            "shapes": 300, "payloads": 2_000_000, "miswirings": 500, "bases": 400,
            "cost_rounds": 31,
        },
        fixed=("bases", "cost_rounds"),
    ),
    metrics=(
        Metric(
            "disagreements", "==", 0,
            doc="values that pydantic accepts and the framework refuses or changes, or the reverse",
        ),
        Metric(
            "invalid_visible", "==", 0,
            doc="values that pydantic refuses, seen by a consumer, the caller or in the journal",
        ),
        Metric(
            "refusals_unexplained", "==", 0,
            doc="refusals without a catalogued error naming stage, path and mend",
        ),
        Metric(
            "values_leaked", "==", 0,
            doc="refusals whose message or journal repeats the value instead of its shape",
        ),
        Metric(
            "miswirings_refused", "==", 1.0,
            doc="share of wrong wirings (500/500) refused at build, naming both stages and field",
        ),
        Metric("right_wirings_refused", "==", 0, doc="their rightly wired twins refused"),
        Metric(
            "cost_ratio", "<=", 1.3,
            doc="CPU time of admitting a payload, its private canonical form included, less the "
            "fixed dispatch of a call, as a multiple of bare model_validate of the same payload",
        ),
        Metric(
            "instance_cost_ratio", "<=", 1.3,
            doc="the same for instances, as stages mostly return them: a multiple of bare "
            "model_validate of the payload that they were made from",
        ),
    ),
    sabotages=DEFECTS,
    load=load,
    check=check,
    components=("python:hypothesis",),
    faults=("invalid outputs", "wrong wirings"),
)  # fmt: skip
