"""Why an output, or arguments, are refused: coded errors that never show what a tool said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stageflow.model.errors import ToolError

PROBLEMS_SHOWN: Final = 5
_NAME_MAX: Final = 60


def too_large(bytes_max: int, got: str) -> ToolError:
    """More bytes than the cap; reading has stopped."""
    return ToolError(
        "tool.output_size",
        "the tool's output is larger than its cap; it was not parsed",
        expected=f"at most {bytes_max:,} bytes",
        got=got,
        fix="ask the tool for less, or raise OutputRules(bytes_max=...)",
    )


def truncated(got: str, *, expected: str = "a whole document") -> ToolError:
    """The output ends before it is complete."""
    return ToolError(
        "tool.output_truncated",
        "the tool's output ends too early",
        expected=expected,
        got=got,
        fix="call the tool again; what is missing is never guessed",
    )


def not_text(got: str) -> ToolError:
    """The bytes are no UTF-8, or the text could not be written as such."""
    return ToolError(
        "tool.output_encoding",
        "the tool's output is no text in UTF-8",
        expected="UTF-8 without lone surrogates (RFC 8259 section 8.1, RFC 3629)",
        got=got,
        fix="decode it where it comes from, where its encoding is known",
    )


def not_json(expected: str, got: str) -> ToolError:
    """The text is no JSON as RFC 8259 has it, or more than can be held without loss."""
    return ToolError(
        "tool.output_json",
        "the tool's output is not JSON that can be trusted",
        expected=expected,
        got=got,
        fix="mend the tool, or take OutputRules(form='text') for one that answers in prose",
    )


def error_page(got: str) -> ToolError:
    """An error came where a value was due, with a status that said success."""
    return ToolError(
        "tool.output_error_page",
        "the tool answered with an error in place of its output",
        expected="the output, whatever the status said",
        got=got,
        fix="look at the tool's own log; a field that is no error belongs into the contract",
    )


def unlike(problems: Sequence[tuple[str, str]]) -> ToolError:
    """The document breaks its contract: (path, what is wrong) each."""
    return ToolError(
        "tool.output_contract",
        f"the tool's output breaks its contract: {shown(problems)}",
        field=problems[0][0] if problems else None,
        expected=problems[0][1] if problems else None,
        fix="mend the tool, or the contract if the tool is right",
    )


def unknown_fields(paths: Sequence[str]) -> ToolError:
    """The document has fields that its contract does not name."""
    return ToolError(
        "tool.output_unknown",
        "the tool's output has fields that its contract does not name: "
        + ", ".join(cut(path) for path in paths[:PROBLEMS_SHOWN]),
        field=cut(paths[0]),
        expected="no other fields than the contract names",
        fix="name them in the contract, or keep them: OutputRules(unknown='keep')",
    )


def contradictory(name: str, said: str) -> ToolError:
    """An invariant does not hold."""
    return ToolError(
        "tool.output_invariant",
        f"the tool's output contradicts itself: {name} does not hold",
        expected=name,
        got=said,
        fix="call the tool again, or ask who runs it",
    )


def shown(problems: Sequence[tuple[str, str]]) -> str:
    """At most five problems, for people."""
    told = "; ".join(f"{cut(path)} {what}" for path, what in problems[:PROBLEMS_SHOWN])
    more = len(problems) - PROBLEMS_SHOWN
    return told + (f"; and {more} more" if more > 0 else "")


def path_of(parts: Sequence[str | int]) -> str:
    """`$.items[3].name`, with what can't be printed escaped."""
    path = "$"
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{ascii(part)[1:-1]}"
    return path


def cut(text: str) -> str:
    """Names come from the tool: shortened, and never more than a line."""
    clean = text if text.isprintable() else ascii(text)[1:-1]
    return clean if len(clean) <= _NAME_MAX else clean[: _NAME_MAX - 3] + "..."
