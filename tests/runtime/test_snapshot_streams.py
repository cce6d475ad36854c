"""Snapshots as streams: equal after a load, refused when damaged; the loop runs on meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel

from stageflow import (
    Allow,
    Branch,
    ContractError,
    Decision,
    Pipeline,
    ValueRefused,
    guard,
    route,
    transform,
)


class Page(BaseModel):
    text: str
    number: int


@transform
def pages(text: str, count: int) -> list[Page]:
    return [Page(text=text, number=number) for number in range(count)]


@guard
def short(pages: list[Page]) -> Decision:
    return Allow()


@route(branches=["few", "many"])
def amount(pages: list[Page]) -> Branch:
    return Branch("many", confidence=0.5, reason="counted")


@transform
def index(pages: list[Page]) -> dict[str, Any]:
    return {f"page {page.number}": [page.text, float("nan"), 10**400] for page in pages}


STAGES = [pages, short, index]
DESK = Pipeline("desk", STAGES, inputs={"text": str, "count": int})


async def test_a_snapshot_comes_back_with_its_hash_identity_and_types() -> None:
    run = await DESK.using(tenant="t", session="s").run(text="ä" * 300, count=2_000)
    stream = [chunk async for chunk in DESK.dump(run.snapshot)]
    assert len(stream) > 10
    whole = b"".join(stream)
    cut = [whole[at : at + 1_000] for at in range(0, len(whole), 1_000)]
    back = await DESK.load(cut)
    assert back.content_hash == run.snapshot.content_hash
    assert back.identity == run.snapshot.identity
    assert list(back) == list(run.snapshot)
    assert back["pages"] == run[pages]
    assert type(back["pages"][0]) is Page
    assert back.inputs == run.snapshot.inputs


async def test_a_turn_of_a_session_brings_what_it_sees_of_the_earlier_ones() -> None:
    turn = DESK.using(session="s", runtime=DESK.runtime)
    for count in (1, 2):
        await turn.run(text="x", count=count)
    run = await turn.run(text="x", count=3)
    back = await DESK.load([chunk async for chunk in DESK.dump(run.snapshot)])
    assert back.session is not None and run.snapshot.session is not None
    assert [each.inputs for each in back.session] == [each.inputs for each in run.snapshot.session]
    assert back.session.content_hash == run.snapshot.session.content_hash
    assert back.content_hash == run.snapshot.content_hash


async def test_others_run_between_the_chunks() -> None:
    run = await DESK.run(text="x" * 300, count=3_000)
    turns = [0]

    async def count() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    stream = []
    async for chunk in DESK.dump(run.snapshot):
        stream.append(chunk)
    assert turns[0] >= len(stream) - 1
    turns[0] = 0
    await DESK.load(stream)
    assert turns[0] >= len(stream) - 2
    other.cancel()


async def test_a_stream_that_is_cut_or_changed_is_refused() -> None:
    run = await DESK.run(text="x" * 300, count=200)
    whole = b"".join([chunk async for chunk in DESK.dump(run.snapshot)])
    for damaged in (whole[:-1], whole[:100], b"", whole[:500] + b"\0" + whole[501:], whole + b"x"):
        with pytest.raises(ContractError) as refused:
            await DESK.load([damaged])
        assert refused.value.code == "codec.damaged"


async def test_a_stream_of_another_pipeline_is_refused() -> None:
    run = await DESK.run(text="x", count=2)
    stream = [chunk async for chunk in DESK.dump(run.snapshot)]
    other = Pipeline("other", [pages], inputs={"text": str, "count": int})
    with pytest.raises(ContractError) as refused:
        await other.load(stream)
    assert refused.value.code == "codec.mismatch"


async def test_what_is_too_large_is_refused_by_name_and_the_snapshot_stays() -> None:
    run = await DESK.run(text="x" * 300, count=2_000)
    before = run.snapshot.content_hash
    got = []
    with pytest.raises(ValueRefused) as refused:
        async for chunk in DESK.dump(run.snapshot, bytes_max=100_000):
            got.append(chunk)
    said = str(refused.value)
    assert refused.value.code == "codec.too_large"
    assert "pages" in said and "100,000" in said
    assert run.snapshot.content_hash == before
    with pytest.raises(ContractError):
        await DESK.load(got)


def test_import_loads_no_compression() -> None:
    code = "import sys, stageflow; sys.exit('zstandard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
