"""What users test with."""

from __future__ import annotations

import asyncio

import pytest

from stageflow import Allow, Block, Decision, Retry, StageFailed, agent, guard, transform
from stageflow.testing import Script, in_virtual_time, run_stage


@transform
async def shout(text: str, times: int = 1) -> str:
    return text.upper() * times


@guard
async def polite(text: str) -> Decision:
    return Block("rude") if "stupid" in text else Allow()


async def test_a_stage_runs_alone_with_its_policies() -> None:
    assert await run_stage(shout, "hi") == "HI"
    assert await run_stage(shout, text="hi", times=2) == "HIHI"
    assert await run_stage(polite, "you are stupid") == Block("rude")

    @agent(retry=Retry(attempts=2, base_s=0.0))
    async def flaky(model: int) -> str:
        raise ValueError("no")

    with pytest.raises(StageFailed) as failed:
        await run_stage(flaky, 1)
    assert isinstance(failed.value.__cause__, ValueError)


async def test_a_script_answers_in_turn_and_says_what_it_was_asked() -> None:
    model = Script(["a", ValueError("busy"), lambda prompt: prompt[::-1]])
    assert await model("one") == "a"
    with pytest.raises(ValueError, match="busy"):
        await model("two")
    assert await model("abc") == "cba"
    assert [call.args for call in model.calls] == [("one",), ("two",), ("abc",)]
    assert model.is_done
    with pytest.raises(AssertionError):
        await model("four")


def test_hours_take_no_time() -> None:
    async def main() -> float:
        before = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - before

    assert in_virtual_time(main) == 3600
