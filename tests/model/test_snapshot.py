"""A snapshot may be read from several threads while its run goes on."""

from __future__ import annotations

import threading
from typing import Any, SupportsIndex

from stageflow.model.bag import Entry, OutputBag
from stageflow.model.identity import Identity
from stageflow.model.snapshot import ContextSnapshot

NAMES = {f"n{number}": number for number in range(8)}


class _Overtaken(list[Entry]):
    """Between a reader's look at the index and its look at an entry, another thread reads all."""

    bag: OutputBag
    overtaken = False

    def __getitem__(self, place: SupportsIndex | slice) -> Any:
        if not self.overtaken:
            self.overtaken = True
            other = threading.Thread(target=lambda: self.bag.position)
            other.start()
            other.join()
        return super().__getitem__(place)


def _snapshot(bag: OutputBag) -> ContextSnapshot:
    return ContextSnapshot(
        identity=Identity("r"), inputs={}, names=NAMES, bag=bag, version=len(bag.accepted)
    )


def test_a_reader_that_another_thread_overtakes_leaves_no_value_out() -> None:
    """1 a thread begins to index the accepted values, 2 another indexes all of them, 3 the first
    goes on, 4 one more value is accepted: it must be found."""
    bag = OutputBag(len(NAMES))
    entries = _Overtaken()
    entries.bag = bag
    bag.accepted = entries
    for number in range(3):
        bag.put(number, f"value {number}", 1, number)
    assert _snapshot(bag)["n0"] == "value 0"
    bag.put(3, "value 3", 1, 3)
    assert [_snapshot(bag)[f"n{number}"] for number in range(4)] == [
        f"value {number}" for number in range(4)
    ]
