"""Deps: opened once a scope, given by name, closed in reverse, whatever ends the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import pytest

from stageflow import (
    BuildError,
    Dep,
    InputError,
    Limits,
    Pipeline,
    RunError,
    Runtime,
    transform,
)
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore

LOG: list[str]


def opening(log: list[str], name: str) -> Any:
    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        log.append(f"open {name}")
        await asyncio.sleep(0)
        yield name
        log.append(f"close {name}")

    return opened


@transform
async def uses(x: int, db: str, model: str) -> str:
    if x < 0:
        raise ValueError
    return f"{db}+{model}"


DESK = Pipeline("d", [uses], inputs={"x": int}, deps={"db": str, "model": str}, outputs=uses)


def runtime(log: list[str], scope: Literal["runtime", "tenant", "run"]) -> Runtime:
    return Runtime(
        deps={
            "db": Dep(opening(log, "db"), scope=scope),
            "model": Dep(opening(log, "model"), scope=scope),
        }
    )


async def test_a_dep_of_the_runtime_is_opened_once_and_closed_in_reverse() -> None:
    log: list[str] = []
    async with runtime(log, "runtime") as one:
        handles = [DESK.using(runtime=one).start(x=n) for n in range(5)]
        assert {(await handle).output for handle in handles} == {"db+model"}
    assert log == ["open db", "open model", "close model", "close db"]


async def test_a_dep_of_the_run_lives_as_long_as_its_run() -> None:
    log: list[str] = []
    async with runtime(log, "run") as one:
        for _ in range(2):
            await DESK.using(runtime=one).run(x=1)
            log.append("ended")
    once = ["open db", "open model", "close model", "close db", "ended"]
    assert log == once * 2


async def test_a_dep_of_the_run_is_closed_when_the_run_fails_or_is_cancelled() -> None:
    log: list[str] = []
    async with runtime(log, "run") as one:
        assert (await DESK.using(runtime=one).run(x=-1)).status == "failed"
        handle = DESK.using(runtime=one).start(x=1)
        handle.cancel()
        assert (await handle).status == "cancelled"
        assert log.count("open db") == log.count("close db")
        assert log.count("open model") == log.count("close model")


async def test_tenants_do_not_share_their_deps() -> None:
    made: list[object] = []

    def client() -> object:
        made.append(object())
        return made[-1]

    @transform
    async def which(x: int, client: object) -> int:
        return made.index(client)

    desk = Pipeline("t", [which], inputs={"x": int}, deps={"client": object}, outputs=which)
    async with Runtime(deps={"client": Dep(client, scope="tenant")}) as one:
        seen = [
            (await desk.using(runtime=one, tenant=tenant).run(x=1)).output
            for tenant in ("a", "b", "a")
        ]
    assert seen == [0, 1, 0]


@pytest.mark.parametrize("scope", ["tenant", "run"])
async def test_a_factory_is_told_its_tenant(scope: Literal["tenant", "run"]) -> None:
    @transform
    async def whose(client: str) -> str:
        return client

    desk = Pipeline("t", [whose], deps={"client": str}, outputs=whose)
    async with Runtime(deps={"client": Dep(lambda tenant: f"of {tenant}", scope=scope)}) as one:
        for tenant in ("a", "b"):
            assert (await desk.using(runtime=one, tenant=tenant).run()).output == f"of {tenant}"
        fake = desk.override(client=lambda tenant: f"fake of {tenant}")
        assert (await fake.using(runtime=one, tenant="a").run()).output == "fake of a"


async def test_a_factory_that_needs_a_tenant_is_not_shared_by_all() -> None:
    with pytest.raises(BuildError) as refused:
        Runtime(deps={"client": lambda tenant: tenant})
    assert refused.value.code == "runtime.dep_tenant"
    async with Runtime(deps={"client": lambda tenant="nobody": tenant}) as one:
        desk = Pipeline("t", [echoed], deps={"client": str}, outputs=echoed)
        assert (await desk.using(runtime=one, tenant="a").run()).output == "nobody"


@transform
async def echoed(client: str) -> str:
    return client


async def test_what_a_factory_may_be() -> None:
    closed: list[str] = []

    @contextmanager
    def plain() -> Iterator[str]:
        yield "context"
        closed.append("context")

    async def awaited() -> str:
        return "awaited"

    class Settings:
        text = "class"

    @transform
    async def all_of(x: int, a: str, b: str, c: Settings, d: dict[str, int]) -> list[Any]:
        return [a, b, c.text, d["k"]]

    desk = Pipeline(
        "f",
        [all_of],
        inputs={"x": int},
        deps={"a": str, "b": str, "c": Settings, "d": dict},
        outputs=all_of,
    )
    deps = {"a": plain, "b": awaited, "c": Settings, "d": {"k": 1}}
    async with Runtime(deps=deps) as one:
        run = await desk.using(runtime=one).run(x=1)
    assert run.output == ["context", "awaited", "class", 1] and closed == ["context"]


async def test_a_dep_that_is_missing_or_odd_is_told() -> None:
    with pytest.raises(InputError) as caught:
        await DESK.using(runtime=Runtime(deps={"dbs": 1, "model": 2})).run(x=1)
    assert caught.value.code == "run.missing_dep"
    assert caught.value.fix == "did you mean 'dbs'?"
    with pytest.raises(BuildError) as odd:
        Runtime(deps={"db": Dep(object, scope="week")})  # type: ignore[arg-type]
    assert odd.value.code == "runtime.dep_scope"


async def test_a_dep_that_can_not_be_opened_leaves_nothing_open() -> None:
    log: list[str] = []

    def broken() -> str:
        raise OSError("down")

    async with Runtime(
        deps={"db": Dep(opening(log, "db"), scope="run"), "model": Dep(broken, scope="run")}
    ) as one:
        with pytest.raises(RunError) as told:
            await DESK.using(runtime=one).run(x=1)
        assert (told.value.code, told.value.field) == ("runtime.dep_open", "model")
        assert isinstance(told.value.__cause__, OSError)
        assert log == ["open db", "close db"]


async def yields(log: list[str], name: str) -> AsyncIterator[str]:
    log.append(f"open {name}")
    yield name
    log.append(f"close {name}")


def yields_at_once(log: list[str], name: str) -> Iterator[str]:
    log.append(f"open {name}")
    yield name
    log.append(f"close {name}")


async def test_a_factory_may_yield_the_dep_and_close_it_afterwards() -> None:
    log: list[str] = []
    db = Dep(lambda: yields(log, "db"), scope="run")
    async with Runtime(deps={"db": db, "model": lambda: yields_at_once(log, "model")}) as one:
        assert (await DESK.using(runtime=one).run(x=1)).status == "ok"
        assert log == ["open db", "open model", "close db"]
    assert log == ["open db", "open model", "close db", "close model"]


async def closes_badly(log: list[str], name: str, error: Exception | None) -> AsyncIterator[str]:
    yield name
    log.append(f"close {name}")
    if error is not None:
        raise error
    await asyncio.sleep(60)


@pytest.mark.parametrize("error", [OSError("gone"), None])
async def test_a_run_keeps_its_outcome_when_a_dep_of_it_can_not_be_closed(
    error: Exception | None,
) -> None:
    log: list[str] = []
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    deps = {
        "db": Dep(opening(log, "db"), scope="run"),
        "model": Dep(lambda: closes_badly(log, "model", error), scope="run"),
    }
    async with Runtime(deps=deps, limits=Limits(close_s=0.05)) as one:
        run = await DESK.using(runtime=one).run(x=1)
    assert run.status == "ok"
    assert log == ["open db", "close model", "close db"]
    (context,) = told
    failed = context["exception"]
    assert isinstance(failed, RunError) and failed.code == "runtime.dep_close"
    assert isinstance(failed.__cause__, type(error) if error is not None else TimeoutError)
    assert run.id in context["message"]


async def test_what_can_not_be_closed_keeps_nothing_else_open() -> None:
    log: list[str] = []
    deps = {
        "db": Dep(lambda: closes_badly(log, "db", OSError("gone")), scope="tenant"),
        "model": lambda: closes_badly(log, "model", ValueError("odd")),
    }
    closed: list[str] = []

    class Watched(GroupCommit):
        async def close(self) -> None:
            closed.append("journal")
            await super().close()

    one = Runtime(journal=Watched(MemoryStore()), deps=deps)
    assert (await DESK.using(runtime=one).run(x=1)).status == "ok"
    with pytest.raises(ExceptionGroup) as failed:
        await one.aclose()
    assert {type(each.__cause__) for each in failed.value.exceptions} == {OSError, ValueError}
    assert sorted(log) == ["close db", "close model"] and closed == ["journal"]
