"""Scripts of loops: what the agent writes turn by turn, and what its guards say of it.

Livelocks go nowhere from turn `begins` on, with a period; the scripts never end by themselves.
Benign ones are accepted at their last turn: most after nine turns of ten, some after a plateau.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from .loop_texts import PHRASINGS, prose, reply, sentence, sentences

SHARE_NESTED: Final = 0.2
TURNS_BENIGN: Final = (9, 9, 9, 7, 5)
"""Turns to success, drawn from these: most take nine of their ten."""
BOUND_BENIGN: Final = 10
PERIODS: Final = (2, 7)
HONEST_FIRST: Final = (0, 0, 1, 2, 3)
"""Turns of honest work before a loop is caught, drawn from these."""
DEMANDS: Final = (
    "name the source of this figure",
    "the second paragraph repeats the first one",
    "customers do not know this abbreviation",
    "the promise of a date must go",
    "use the form of address that the customer used",
    "the closing does not fit the complaint",
    "leave out what concerns other customers",
)
TERSE: Final = ("rude", "vague", "wrong name", "no greeting", "too many links", "off", "unsafe")


@dataclass(frozen=True, slots=True)
class Said:
    """What one guard says when it sends a value back."""

    guard: int
    text: str
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Draft:
    """What the agent gives at a turn, and what the guards that object say."""

    value: Any
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """A script. `turns` are sent back; after them a benign one gives `accepted`."""

    family: str
    turns: tuple[Draft, ...]
    bound: int
    """Revisions that the stage may make."""
    livelock: bool
    begins: int = 0
    """LIVELOCK: turns before it."""
    period: int = 1
    exact: bool = False
    """LIVELOCK: its values come again as they are."""
    accepted: Any = None

    @property
    def guards(self) -> int:
        """How many guards it needs."""
        return 1 + max(said.guard for turn in self.turns for said in turn.said)


def trace_of(rng: random.Random, *, livelock: bool) -> Trace:
    """One script of any family."""
    families = LIVELOCKS if livelock else BENIGN
    return _scored(rng, families[rng.choice(sorted(families))](rng))


# -- livelocks -----------------------------------------------------------------------------------


def _looping(
    rng: random.Random,
    family: str,
    period: int,
    turn: Callable[[int], Draft],
    *,
    exact: bool = False,
    first: tuple[Draft, ...] | None = None,
) -> Trace:
    """Honest turns, and then `turn(0)`, `turn(1)` and so on, to the bound."""
    if first is None:
        first = tuple(
            Draft(
                prose(sentences(rng, 2, 5)), (Said(0, f"add what {sentence(rng)}", number - 9.0),)
            )
            for number in range(rng.choice(HONEST_FIRST))
        )
    bound = len(first) + 2 * period + 8
    looping = tuple(turn(number) for number in range(bound - len(first)))
    return Trace(family, first + looping, bound, True, len(first), period, exact)


def _constant(rng: random.Random) -> Trace:
    value: Any = rng.choice(
        (prose(sentences(rng, 1, 5)), {"label": rng.choice(TERSE), "sure": rng.random()}, "no")
    )
    demands = _demands(rng)[: rng.choice((1, 1, 2))]
    return _looping(
        rng,
        "constant",
        1,
        lambda n: Draft(value, (Said(0, demands[n % len(demands)]),)),
        exact=True,
    )


def _cycle(rng: random.Random) -> Trace:
    period = rng.randint(*PERIODS)
    values = [prose(sentences(rng, 1, 5)) for _ in range(period)]
    demands = _demands(rng)
    how = rng.choice(("one", "each", "drawn"))

    def turn(number: int) -> Draft:
        at = {"one": 0, "each": number % period, "drawn": rng.randrange(3)}[how]
        return Draft(values[number % period], (Said(0, demands[at]),))

    return _looping(rng, "cycle", period, turn, exact=True)


def _paraphrase(rng: random.Random) -> Trace:
    facts, demand = _facts(rng), _demands(rng)[0]
    return _looping(
        rng, "paraphrase", 1, lambda _: Draft(reply(rng, facts), (Said(0, demand),)), exact=False
    )


def _paraphrased_cycle(rng: random.Random) -> Trace:
    period = rng.randint(2, 3)
    pool = rng.sample(range(len(PHRASINGS)), 3 * period)
    demands = _demands(rng)
    return _looping(
        rng,
        "paraphrased cycle",
        period,
        lambda n: Draft(
            reply(rng, pool[3 * (n % period) : 3 * (n % period) + 3]),
            (Said(0, demands[n % period]),),
        ),
    )


def _rotating(rng: random.Random) -> Trace:
    """Each demand that is met breaks what another had asked for."""
    period, demands, facts = rng.randint(2, 5), _demands(rng), _facts(rng)
    several, fresh = rng.random() < 0.5, rng.random() < 0.5

    def turn(number: int) -> Draft:
        at = number % period
        value = prose(sentences(rng, 2, 5)) if fresh else reply(rng, facts)
        return Draft(value, (Said(at if several else 0, demands[at]),))

    return _looping(rng, "rotating rejections", period, turn)


def _flapping(rng: random.Random) -> Trace:
    """A guard that finds fault every other time, beside one that always does, or in two ways."""
    demands, facts = _demands(rng), _facts(rng)
    beside, fresh = rng.random() < 0.5, rng.random() < 0.5

    def turn(number: int) -> Draft:
        value = prose(sentences(rng, 2, 5)) if fresh else reply(rng, facts)
        flaps = (Said(1, demands[1]),) if number % 2 else ()
        return Draft(
            value, (Said(0, demands[0]), *flaps) if beside else (_either(demands, number),)
        )

    return _looping(rng, "flapping guard", 2, turn)


def _either(demands: list[str], number: int) -> Said:
    return Said(0, demands[number % 2])


def _caught_late(rng: random.Random) -> Trace:
    """A text grows honestly, and then is only put in other words."""
    facts = _facts(rng, least=4)
    start = rng.randint(1, len(facts) - 2)
    first = tuple(
        Draft(reply(random.Random(facts[0]), facts[: start + n]), (Said(0, f"say more: {n}"),))
        for n in range(len(facts) - start)
    )
    demand = _demands(rng)[0]
    return _looping(
        rng, "caught late", 1, lambda _: Draft(reply(rng, facts), (Said(0, demand),)), first=first
    )


LIVELOCKS: Final[Mapping[str, Callable[[random.Random], Trace]]] = {
    "constant": _constant,
    "cycle": _cycle,
    "paraphrase": _paraphrase,
    "paraphrased cycle": _paraphrased_cycle,
    "rotating": _rotating,
    "flapping": _flapping,
    "caught late": _caught_late,
}


# -- benign --------------------------------------------------------------------------------------


def _converging(
    rng: random.Random, family: str, values: list[Any], demands: list[str] | None = None
) -> Trace:
    """All values but the last are sent back, with one demand or with one each."""
    said = demands or [_demands(rng)[0]] * len(values)
    turns = tuple(
        Draft(value, (Said(0, text),)) for value, text in zip(values[:-1], said, strict=False)
    )
    return Trace(family, turns, BOUND_BENIGN, False, accepted=values[-1])


def _growing(rng: random.Random) -> Trace:
    told = sentences(rng, 1, 4)
    values: list[Any] = []
    for _ in range(rng.choice(TURNS_BENIGN)):
        values.append(prose(told))
        told = [*told, sentence(rng)]
    return _converging(rng, "growing", values)


def _shrinking(rng: random.Random) -> Trace:
    turns = rng.choice(TURNS_BENIGN)
    told = sentences(rng, turns + 2, turns + 4)
    return _converging(rng, "shrinking", [prose(told[n:]) for n in range(turns)])


def _rewriting(rng: random.Random) -> Trace:
    """One statement after the other is replaced, wherever it stands."""
    turns = rng.choice(TURNS_BENIGN)
    told = sentences(rng, turns, turns + 3)
    values: list[Any] = []
    for place in rng.sample(range(len(told)), turns):
        values.append(prose(told))
        told = [*told[:place], sentence(rng), *told[place + 1 :]]
    return _converging(rng, "rewriting", values)


def _mending_code(rng: random.Random) -> Trace:
    turns = rng.choice(TURNS_BENIGN)
    body = [f"    rows = load({rng.randrange(100)})", "    return rows"]
    values: list[Any] = []
    for number in range(turns):
        values.append("\n".join(["def report(path):", *body]))
        body.insert(rng.randrange(len(body)), f"    check_{rng.randrange(1000)}(rows, {number})")
    demands = [f"test_report_{rng.randrange(90)} fails in line {n + 3}" for n in range(turns)]
    return _converging(rng, "mending code", values, demands)


def _filling_form(rng: random.Random) -> Trace:
    turns = rng.choice(TURNS_BENIGN)
    fields = {sentence(rng).split()[1]: sentence(rng) for _ in range(3 * turns)}
    names = list(fields)[:turns]
    values: list[Any] = [{n: fields[n] for n in names[: k + 1]} for k in range(len(names))]
    return _converging(rng, "filling a form", values, ["fields are missing"] * turns)


def _halving(rng: random.Random) -> Trace:
    low, high, truth = 0.0, rng.choice((1.0, 100.0, 4096.0)), 0.0
    truth = rng.uniform(0.05, 0.95) * high
    values: list[Any] = []
    demands = []
    in_words = rng.random() < 0.5
    for _ in range(rng.choice(TURNS_BENIGN)):
        guess = (low + high) / 2
        values.append(f"We estimate that it weighs {guess:.4f} tonnes" if in_words else guess)
        demands.append("more than that" if guess < truth else "less than that")
        low, high = (guess, high) if guess < truth else (low, guess)
    return _converging(rng, "halving", values, demands)


def _counting_down(rng: random.Random) -> Trace:
    """Fresh texts; the guard says how much is left."""
    turns = rng.choice(TURNS_BENIGN)
    values: list[Any] = [prose(sentences(rng, 2, 6)) for _ in range(turns)]
    return _converging(
        rng, "counting down", values, [f"{turns - n} claims without a source" for n in range(turns)]
    )


def _falling_back(rng: random.Random) -> Trace:
    """Once the agent gives an old text again, and goes on from where it was."""
    trace = _growing(rng)
    at = rng.randint(2, len(trace.turns) - 1)
    turns = list(trace.turns)
    turns.insert(at, turns[rng.randrange(at - 1)])
    return replace(trace, family="falling back", turns=tuple(turns))


def _pausing(rng: random.Random) -> Trace:
    """On a plateau the agent gives the same text once more, and then a better one."""
    trace = (_growing if rng.random() < 0.5 else _rewriting)(rng)
    at = rng.randint(1, len(trace.turns) - 1)
    turns = (*trace.turns[: at + 1], trace.turns[at], *trace.turns[at + 1 :])
    return replace(trace, family="plateau: pausing", turns=turns)


def _drafting_anew(rng: random.Random) -> Trace:
    """A plateau of fresh texts to which the guard says the same."""
    values: list[Any] = [prose(sentences(rng, 2, 6)) for _ in range(rng.choice(TURNS_BENIGN))]
    return _converging(rng, "plateau: drafting anew", values)


def _growing_unseen(rng: random.Random) -> Trace:
    return replace(_growing(rng), family="plateau: growing")


BENIGN: Final[Mapping[str, Callable[[random.Random], Trace]]] = {
    "growing": _growing,
    "shrinking": _shrinking,
    "rewriting": _rewriting,
    "mending code": _mending_code,
    "filling a form": _filling_form,
    "halving": _halving,
    "counting down": _counting_down,
    "falling back": _falling_back,
    "pausing": _pausing,
    "drafting anew": _drafting_anew,
    "growing unseen": _growing_unseen,
}


# -- parts ---------------------------------------------------------------------------------------


def _demands(rng: random.Random) -> list[str]:
    pool = rng.choice((DEMANDS, TERSE))
    return rng.sample(pool, len(pool))


def _facts(rng: random.Random, *, least: int = 2) -> list[int]:
    return rng.sample(range(len(PHRASINGS)), rng.randint(least, 6))


def _scored(rng: random.Random, trace: Trace) -> Trace:
    """The same trace with scores: none, or such as fit what happens in it."""
    if rng.random() < 0.5:
        return trace
    number, scored = 0, []
    flat = trace.livelock or trace.family.startswith("plateau")
    plateau = rng.randrange(3) if flat else len(trace.turns)
    for number, turn in enumerate(trace.turns):
        if number < trace.begins:
            scored.append(turn)
            continue
        repeated = turn in trace.turns[:number]
        score = 0.1 * min(number, plateau)
        if trace.livelock:
            score = round(rng.choice((0.2, 0.25, 0.3)), 2)
        elif repeated:
            score = 0.1 * trace.turns.index(turn)
        scored.append(Draft(turn.value, tuple(replace(one, score=score) for one in turn.said)))
    return replace(trace, turns=tuple(scored))
