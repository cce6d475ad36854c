"""What a user may write for a journal, and what is told when it can't be opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stageflow import BuildError, Runtime
from stageflow.journal.opening import opened


@pytest.mark.parametrize("form", ["runs.db", "sqlite:///runs.db", Path("runs.db")])
async def test_a_path_and_its_address_are_one_file(form: str | Path, in_tmp: Path) -> None:
    journal = opened(form)
    await journal.close()
    assert (in_tmp / "runs.db").exists()


async def test_an_absolute_address_has_four_slashes(tmp_path: Path, in_tmp: Path) -> None:
    await opened(f"sqlite:///{tmp_path}/deep/runs.db").close()
    assert (tmp_path / "deep" / "runs.db").exists()


@pytest.mark.parametrize(
    "address",
    [
        "mysql://host/db",
        "sqlite:///",
        "redis://secret@host",
        "postgresql:/me:secret@host/db",
        "postgres//me:secret@host/db",
        "sqlite:runs.db",
    ],
)
def test_an_unknown_address_is_refused_without_being_shown(address: str) -> None:
    with pytest.raises(BuildError) as caught:
        Runtime(journal=address)
    assert caught.value.code == "runtime.journal" and "secret" not in str(caught.value)


def test_a_missing_driver_is_told_with_its_install() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from stageflow import JournalError, Runtime\n"
        "try:\n    Runtime(journal='postgresql://localhost/runs')\n"
        "except JournalError as error:\n    print(error.code, error.fix)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "journal.no_driver pip install 'stageflow[postgres]'\n"
