"""Every store of effects, by the shipped checks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stageflow.model.errors import BuildError, EffectError
from stageflow.stages.work import Ledger, LedgerRules
from stageflow.stages.work.ledger import conformance
from stageflow.stages.work.ledger.memory import MemoryEffects
from stageflow.stages.work.ledger.sqlite import SQLiteEffects
from stageflow.stages.work.ledger.store import Decide, decoded

from .conftest import StoreMaker


async def test_a_store_keeps_its_promises(opened_store: StoreMaker) -> None:
    await conformance.check_effect_store(opened_store)


async def test_the_checks_notice_a_store_that_checks_before_it_acts() -> None:
    class Careless(MemoryEffects):
        async def change(self, key: str, decide: Decide) -> object:
            entry = self.entries.get(key)
            await asyncio.sleep(0)
            changed, answer = decide(entry, 0.0)
            self.write(key, changed)
            return answer

    entries: dict = {}
    with pytest.raises(AssertionError, match="one of many claim"):
        await conformance.check_effect_store(lambda: Careless(entries))


async def test_a_store_that_is_away_says_so_without_its_words(tmp_path: Path) -> None:
    store = SQLiteEffects(tmp_path / "missing" / "effects.db")
    with pytest.raises(EffectError) as raised:
        await conformance.read(store, "k")
    assert raised.value.code == "effect.store" and "missing" not in str(raised.value)
    await store.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "effects.db").write_bytes(b"not a database, but long enough to look" * 40)
    store = SQLiteEffects(tmp_path / "effects.db")
    with pytest.raises(EffectError, match=r"effect\.store"):
        await conformance.read(store, "k")
    await store.close()


def test_an_entry_that_is_none_is_named_and_not_guessed() -> None:
    with pytest.raises(EffectError, match=r"effect\.damaged"):
        decoded(b"\x93\x01\x02", "k")


async def test_a_closed_ledger_refuses(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "effects.db")
    await ledger.aclose()
    await ledger.aclose()
    with pytest.raises(EffectError, match=r"effect\.closed"):
        await ledger.allow("k")


def test_an_address_that_nobody_knows_is_refused() -> None:
    with pytest.raises(BuildError, match=r"effect\.address"):
        Ledger("mysql://here/effects")


@pytest.mark.parametrize("options", [{"keep_s": 0}, {"lease_s": -1.0}, {"skew_s": -1}])
def test_rules_that_are_no_times_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BuildError, match=r"effect\.rules"):
        LedgerRules(**options)
