"""A record comes back from its line as it was, and no two records share a checksum's input."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stageflow.journal.line import Line, chained, encoded, header_of, header_text, record_of
from stageflow.journal.store import Append, RunHeader
from stageflow.journal.verification import verified_line
from stageflow.model.errors import JournalError
from stageflow.model.record import Record, RecordType

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
INTS = st.integers(-(2**63), 2**63 - 1)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
RECORDS = st.builds(
    Record,
    type=st.sampled_from([kind for kind in RecordType if kind is not RecordType.RUN_ENDED]),
    seq=INTS,
    node=TEXT,
    revision=INTS,
    attempt=INTS,
    token=INTS,
    wall_s=st.floats(allow_nan=False, allow_infinity=False),
    data=st.dictionaries(st.text(max_size=3) | st.just("accepted"), PLAIN, max_size=4),
    contract=TEXT,
    labels=st.lists(TEXT, max_size=3).map(tuple),
    key_id=TEXT,
    payload=st.none() | st.binary(max_size=20),
    keys=st.just(()),  # no part of a line
)


def _line(record: Record) -> Line:
    lines = encoded(Append("run", 1, (record,)))
    assert not isinstance(lines, JournalError), lines
    return lines[0]


def _columns(line: Line, previous: bytes) -> tuple[Any, ...]:
    """As a store gives them back: text as bytes."""
    cells = [cell.encode() if isinstance(cell, str) else cell for cell in line[1:12]]
    return (
        b"run", line.seq, 1, *cells, line.payload, None, previous, chained(previous, line),
    )  # fmt: skip


@given(RECORDS)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert record_of(_line(record)) == record


@given(RECORDS)
def test_a_stored_line_is_believed(record: Record) -> None:
    columns = _columns(_line(record), b"p" * 16)
    assert verified_line("run", columns, seq=record.seq, previous=b"p" * 16)[0] == record


@given(RECORDS, RECORDS)
def test_different_records_have_different_bodies(one: Record, other: Record) -> None:
    same = repr(one) == repr(other)  # repr tells 1 from True and 0.0 from -0.0
    assert same or _line(one).body != _line(other).body


def test_text_that_moves_between_fields_changes_the_body() -> None:
    one = Record(RecordType.STEP, 1, node="ab", contract="c", key_id="")
    assert _line(one).body != _line(one._replace(node="a", contract="bc")).body
    assert _line(one).body != _line(one._replace(contract="", key_id="c")).body
    assert _line(one._replace(node=None)).body != _line(one._replace(node="")).body
    assert _line(one._replace(payload=None)).body != _line(one._replace(payload=b"")).body


def test_a_header_holds_the_fingerprints_of_a_hundred_thousand_stages() -> None:
    prints = {f"stage{number}": f"{number:024x}" for number in range(100_000)}
    header = RunHeader("r", "t", "deep", None, None, None, None, 1.0, prints, 0)
    assert header_of(header_text(header)) == header
