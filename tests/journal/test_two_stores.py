"""Two stores of one process on one file keep each other's locks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stageflow.journal.sqlite import SQLiteStore
from stageflow.journal.store import Append, Owner, RunHeader
from stageflow.model.record import Record, RecordType

HEADER = RunHeader("r", "default", "desk", None, None, None, None, 0.0, {}, 0)


def seen_by_another_process(path: Path) -> int:
    """How many records of the run another process sees, which then closes the journal."""
    program = (
        "import sys; from stageflow.journal.sqlite import SQLiteStore\n"
        "store = SQLiteStore(sys.argv[1]); print(len(store.load('r').records)); store.close()"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    return int(told.stdout)


def test_a_second_store_of_a_process_does_not_cost_the_first_its_writes(tmp_path: Path) -> None:
    """
    1. this process opens the file twice
    2. another process opens and closes it: it is not the last, and must leave the log alone
    3. the first store writes, and is told that the record is durable
    4. a third process sees the record
    """
    path = tmp_path / "runs.db"
    first = SQLiteStore(path)
    first.create(HEADER, Owner.this_process(), ())
    second = SQLiteStore(path)
    assert seen_by_another_process(path) == 0
    assert first.commit([Append("r", 1, (Record(RecordType.STEP, 1),))]) == [None]
    assert seen_by_another_process(path) == 1
    assert len(second.load("r").records) == 1
    first.close()
    second.close()


def test_making_the_file_leaves_nothing_else_behind(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db")
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["runs.db"]
