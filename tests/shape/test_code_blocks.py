"""The rules for code blocks refuse what would never be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shape import code_blocks
from tests.shape.code_blocks import BadBlock, Console, blocks, printed_by


def test_blocks_of_a_page_with_their_lines_and_reasons() -> None:
    first, second = blocks(
        "# Page\n\n```python\nx = 1\n```\n\n"
        "<!-- not run: it takes minutes -->\n```console\n$ make\n```\n"
    )
    assert (first.language, first.code, first.line, first.not_run) == ("python", "x = 1\n", 4, None)
    assert (second.language, second.not_run) == ("console", "it takes minutes")


def test_a_reason_counts_for_the_next_block_only() -> None:
    text = "<!-- not run: no key -->\n```python\n1\n```\n\n```python\n2\n```\n"
    assert [block.not_run for block in blocks(text)] == ["no key", None]


@pytest.mark.parametrize(
    "text",
    [
        "```python fragment\nx\n```\n",
        "```\nno language\n```\n",
        "* a list\n\n    ```python\n    x\n    ```\n",
        "~~~python\nx\n~~~\n",
        "```yaml\nnot: run\n```\n",
        "<!-- not run: -->\n```sql\nselect 1\n```\n",
        "<!-- not run: no server -->\nwords between\n```sql\nselect 1\n```\n",
        "```python\nnever closed\n",
    ],
)
def test_what_would_never_be_run_is_refused(text: str) -> None:
    with pytest.raises(BadBlock):
        blocks(text)


def test_a_console_prints_what_is_shown(in_tmp: Path) -> None:
    (block,) = blocks(
        "```console\n$ echo one; echo two 2; echo three\ntwo ...\nthree\n$ true\n```\n"
    )
    assert Console(in_tmp).run(block) == "one\ntwo 2\nthree\n"


@pytest.mark.parametrize(
    "code", ["$ false", "$ echo one\ntwo", "$ echo one two\none", "$ echo one; false"]
)
def test_a_console_that_does_otherwise_fails(code: str, in_tmp: Path) -> None:
    (block,) = blocks(f"```console\n{code}\n```\n")
    with pytest.raises(AssertionError):
        Console(in_tmp).run(block)


def test_a_console_may_show_how_a_command_fails(in_tmp: Path) -> None:
    (block,) = blocks("```console\n$ echo refused; false\nrefused\n```\n")
    assert Console(in_tmp).run(block) == "refused\n"


def test_a_command_that_takes_too_long_is_ended(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_blocks, "LIMIT_S", 0.1)
    (block,) = blocks("```console\n$ while true; do echo; done > /dev/null\n```\n")
    with pytest.raises(AssertionError, match="takes more than"):
        Console(in_tmp).run(block)


def test_run_stands_for_the_run_that_a_page_began(in_tmp: Path) -> None:
    begun, resumed = blocks(
        "```console\n$ echo run 06h163ivqu5u6n1r121q09ma6o\n```\n"
        "```console\n$ echo resume RUN\nresume 06h163ivqu5u6n1r121q09ma6o\n```\n"
    )
    console = Console(in_tmp)
    console.run(begun)
    console.run(resumed)


@pytest.mark.parametrize("code", ["ls", "output\n$ ls"])
def test_a_console_begins_with_a_command(code: str, in_tmp: Path) -> None:
    (block,) = blocks(f"```console\n{code}\n```\n")
    with pytest.raises(BadBlock):
        printed_by(block, in_tmp)
