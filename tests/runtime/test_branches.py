"""Branches that were not taken have no effect on the rest of a run."""

from __future__ import annotations

from stageflow import Branch, Pipeline, route, transform


@route(branches=("taken", "other"))
def way() -> Branch:
    return Branch("taken")


@transform(on_failure="isolate")
async def broken() -> str:
    raise ValueError("broken")


@transform(when=way.branch("taken"))
async def main_road() -> str:
    return "main"


@transform(when=way.branch("other"))
async def side_road(broken: str) -> str:
    return broken


@transform
async def last(main_road: str, side_road: str = "nothing") -> str:
    return f"{main_road}, {side_road}"


async def test_a_failure_does_not_pass_through_a_branch_that_was_not_taken() -> None:
    """
    1. `side_road` needs `broken`, which fails, and a branch that is not taken
    2. `last` has a default for `side_road`, and nothing else is missing
    """
    stages = [way, broken, main_road, side_road, last]
    run = await Pipeline("p", stages, outputs=last).run()
    side = run.nodes["side_road"]
    assert (side.state, side.cause, side.blame) == ("skipped", "branch_not_taken", "way")
    assert run.output == "main, nothing"
    assert (run.status, list(run.failures)) == ("partial", ["broken"])
