"""Which node a stage stands for, and how a pipeline looks."""

from __future__ import annotations

import pytest

from stageflow import (
    Allow,
    Branch,
    BuildError,
    Decision,
    Pipeline,
    RunError,
    first_of,
    guard,
    route,
    transform,
    work,
)


@transform
async def draft(text: str) -> str:
    return text + "!"


@transform
async def polish(draft: str) -> str:
    return draft.upper()


@guard
async def polite(text: str) -> Decision:
    return Allow()


@route(branches=("loud", "quiet"))
async def tone(draft: str) -> Branch:
    return Branch("loud")


shout = polish.named("shout", when=tone.branch("loud"))
whisper = polish.named("whisper", when=tone.branch("quiet"))
said = first_of(shout, whisper, name="said")


@work(after=said)
async def sent(said: str) -> str:
    return said


DESK = Pipeline(
    "desk", [sent, draft, polite, tone, shout, whisper, said], inputs={"text": str}, outputs=sent
)


async def test_a_stage_is_the_key_of_its_node() -> None:
    run = await DESK.run(text="a")
    assert run.status == "ok"
    assert (run[draft], run[said], run["shout"], run[shout]) == ("a!", "A!", "A!", "A!")
    assert shout in run and whisper not in run and "draft" in run


async def test_a_template_that_stands_once_under_another_name_is_a_key() -> None:
    other = draft.named("other")
    run = await Pipeline("one", [other], inputs={"text": str}).run(text="a")
    assert run[draft] == run[other] == run["other"] == "a!"


async def test_keys_that_name_nothing_or_two_nodes_are_told() -> None:
    run = await DESK.run(text="a")
    with pytest.raises(RunError) as caught:
        _ = run[polish]
    assert caught.value.code == "run.ambiguous_node" and caught.value.node == "polish"
    with pytest.raises(RunError) as caught:
        _ = run["drafft"]
    assert caught.value.code == "run.unknown_node"
    assert caught.value.fix == "did you mean 'draft'?"
    stranger = transform(name="stranger")(lambda text: text)
    with pytest.raises(RunError) as caught:
        _ = stranger in run
    assert caught.value.code == "run.unknown_node"


async def test_a_missing_value_is_raised_with_its_cause() -> None:
    run = await DESK.run(text="a")
    with pytest.raises(RunError) as caught:
        _ = run[whisper]
    assert caught.value.code == "run.no_value"
    assert "branch_not_taken" in str(caught.value) and "'tone'" in str(caught.value)


def test_the_drawing_names_every_node_and_why_it_waits() -> None:
    text = DESK.draw()
    assert text.splitlines()[0] == "desk: inputs text"
    for line in (
        "guards text",
        "draft, when tone=loud",
        "shout?, whisper?",
        "work      sent    *",
    ):
        assert line in text
    order = [line.split()[1] for line in text.splitlines()[1:-1]]
    assert order.index("draft") < order.index("tone") < order.index("shout") < order.index("sent")


def test_the_mermaid_diagram_has_an_edge_per_dependency() -> None:
    text = DESK.draw("mermaid")
    assert text.startswith("flowchart TD")
    assert "text -. guarded by .-> polite" in text
    assert "tone -->|loud| shout" in text and "draft --> shout" in text
    with pytest.raises(BuildError) as caught:
        DESK.draw("svg")
    assert caught.value.code == "draw.form"
