"""What the lab's commands share: their options, how their errors and JSON are told."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from stageflow.model.errors import StageflowError

from . import discovery
from .discovery import Found
from .errors import LabError
from .report.terminal import Page
from .results import ResultStore
from .roadmap import PHASE_NAMES
from .runner.batch import RunOptions
from .selection import Filters

USAGE_ERROR: Final = 64  # EX_USAGE of sysexits.h


class Subparsers(Protocol):
    """What `argparse.ArgumentParser.add_subparsers` returns, as far as it is used here."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """A parser for the command `name`."""


class Parser(argparse.ArgumentParser):
    """Ends with the exit code of a usage error, not with argparse's own."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which rows, and --json."""
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names or quoted globs: 'DAG-*'")
    parser.add_argument("--tier", type=int, action="append", choices=range(1, 11), metavar="1..10")
    parser.add_argument("--phase", type=int, action="append", choices=sorted(PHASE_NAMES))
    parser.add_argument("--priority", action="append", choices=("P0", "P1", "P2"))
    parser.add_argument("--section", action="append", metavar="NAME", help="core, dag, guard, ...")
    add_json(parser)
    add_places(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Where JSON goes: a file, or "-" for standard output in place of text."""
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="as JSON, to FILE or standard output"
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Where results and further scenarios lie."""
    add_out(parser)
    parser.add_argument(
        "--scenarios", action="append", default=[], metavar="DIR", help="further scenario files"
    )


def add_out(parser: argparse.ArgumentParser) -> None:
    """Where results lie."""
    parser.add_argument("--out", metavar="DIR", help="results folder (default .stageflow/lab)")


def add_running(parser: argparse.ArgumentParser) -> None:
    """How rows are run."""
    parser.add_argument("--seed", type=_natural, default=1, help="default: 1")
    parser.add_argument("--jobs", type=_positive, default=2, help="rows at a time (default 2)")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folders")
    parser.add_argument(
        "--allow-skipped", action="store_true", help="skipped and missing rows do not fail the run"
    )


def handling(action: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """`action`, with the errors of users shown as text and given the code of a usage error."""

    def handler(arguments: argparse.Namespace) -> int:
        try:
            return action(arguments)
        except StageflowError as error:
            Page(sys.stderr).line(str(error))
            return USAGE_ERROR
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            sys.stderr.close()
            return 0

    return handler


def places(arguments: argparse.Namespace) -> tuple[Mapping[str, Found], ResultStore]:
    """The scenarios and the results folder that `add_places` asked for."""
    folders = [Path(folder) for folder in arguments.scenarios]
    return discovery.find(folders), ResultStore.at(arguments.out)


def row_filters(arguments: argparse.Namespace) -> Filters:
    """What `add_selection` asked for."""
    return Filters(
        patterns=tuple(arguments.rows),
        tiers=tuple(arguments.tier or ()),
        phases=tuple(arguments.phase or ()),
        priorities=tuple(arguments.priority or ()),
        sections=tuple(arguments.section or ()),
    )


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """What `add_running` asked for."""
    return RunOptions(
        size=getattr(arguments, "size", "quick"),
        seed=arguments.seed,
        jobs=arguments.jobs,
        keep=arguments.keep,
        folders=tuple(arguments.scenarios),
    )


def write_json(target: str, data: Mapping[str, Any]) -> None:
    """`data` to the file `target`, "-" for standard output. Raises LabError `lab.output`."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, "utf-8")
    except OSError as error:
        raise LabError(
            "lab.output",
            f"{target} cannot be written: {error.strerror}.",
            fix="give a file in a folder that exists and may be written",
        ) from error


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number
