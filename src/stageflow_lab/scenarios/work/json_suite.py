"""Texts that a parser must take, must refuse, or may treat as it likes.

The cases of JSONTestSuite (Seriot 2016), and beside them those that are no UTF-8, which the
package that the others were taken from does not carry unchanged: written here by RFC 3629 section
3, one for each way in which bytes are no character.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from typing import Any, Final, NamedTuple

from stageflow import ToolError
from stageflow.stages.work.tools import OutputCheck, OutputRules

_NO_UTF8: Final = (
    ("continuation byte alone", b"\x80"),
    ("start of two without the second", b"\xc3"),
    ("start of three, one missing", b"\xe2\x82"),
    ("start of four, one missing", b"\xf0\x9f\x8c"),
    ("overlong of two", b"\xc0\xaf"),
    ("overlong of three", b"\xe0\x80\xaf"),
    ("overlong of four", b"\xf0\x80\x80\xaf"),
    ("surrogate", b"\xed\xa0\x80"),
    ("past the last character", b"\xf4\x90\x80\x80"),
    ("byte that never occurs", b"\xff"),
    ("five bytes", b"\xf8\x88\x80\x80\x80"),
    ("Latin-1", b"caf\xe9"),
)


class Case(NamedTuple):
    """`expected` is "y", "n" or "i", as the suite's names say."""

    name: str
    data: bytes
    expected: str


def cases() -> Iterator[Case]:
    """All, the suite's first."""
    package = resources.files("stageflow_lab.scenarios.work")
    held = json.loads(package.joinpath("json_parsing_cases.json").read_text(encoding="utf-8"))
    for name, text in held["cases"]:
        whole = text[0] * text[1] if isinstance(text, list) else text
        yield Case(name, whole.encode(), name[0])
    for name, data in _NO_UTF8:
        yield Case(f"n_utf8_value: {name}", b'["' + data + b'"]', "n")
        yield Case(f"n_utf8_name: {name}", b'{"' + data + b'": 1}', "n")
        yield Case(f"n_utf8_outside: {name}", b"[" + data + b"]", "n")
    text = '{"a": ["\u20ac", 1]}'
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        yield Case(f"n_{encoding}", text.encode(encoding), "n")


def told(case: Case, check: OutputCheck[Any]) -> str:
    """ "accepted", "refused", or what else the shipped parser did with it."""
    try:
        check.check(case.data)
    except ToolError:
        return "refused"
    except Exception as error:  # the scenario boundary: any other end is a finding
        return f"raised {type(error).__name__}"
    return "accepted"


def parser() -> OutputCheck[Any]:
    """The shipped check with nothing but the grammar to hold."""
    rules = OutputRules(duplicates="report", depth_max=150, error_fields=(), repairs=())
    return OutputCheck(Any, tool="parser", rules=rules)
