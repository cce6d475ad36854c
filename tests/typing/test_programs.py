"""What users see in their editor: right programs are accepted, wrong ones refused on the line.

A line that a checker must refuse ends with `# refused: mypy, pyright`, naming the checkers that do.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAMS = sorted((HERE / "programs").glob("*.py"))
MARK = re.compile(r"#\s*refused:\s*([\w, ]+)$")
MYPY_LINE = re.compile(r"^(.+?):(\d+): error: (.*)$")

Refusals = dict[tuple[str, int], str]
"""(file, line) to the checker's first message there."""


@pytest.fixture(scope="module")
def by_mypy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Refusals:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"),
            *("--cache-dir", str(root / ".mypy_cache" / "programs")),
            *map(str, PROGRAMS),
        ],
        cwd=root,
        env={"MYPYPATH": str(root / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr or done.stdout
    found: Refusals = {}
    for line in done.stdout.splitlines():
        match = MYPY_LINE.match(line)
        if match:
            found.setdefault((Path(match[1]).name, int(match[2])), match[3])
    return found


@pytest.fixture(scope="module")
def by_pyright() -> Refusals:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "basedpyright", "--outputjson"),
            *("--pythonpath", sys.executable, "-p", str(HERE / "pyrightconfig.json")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr or done.stdout
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(PROGRAMS)
    found: Refusals = {}
    for each in report["generalDiagnostics"]:
        if each["severity"] == "error":
            place = Path(each["file"]).name, each["range"]["start"]["line"] + 1
            found.setdefault(place, each["message"])
    return found


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_programs_are_refused_where_they_are_wrong_and_only_there(
    checker: str, request: pytest.FixtureRequest
) -> None:
    found: Refusals = request.getfixturevalue(f"by_{checker}")
    wanted = _marked(checker)
    accepted = sorted(wanted - found.keys())
    assert not accepted, f"{checker} lets these mistakes pass: {accepted}"
    refused = {place: why for place, why in found.items() if place not in wanted}
    assert not refused, f"{checker} refuses right programs: {refused}"


def test_there_are_wrong_programs_for_both_checkers() -> None:
    assert len(_marked("mypy")) >= 10
    assert len(_marked("pyright")) >= 10


def _marked(checker: str) -> set[tuple[str, int]]:
    return {
        (path.name, number)
        for path in PROGRAMS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for mark in [MARK.search(line)]
        if mark and checker in re.split(r"[,\s]+", mark[1])
    }
