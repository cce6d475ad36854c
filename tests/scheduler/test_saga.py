"""The order of taking back, and how it ends, against a naive reading of the rules."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stageflow.graph import Stage, work
from stageflow.graph.undo import effects_behind
from stageflow.scheduler import End, Launch, Stand, Wait, next_move

from .told import Told

SEEDS = st.integers(min_value=0, max_value=2**48)


def random_graph(rng: random.Random) -> list[list[int]]:
    """Followers of each vertex; edges go from lower to higher numbers."""
    count = rng.randint(1, 12)
    return [[b for b in range(a + 1, count) if rng.random() < 0.3] for a in range(count)]


def reaches(graph: list[list[int]], start: int, goal: int) -> bool:
    """By walking every path: slow, and plainly right."""
    return any(after == goal or reaches(graph, after, goal) for after in graph[start])


@given(SEEDS)
@settings(max_examples=300, deadline=None)
def test_the_effects_behind_one_are_those_that_a_path_leads_to(seed: int) -> None:
    rng = random.Random(seed)
    graph = random_graph(rng)
    undoable = [node for node in range(len(graph)) if rng.random() < 0.6]
    assert effects_behind(graph, undoable) == {
        node: frozenset(other for other in undoable if reaches(graph, node, other))
        for node in undoable
    }


@given(SEEDS)
@settings(max_examples=500, deadline=None)
def test_what_is_taken_back_keeps_the_order_and_ends_undone_or_stuck(seed: int) -> None:
    rng = random.Random(seed)
    graph = random_graph(rng)
    later = effects_behind(graph, range(len(graph)))
    stands = {
        node: rng.choices([Stand.OWED, Stand.DOUBT, Stand.LEFT], [20, 1, 1])[0]
        for node in range(len(graph))
        if rng.random() < 0.8
    }
    fails = {node for node in stands if rng.random() < 0.1}
    order: list[int] = []
    while True:
        move = next_move(stands, later)
        for node in move.begins:
            assert stands[node] is Stand.OWED
            for other in later[node] & stands.keys():
                assert stands[other] in (Stand.UNDONE, Stand.LEFT)
            stands[node] = Stand.RUNNING
        running = [node for node in stands if stands[node] is Stand.RUNNING]
        assert move.is_over == (not running)
        if move.is_over:
            break
        ended = rng.choice(running)
        stands[ended] = Stand.STUCK if ended in fails else Stand.UNDONE
        order.append(ended)
    assert len(order) == len(set(order))
    # Naively: whatever has nothing stuck behind it is undone, and nothing else is.
    held = {node for node, stand in stands.items() if stand in (Stand.STUCK, Stand.DOUBT)}
    assert move.stuck == tuple(sorted(held))
    for node, stand in stands.items():
        waits = any(reaches(graph, node, other) for other in held)
        if node not in held and stand is not Stand.LEFT:
            assert stand is (Stand.OWED if waits else Stand.UNDONE)


# -- the scheduler's part ------------------------------------------------------------------------


async def body() -> None:
    """Never called: these histories run no stage."""


def keyed_step(name: str, **options: Any) -> Stage[..., Any]:
    return work(body, name=name, keyed=True, undo=work(body, name="undo"), **options)


def test_a_doubt_outlives_an_attempt_that_never_began() -> None:
    """1. s is begun. 2. its process dies. 3. s is handed out again. 4. the run is cancelled before
    its body is entered. What the first attempt did is as unknown as before."""
    told = Told(keyed_step("s"))
    told.tell("abandoned", "s")
    told.scheduler.cancel("enough")
    actions = told.tell("cancelled", "s", unstarted=True)
    assert [type(action) for action in actions] == [Launch]  # it is sent once more
    assert told.scheduler.goes_on(told.number("s"))
    actions = told.tell("completed", "s")
    assert actions == [Launch(told.number("s.undo"))]
    (end,) = told.tell("completed", "s.undo")
    assert end == End("cancelled", "enough")


def test_what_a_step_says_itself_leaves_no_doubt() -> None:
    told = Told(keyed_step("s"))
    told.tell("abandoned", "s")
    (end,) = told.tell("failed", "s", "refused")
    assert end == End("failed", "refused")


def test_a_keyed_step_is_sent_again_for_a_bounded_time() -> None:
    told = Told(keyed_step("s"))
    actions = told.tell("failed", "s", "timeout", cut_off=True)
    times = 0
    while not any(type(action) is End for action in actions):
        times += 1
        if type(actions[0]) is Wait:
            actions = told.tell("retry_due", "s")
        assert [type(action) for action in actions] == [Launch]
        actions = told.tell("failed", "s", "timeout", cut_off=True)
    assert times == 5 and actions == [End("suspended", "undo_stuck:s")]
    assert told.scheduler.can_settle(told.number("s"), "happened")
