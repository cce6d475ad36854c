"""The bag takes one value per node and names both writers of a second one."""

from __future__ import annotations

import pytest

from stageflow.model.bag import MISSING, BagConflict, OutputBag


def bag() -> OutputBag:
    return OutputBag(2, epoch=3, names={"draft": 0, "check": 1})


def test_a_second_value_is_refused_and_changes_nothing() -> None:
    written = bag()
    written.put(0, "first", 1, 4)
    with pytest.raises(BagConflict):
        written.put(0, "second", 2, 9)
    assert written.values[0] == "first"
    assert [entry.value for entry in written.entries] == ["first"]


def test_a_conflict_names_the_key_both_writers_and_the_declared_merges() -> None:
    written = bag()
    written.put(0, "first", 1, 4)
    with pytest.raises(BagConflict) as caught:
        written.put(0, "second", 2, 9)
    told = str(caught.value)
    assert caught.value.node == "draft"
    assert "'draft'" in told
    assert "revision 1" in told
    assert "attempt 1 (token 4, epoch 3)" in told
    assert "attempt 2 (token 9, epoch 3)" in told
    assert "declared merges: none" in told
    assert "first" not in told.replace("into the first", "")
    assert "second'" not in told


def test_a_withdrawn_value_cannot_be_followed_by_another() -> None:
    """A guard blocked the node: whoever writes it now would get past the guard."""
    written = bag()
    written.put(0, "raw", 1, 4, held=True)
    written.withdraw(0)
    with pytest.raises(BagConflict):
        written.put(0, "again", 2, 9)
    assert written.values[0] is MISSING
    assert written.accepted == []


def test_a_bag_without_names_tells_numbers() -> None:
    plain = OutputBag(1)
    plain.put(0, 1, 1, 1)
    with pytest.raises(BagConflict, match="node 0 has a value already"):
        plain.put(0, 2, 2, 2)
