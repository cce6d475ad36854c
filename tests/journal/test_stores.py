"""All stores keep every promise of Store, and the kit notices a store that breaks one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stageflow.journal.conformance import (
    CHECKS,
    OWNER_CHECKS,
    SHARED_CHECKS,
    OtherOwner,
    another_process,
    check_store,
)
from stageflow.journal.memory import MemoryStore
from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import Append, EndedTurn, LoadedRun, Owner, RunHeader, Store
from stageflow.model.errors import JournalError
from stageflow.model.record import Record


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_memory_store_keeps_its_promises(check: Callable[[Store], None]) -> None:
    check(MemoryStore())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sqlite_store_keeps_its_promises(check: Callable[[Store], None], tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db")
    check(store)
    store.close()


@pytest.mark.parametrize("check", OWNER_CHECKS, ids=lambda check: check.__name__)
def test_memory_and_sqlite_know_which_processes_live(
    check: Callable[[Store, OtherOwner], None], tmp_path: Path
) -> None:
    for store in (MemoryStore(), SQLiteStore(tmp_path / "runs.db")):
        check(store, another_process)
        store.close()


def test_an_owner_elsewhere_is_neither_alive_nor_dead(tmp_path: Path) -> None:
    header = RunHeader("r", "default", "desk", None, None, None, None, 0.0, {}, 0)
    for store in (MemoryStore(), SQLiteStore(tmp_path / "runs.db")):
        store.create(header, Owner("another-host", "boot", 1, 1), ())
        assert [line.live for line in store.runs()] == [None]
        with pytest.raises(JournalError) as caught:
            store.claim("r", Owner.this_process())
        assert caught.value.code == "journal.owner_unknown"
        store.close()


@pytest.mark.parametrize("check", SHARED_CHECKS, ids=lambda check: check.__name__)
def test_sqlite_stores_share_a_file(check: Callable[[Any], None], tmp_path: Path) -> None:
    check(lambda: SQLiteStore(tmp_path / "runs.db"))


def test_the_kit_passes_over_a_file_that_holds_other_runs(tmp_path: Path) -> None:
    for _ in range(2):
        check_store(lambda: SQLiteStore(tmp_path / "runs.db"), is_shared=True)


class Faulty(MemoryStore):
    """A store to be broken in one place."""


class IgnoresEpochs(Faulty):
    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        current = {run: kept.head.epoch for run, kept in self._runs.items()}
        return super().commit([a._replace(epoch=current.get(a.run, a.epoch)) for a in batch])


class AcceptsTwice(Faulty):
    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        answers = []
        for append in batch:
            for kept in self._runs.values():
                kept.accepted.clear()
            answers += super().commit([append])
        return answers


class WritesHalfOfWhatItRefuses(Faulty):
    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        answers = []
        for append in batch:
            parts = [append._replace(records=(record,)) for record in append.records] or [append]
            found = [super(WritesHalfOfWhatItRefuses, self).commit([part])[0] for part in parts]
            answers.append(next((answer for answer in found if answer), None))
        return answers


class StopsAtTheFirstRefusal(Faulty):
    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        answers: list[JournalError | None] = []
        for append in batch:
            failed = answers and answers[-1]
            answers += [answers[-1]] if failed else super().commit([append])
        return answers


class AcknowledgesWithoutWriting(Faulty):
    def commit(self, batch: Sequence[Append]) -> list[JournalError | None]:
        return [None if len(a.records) > 1 else super(Faulty, self).commit([a])[0] for a in batch]


class TakesLiveRuns(Faulty):
    def claim(self, run: str, owner: Owner, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        if run in self._runs and not self._runs[run].head.is_finished:
            head = self._runs[run].head
            self._runs[run].head = head._replace(owner_text=None)
        return super().claim(run, owner, rerun=rerun)


class ForgetsTenants(Faulty):
    def runs(self, *, tenant: str | None = None, limit: int = 50) -> Any:
        return super().runs(limit=limit)


class HoldsForEveryTenant(Faulty):
    def holds(self, run: str, *, tenant: str) -> bool:
        return run in self._runs


class OverwritesRuns(Faulty):
    def create(self, header: RunHeader, owner: Owner, records: tuple[Record, ...]) -> int:
        self._runs.pop(header.run, None)
        return super().create(header, owner, records)


class LetsTurnsOvertake(Faulty):
    def _begun(self, kept: Any, append: Append, begins: Record) -> JournalError | None:
        if kept.turn is not None:
            self._session(kept.header).line.clear()
        return super()._begun(kept, append, begins)


class GivesNumbersTwice(Faulty):
    def _begun(self, kept: Any, append: Append, begins: Record) -> JournalError | None:
        refused = super()._begun(kept, append, begins)
        if refused is None and begins.data["turn"] == 3:
            self._session(kept.header).begun -= 1
        return refused


class MixesTenants(Faulty):
    def _session(self, header: RunHeader) -> Any:
        return super()._session(replace(header, tenant=""))

    def turns(self, tenant: str, session: str, **bounds: Any) -> Any:
        return super().turns("", session, **bounds)


class ShowsFailedTurns(Faulty):
    def turns(self, tenant: str, session: str, **bounds: Any) -> Any:
        found = super().turns(tenant, session, **bounds)
        runs = [run for run in self._runs.values() if run.header.tenant == tenant and run.turn]
        ended = [EndedTurn(run.turn.number, run.header.run) for run in runs if run.turn]
        return found._replace(ended=tuple(sorted(ended, reverse=True)))


class WaitsForTheDead(Faulty):
    def __init__(self) -> None:
        super().__init__(is_alive=lambda owner: True)


class ForgetsTheClaimed(Faulty):
    def claim(self, run: str, owner: Owner, *, rerun: Sequence[str] | None = None) -> LoadedRun:
        loaded = super().claim(run, owner, rerun=rerun)
        for session in self._sessions.values():
            session.line.pop(run, None)
        return loaded


FAULTY = list(Faulty.__subclasses__())


@pytest.mark.parametrize("kind", FAULTY)
def test_the_kit_notices_a_store_that_breaks_a_promise(kind: type[MemoryStore]) -> None:
    with pytest.raises(AssertionError, match="broken promise"):
        check_store(kind)


def test_importing_the_journal_loads_neither_msgspec_nor_sqlite() -> None:
    program = (
        "import sys, stageflow.journal, stageflow.journal.journal, stageflow.journal.memory;"
        "sys.exit(bool({'msgspec', 'sqlite3'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
