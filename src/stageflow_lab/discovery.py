"""Which scenarios there are: Python files that name a SCENARIO, found without importing them.

Looking for the row in the text keeps `lab list` fast and lets one broken file break only its own
row. A file is imported when its row is explained, run or audited.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Final

from . import scenarios
from .errors import LabError
from .scenario import Scenario

_NAMED: Final = re.compile(r"^SCENARIO\b[^=\n]*=", re.MULTILINE)
_ROW: Final = re.compile(r"""\brow\s*=\s*["']([A-Za-z0-9_-]+)["']""")


@dataclass(frozen=True, slots=True)
class Found:
    """Where a row's scenario lies. `module` is its dotted name; None: a file of the user's own."""

    row: str
    path: Path
    module: str | None = None

    @property
    def origin(self) -> str:
        """The module, or the file's name where there is none."""
        return self.module if self.module is not None else self.path.name

    def text_hash(self) -> str:
        """The identity of the file's text; an audit holds only for the text it audited."""
        return hashlib.blake2b(self.path.read_bytes(), digest_size=16).hexdigest()


def find(folders: Sequence[Path] = ()) -> Mapping[str, Found]:
    """The lab's scenarios and those below `folders`, by row.

    Raises LabError `lab.duplicate_row` when two files claim one row, `lab.scenario_file` when a
    SCENARIO does not name its row as a string.
    """
    found: dict[str, Found] = {}
    for each in (*_shipped(), *(each for folder in folders for each in _below(folder))):
        other = found.get(each.row)
        if other is not None and other.path != each.path:
            raise LabError(
                "lab.duplicate_row",
                f"two scenarios claim row {each.row}: {other.origin} and {each.origin}.",
                fix="give one of them another row, or delete it",
            )
        found[each.row] = each
    return MappingProxyType(found)


def load(found: Found) -> Scenario:
    """Import the file and return its SCENARIO. Raises LabError `lab.scenario_file` if it cannot."""
    try:
        module = _imported(found)
    except Exception as error:  # a scenario file is foreign code: whatever it raises is its failure
        raise LabError(
            "lab.scenario_file",
            f"the scenario of {found.row} does not import: {type(error).__name__}: {error}",
            field=found.origin,
            fix=f"make `python -c 'import {found.origin}'` work"
            if found.module is not None
            else f"make `python {found.path.name}` run without an error",
        ) from error
    scenario = getattr(module, "SCENARIO", None)
    if isinstance(scenario, Scenario) and scenario.row == found.row:
        return scenario
    got = scenario.row if isinstance(scenario, Scenario) else type(scenario).__name__
    raise LabError(
        "lab.scenario_file",
        f"{found.origin} does not hold the scenario of {found.row}.",
        expected=f"SCENARIO = Scenario(row={found.row!r}, ...)",
        got=got,
        fix="name the row once, as a string, in SCENARIO",
    )


def package_missing(found: Found, error: LabError) -> str | None:
    """The package that a shipped scenario imports and this machine lacks, when `load` failed for
    that. A user's own file is not excused: the name may be misspelt."""
    cause = error.__cause__
    if found.module is None or not isinstance(cause, ModuleNotFoundError) or cause.name is None:
        return None
    package = cause.name.partition(".")[0]
    return None if package in ("stageflow", "stageflow_lab") else package


def _shipped() -> Iterator[Found]:
    for root in scenarios.__path__:
        base = Path(root)
        for path in sorted(base.rglob("*.py")):
            row = _row_in(path)
            if row is not None:
                inside = path.relative_to(base).with_suffix("")
                yield Found(row, path, ".".join((scenarios.__name__, *inside.parts)))


def _below(folder: Path) -> Iterator[Found]:
    if not folder.is_dir():
        raise LabError(
            "lab.scenario_file",
            f"there is no folder of scenarios at {folder}.",
            fix="give the folder that holds the files with a SCENARIO",
        )
    for path in sorted(folder.rglob("*.py")):
        row = _row_in(path)
        if row is not None:
            yield Found(row, path.resolve())


def _row_in(path: Path) -> str | None:
    text = path.read_text("utf-8")
    start = _NAMED.search(text)
    if start is None:
        return None
    row = _ROW.search(text, start.end())
    if row is None:
        raise LabError(
            "lab.scenario_file",
            f"{path.name} has a SCENARIO whose row cannot be read.",
            expected='row="CORE-001" as a plain string',
            fix="write the row as a string inside Scenario(...)",
        )
    return row[1]


def _imported(found: Found) -> ModuleType:
    if found.module is not None:
        return importlib.import_module(found.module)
    name = f"stageflow_lab_user_{found.path.stem}_{abs(hash(str(found.path)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, found.path)
    assert spec is not None and spec.loader is not None, f"{found.path} is no Python file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
