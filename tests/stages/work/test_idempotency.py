"""One key, one effect, one answer: the battery in pipelines, on every store that is here."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    BuildError,
    CantTell,
    EffectUnknown,
    Happened,
    NotHappened,
    Pipeline,
    Retry,
    Run,
    Runtime,
    StageOutput,
    work,
)
from stageflow.sim import Sim, SimJournal, simulate
from stageflow.stages.work import Effect, Ledger, LedgerRules, idempotent
from stageflow.stages.work.ledger.memory import MemoryEffects
from stageflow.testing import in_virtual_time

from .conftest import LedgerMaker, StoreMaker


@dataclass(frozen=True)
class Receipt:
    """What a receiver answers."""

    status: str
    artifacts: list[str]
    version: int
    number: int


@dataclass
class Sink:
    """A receiver that counts, and refuses to do a key twice when it honours keys."""

    honours: bool = False
    waits: Callable[[], Any] = lambda: asyncio.sleep(0)
    seen: list[str] = field(default_factory=list)
    applied: dict[str, Receipt] = field(default_factory=dict)
    effects: int = 0

    async def take(self, key: str) -> Receipt:
        self.seen.append(key)
        if not (self.honours and key in self.applied):
            self.effects += 1
            self.applied[key] = Receipt("ok", [f"letter-{self.effects}"], 2, self.effects)
        answer = self.applied[key]
        await self.waits()
        return answer


def desk(sink: Sink, *, retry: Retry | None = None, timeout: float = 60, **options: Any) -> Any:
    settings = {"key": "invoice:{invoice}", "sink": "keyed" if sink.honours else "plain"}

    @work(keyed=True, timeout=timeout, retry=retry or Retry(attempts=1))
    @idempotent(**{**settings, **options})
    async def charge(invoice: str, amount: int, effect: Effect) -> Receipt:
        return await sink.take(effect.key)

    inputs = {"invoice": str, "amount": int}
    return Pipeline("desk", [charge], inputs=inputs, outputs=charge, deps={"ledger": Ledger})


async def run_on(ledger: Ledger, pipeline: Any, *, tenant: str = "t", **inputs: Any) -> Run[Any]:
    given = {"invoice": "a", "amount": 1, **inputs}
    async with Runtime(deps={"ledger": lambda: _Kept(ledger)}) as runtime:
        return await pipeline.using(runtime=runtime, tenant=tenant).run(**given)


class _Kept:
    """Hands out a ledger that the runtime must not close."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def __aenter__(self) -> Ledger:
        return self.ledger

    async def __aexit__(self, *raised: object) -> None:
        return None


def memory(**options: Any) -> Ledger:
    return Ledger(MemoryEffects(), **options)


async def test_duplicates_at_one_moment_are_one_effect_with_one_reply(
    ledgers: LedgerMaker, tenant: str
) -> None:
    sink = Sink(waits=lambda: asyncio.sleep(0.01))
    two = [ledgers(), ledgers()]
    runs = await asyncio.gather(*(run_on(two[n % 2], desk(sink), tenant=tenant) for n in range(20)))
    assert sink.effects == 1 and {run.status for run in runs} == {"ok"}
    assert all(run.output == Receipt("ok", ["letter-1"], 2, 1) for run in runs)
    again = await run_on(two[0], desk(sink), tenant=tenant)
    assert again.output == runs[0].output and sink.effects == 1


async def test_tenants_don_t_share_keys_and_bodies_with_other_names_neither() -> None:
    ledger, sink = memory(), Sink()
    for tenant in ("t", "u"):
        await run_on(ledger, desk(sink), tenant=tenant)
    await run_on(ledger, desk(sink, name="other"))
    assert sink.effects == 3 and len(set(sink.seen)) == 3


async def test_without_a_declared_key_each_run_has_its_own() -> None:
    ledger, sink = memory(), Sink()
    for _ in range(2):
        await run_on(ledger, desk(sink, key=None))
    assert sink.effects == 2


@pytest.mark.parametrize(("key", "other"), [("{a}:{b}", False), ("{a}", True)])
async def test_every_parameter_counts_and_parts_of_keys_don_t_run_together(
    key: str, other: bool
) -> None:
    done = []

    @work(keyed=True)
    @idempotent(key=key)
    async def sends(a: str, b: str) -> str:
        done.append((a, b))
        return b

    pipeline = Pipeline(
        "p", [sends], inputs={"a": str, "b": str}, outputs=sends, deps={"ledger": Ledger}
    )
    ledger = memory()
    for a, b in (("x:y", "z"), ("x", "y:z"), ("x", "q")):
        async with Runtime(deps={"ledger": lambda: _Kept(ledger)}) as runtime:
            run = await pipeline.using(runtime=runtime).run(a=a, b=b)
    refused = run.status == "failed" and run.reason == "effect.other_parameters"
    assert refused is other and len(done) == (2 if other else 3)


async def test_the_effect_is_not_told_by_its_clients() -> None:
    class Http:
        """Has no contents that could be compared."""

    done = []

    @work(keyed=True)
    @idempotent(key="{a}", clients=("http",))
    async def sends(a: str, http: Http) -> str:
        done.append(a)
        return a

    @work(keyed=True)
    @idempotent(key="{a}")
    async def careless(a: str, http: Http) -> str:
        return a

    for stage, status in ((sends, "ok"), (careless, "failed")):
        pipeline = Pipeline("p", [stage], inputs={"a": str}, deps={"ledger": Ledger, "http": Http})
        async with Runtime(deps={"ledger": memory, "http": Http}) as runtime:
            run = await pipeline.using(runtime=runtime).run(a="x")
        assert run.status == status
    assert run.reason == "effect.parameter" and done == ["x"]


@pytest.mark.parametrize(
    "says",
    [StageOutput.fail("no"), StageOutput.retry("later"), StageOutput.skip(), ValueError("no")],
)
async def test_nothing_but_a_value_is_ever_replayed(says: Any) -> None:
    """Also with other parameters: whoever failed has done nothing."""
    answers = [says, "done"]

    @work(keyed=True)
    @idempotent(key="invoice:{invoice}")
    async def charge(invoice: str, amount: int) -> str | StageOutput:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    pipeline = Pipeline(
        "p", [charge], inputs={"invoice": str, "amount": int}, deps={"ledger": Ledger}
    )
    ledger = memory()
    assert (await run_on(ledger, pipeline)).status in ("failed", "partial", "ok")
    second = await run_on(ledger, pipeline, amount=2)
    assert second[charge] == "done" and not answers


async def test_a_result_that_can_t_be_kept_leaves_the_effect_unknown() -> None:
    @work(keyed=True)
    @idempotent(key="{invoice}")
    async def charge(invoice: str, amount: int) -> int:
        return "no number"  # type: ignore[return-value]

    pipeline = Pipeline(
        "p", [charge], inputs={"invoice": str, "amount": int}, deps={"ledger": Ledger}
    )
    ledger = memory()
    first, second = [await run_on(ledger, pipeline) for _ in range(2)]
    assert first.reason == "contract.violated" and second.nodes["charge"].state == "unknown"


# -- cut off -------------------------------------------------------------------------------------


@pytest.mark.parametrize("honours", [False, True])
@pytest.mark.parametrize("how", ["timeout", "cancel", "connection"])
def test_an_effect_that_was_cut_off_happens_once_more_only_where_keys_are_honoured(
    honours: bool, how: str
) -> None:
    """
    1. the receiver applies the effect; its answer does not arrive
    2. a duplicate comes: a receiver with keys is asked again, another one never
    """
    calls = 0

    async def main(sim: Sim) -> None:
        async def waits() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                if how == "connection":
                    raise ConnectionResetError
                await asyncio.sleep(100)

        sink, ledger = Sink(honours=honours, waits=waits), memory()
        pipeline = desk(sink, timeout=5)
        async with Runtime(
            journal=SimJournal(sim), deps={"ledger": lambda: _Kept(ledger)}, clock=sim.clock
        ) as runtime:
            handle = pipeline.using(runtime=runtime).start(invoice="a", amount=1)
            if how == "cancel":
                await asyncio.sleep(1)
                handle.cancel()
            first = await handle
            assert first.status != "ok"
            second = await pipeline.using(runtime=runtime).run(invoice="a", amount=1)
            assert sink.effects == 1
            if honours:
                assert second.status == "ok"
                return
            assert (second.status, second.reason) == ("suspended", "effect_unknown")
            assert second.nodes["charge"].state == "unknown"
            assert second.failures["charge"].reason == "effect.unknown"
            stays = await runtime.resume(second.id, pipeline=pipeline, rerun=["charge"])
            assert stays.status == "suspended" and sink.effects == 1, "the ledger does not forget"
            assert await ledger.allow(sink.seen[0])
            allowed = await runtime.resume(second.id, pipeline=pipeline, rerun=["charge"])
            assert allowed.status == "ok" and sink.effects == 2, "a person's word"

    simulate(main, seed=1)


def test_a_retry_of_a_keyed_receiver_gets_the_first_answer() -> None:
    async def main() -> None:
        calls = 0

        async def waits() -> None:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise TimeoutError

        sink = Sink(honours=True, waits=waits)
        run = await run_on(memory(), desk(sink, retry=Retry(attempts=3)))
        assert run.output.number == 1 and sink.effects == 1 and len(sink.seen) == 3

    in_virtual_time(main)


@pytest.mark.parametrize(
    ("found", "status", "effects"),
    [
        (Happened(Receipt("ok", ["found"], 1, 7)), "ok", 1),
        (NotHappened(), "ok", 2),
        (CantTell("no list"), "failed", 1),
        (ValueError("away"), "failed", 1),
        (None, "failed", 1),
        ("late", "failed", 1),
    ],
)
def test_reconcile_is_asked_about_an_unknown_effect(found: Any, status: str, effects: int) -> None:
    async def main() -> None:
        calls = 0

        async def waits() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise TimeoutError

        asked: list[tuple[str, str]] = []

        async def looked_up(invoice: str, effect: Effect) -> Any:
            asked.append((invoice, effect.key))
            if found == "late":
                await asyncio.sleep(31)
            if isinstance(found, Exception):
                raise found
            return found

        sink, ledger = Sink(waits=waits), memory()
        pipeline = desk(sink, reconcile=looked_up)
        assert (await run_on(ledger, pipeline)).nodes["charge"].state == "unknown"
        second = await run_on(ledger, pipeline)
        assert (second.status, sink.effects) == (status, effects)
        assert asked == [("a", sink.seen[0])]
        if isinstance(found, Happened):
            assert second.output == found.value
            assert (await run_on(ledger, pipeline)).output == found.value and len(asked) == 1

    in_virtual_time(main)


class Gone:
    """Holders that are called dead from outside, as processes that were killed."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.dead: set[str] = set()

    def new(self) -> str:
        self.names.append(f"holder-{len(self.names)}")
        return self.names[-1]

    def is_alive(self, holder: str) -> bool | None:
        return holder not in self.dead


@pytest.mark.parametrize("honours", [False, True])
def test_a_holder_that_dies_with_its_process_blocks_nobody(honours: bool) -> None:
    async def main() -> None:
        holders, calls = Gone(), 0

        async def waits() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                await asyncio.sleep(3600)

        sink, ledger = Sink(honours=honours, waits=waits), memory(holders=holders)
        first = asyncio.create_task(run_on(ledger, desk(sink, timeout=7200)))
        await asyncio.sleep(1)
        waiting = asyncio.create_task(run_on(ledger, desk(sink)))
        await asyncio.sleep(1)
        assert not waiting.done(), "the first one lives"
        holders.dead.add(holders.names[0])
        second = await waiting
        assert sink.effects == 1
        assert second.nodes["charge"].state == ("ok" if honours else "unknown")
        late = await first  # it was not dead after all, and comes late
        if honours:
            assert late.output == second.output, "whoever recorded first has the answer"
        else:
            assert late.status == "ok"
            third = await run_on(ledger, desk(sink))
            assert third.output == late.output, "what its holder knew is known now"
        assert sink.effects == 1

    in_virtual_time(main)


def test_a_duplicate_waits_and_then_conflicts() -> None:
    async def main() -> None:
        sink, ledger = Sink(waits=lambda: asyncio.sleep(600)), memory()
        first = asyncio.create_task(run_on(ledger, desk(sink, timeout=3600)))
        await asyncio.sleep(1)
        second = await run_on(ledger, desk(sink, wait_s=20))
        assert (second.status, second.reason) == ("failed", "effect.in_flight")
        assert (await first).status == "ok" and sink.effects == 1, "its lease was renewed"

    in_virtual_time(main)


def test_a_lease_that_nobody_renews_ends() -> None:
    async def main() -> None:
        store = MemoryEffects()
        holders = Gone()
        rules = LedgerRules(lease_s=30.0, skew_s=1.0)
        holders.is_alive = lambda holder: None  # type: ignore[method-assign]
        lost = Ledger(store, rules=rules, holders=holders)
        sink = Sink()
        run = await run_on(Ledger(store, rules=rules, holders=holders), desk(sink))
        key = sink.seen[0]
        store.entries.clear()
        await lost.claim(key, fingerprint="", holder="elsewhere", repeatable=False)
        second = asyncio.create_task(run_on(lost, desk(sink, wait_s=60)))
        await asyncio.sleep(30.5)
        assert not second.done()
        assert (await second).nodes["charge"].state == "unknown" and run.status == "ok"

    in_virtual_time(main)


def test_what_a_stage_says_is_unknown_is_unknown_even_with_keyed() -> None:
    @work(keyed=True)
    async def asks(invoice: str) -> str:
        raise EffectUnknown("effect.unknown", "the receiver said 202 and nothing since")

    async def main(sim: Sim) -> None:
        async with Runtime(journal=SimJournal(sim), clock=sim.clock) as runtime:
            pipeline = Pipeline("p", [asks], inputs={"invoice": str})
            run = await pipeline.using(runtime=runtime).run(invoice="a")
            assert (run.status, run.reason) == ("suspended", "effect_unknown")
            again = await runtime.resume(run.id, pipeline=pipeline)
            assert again.status == "suspended" and again.nodes["asks"].attempts == 1

    simulate(main, seed=1)


# -- transactions --------------------------------------------------------------------------------


async def test_effect_and_record_are_one_transaction(
    opened_store: StoreMaker, ledgers: LedgerMaker, tenant: str
) -> None:
    """A body that fails leaves neither; twenty duplicates leave one row."""
    fails = True
    table = f"orders_{tenant.replace('-', '_')}"
    store = opened_store()
    mark = "?" if "SQLite" in type(store).__name__ else "%s"
    await store.close()

    @work(keyed=True)
    @idempotent(key="order:{order}", sink="transactional")
    def placed(order: str, tx: Any, effect: Effect) -> Receipt:
        tx.execute(f"CREATE TABLE IF NOT EXISTS {table} (name text)")
        tx.execute(f"INSERT INTO {table} VALUES ({mark})", (order,))
        if fails:
            raise LookupError
        return Receipt("ok", [order], 1, 1)

    pipeline = Pipeline("p", [placed], inputs={"order": str}, deps={"ledger": Ledger})

    async def run(ledger: Ledger) -> Run[Any]:
        async with Runtime(deps={"ledger": lambda: _Kept(ledger)}) as runtime:
            return await pipeline.using(runtime=runtime, tenant=tenant).run(order="a")

    two = [ledgers(), ledgers()]
    first = await run(two[0])
    if first.reason == "effect.no_transactions":
        return
    assert first.reason == "error:LookupError"
    fails = False
    runs = await asyncio.gather(*(run(two[n % 2]) for n in range(20)))
    assert {str(run[placed]) for run in runs} == {str(Receipt("ok", ["a"], 1, 1))}

    def count(entry: Any, now_s: float, tx: Any) -> Any:
        (rows,) = tx.execute(f"SELECT count(*) FROM {table}").fetchone()
        tx.execute(f"DROP TABLE {table}")
        return entry, rows

    assert await two[0].store.change_within("nobody's", count) == 1


async def test_a_users_statement_that_fails_is_his_own_error(tmp_path: Path) -> None:
    @work(keyed=True)
    @idempotent(key="{order}", sink="transactional")
    def placed(order: str, tx: sqlite3.Connection) -> str:
        tx.execute("INSERT INTO nowhere VALUES (1)")
        return order

    pipeline = Pipeline("p", [placed], inputs={"order": str}, deps={"ledger": Ledger})
    async with Runtime(deps={"ledger": lambda: Ledger(tmp_path / "e.db")}) as runtime:
        run = await pipeline.using(runtime=runtime).run(order="a")
    assert run.reason == "error:OperationalError"


async def test_a_partial_and_an_object_have_effects_under_the_names_they_are_given() -> None:
    """Two partials of one function do different things: no parameter tells them apart."""
    done: list[tuple[str, str]] = []

    async def send(to: str, invoice: str) -> Receipt:
        done.append((to, invoice))
        return Receipt("ok", [to], 1, 1)

    class Sender:
        async def __call__(self, invoice: str) -> Receipt:
            return await send("Cleo", invoice)

    ledger = memory()
    bodies = {"ada": functools.partial(send, "Ada"), "ben": functools.partial(send, "Ben")}
    for name, body in (*bodies.items(), ("cleo", Sender())) * 2:
        stage = work(keyed=True, name="send")(
            idempotent(key="invoice:{invoice}", name=name, sink="keyed")(body)
        )
        inputs = {"invoice": str}
        pipeline = Pipeline("p", [stage], inputs=inputs, outputs=stage, deps={"ledger": Ledger})
        async with Runtime(deps={"ledger": lambda: _Kept(ledger)}) as runtime:
            run = await pipeline.using(runtime=runtime, tenant="t").run(invoice="a")
        assert run.output == Receipt("ok", [name.capitalize()], 1, 1)
    assert done == [("Ada", "a"), ("Ben", "a"), ("Cleo", "a")]


# -- mistakes ------------------------------------------------------------------------------------


async def body(invoice: str) -> str:
    return invoice


def sync_body(invoice: str) -> str:
    return invoice


@pytest.mark.parametrize(
    ("function", "options", "code"),
    [
        (sync_body, {}, "effect.body"),
        (body, {"sink": "transactional"}, "effect.body"),
        (sync_body, {"sink": "transactional"}, "effect.body"),
        (body, {"sink": "exactly_once"}, "effect.option"),
        (body, {"clients": ("invoce",)}, "effect.option"),
        (body, {"wait_s": -1}, "effect.option"),
        (body, {"key": "invoice:{invoce}"}, "effect.key"),
        (body, {"key": "invoice"}, "effect.key"),
        (body, {"key": "{}"}, "effect.key"),
        (body, {"key": "{"}, "effect.key"),
        (functools.partial(body), {"key": "invoice:{invoice}"}, "effect.option"),
        (7, {}, "effect.body"),
    ],
)
def test_mistakes_are_found_when_the_body_is_wrapped(
    function: Any, options: dict[str, Any], code: str
) -> None:
    with pytest.raises(BuildError, match=code):
        idempotent(**options)(function)
