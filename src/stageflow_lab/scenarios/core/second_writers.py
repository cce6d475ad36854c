"""Second writers of a key: they put into the bag of a live run, or append to its journal."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from stageflow import JournalError
from stageflow.contracts import contract_of
from stageflow.journal.journal import Journal
from stageflow.model.bag import MISSING, BagConflict
from stageflow.model.record import Record, RecordType
from stageflow.model.values import Freezer
from stageflow.runtime.driver import Driver

from .fan_out import (
    BAG_WRITTEN_TWICE,
    JOURNAL_WRITTEN_TWICE,
    ROGUE_ATTEMPT,
    ROGUE_TOKEN,
    VALUE,
    KeyLog,
    name_of,
    number_of,
)

MERGES: Final = "declared merges: none"


def put_again(driver: Driver, log: KeyLog, rng: random.Random) -> None:
    """Puts a second value for a key that has one. Does nothing while no key has one."""
    index = driver.plan.index
    taken = [
        number
        for number in range(len(log.written))
        if driver.bag.values[index[name_of(number)]] is not MISSING
    ]
    if not taken:
        return
    number = rng.choice(taken)
    name = name_of(number)
    log.befell[BAG_WRITTEN_TWICE] += 1
    value = Freezer().freeze([number, ROGUE_ATTEMPT, 0])
    try:
        driver.bag.put(index[name], value, ROGUE_ATTEMPT, ROGUE_TOKEN)
    except BagConflict as conflict:
        log.written[number].append("p" + _mark(str(conflict), name, log.written[number]))
    else:
        log.written[number].append("p!")


async def append_again(
    journal: Journal, run: str, epoch: int, log: KeyLog, rng: random.Random
) -> bool:
    """Appends a second accepted outcome for a key that has a durable one, as a writer with the
    right epoch. Does nothing, and says False, while no key has one."""
    try:
        records = (await journal.load(run)).records
    except JournalError:
        return False  # the run is not on disk yet
    number = _accepted(records, rng)
    if number is None:
        return False
    log.befell[JOURNAL_WRITTEN_TWICE] += 1
    payload = contract_of(VALUE).encode(Freezer().freeze([number, ROGUE_ATTEMPT, 0]))
    second = Record(
        RecordType.OUTCOME,
        len(records) + 1,
        node=name_of(number),
        revision=1,
        attempt=ROGUE_ATTEMPT,
        token=ROGUE_TOKEN,
        data={"status": "ok", "accepted": True},
        payload=payload,
    )
    try:
        await journal.append(run, epoch, (second,))
    except JournalError as refused:
        # Somebody else's record may have come first: then the place is taken, not only the key.
        mark = "="
        if refused.code == "journal.already_accepted":
            mark = _mark(str(refused), name_of(number), log.written[number])
        log.written[number].append(f"q{mark}")
    else:
        log.written[number].append("q!")
    return True


def _accepted(records: Sequence[Record], rng: random.Random) -> int | None:
    found = [number_of(record.node) for record in records if record.is_accepted]
    numbers = [number for number in found if number is not None]
    return rng.choice(numbers) if numbers else None


def _mark(told: str, name: str, operations: list[str]) -> str:
    """+ when the message names the key, both writers and what merges there are; else ~."""
    first = next((each[2:] for each in operations if each[0] == "w"), "?")
    named = (
        f"'{name}'" in told or f"node: {name}\n" in told,
        f"attempt {ROGUE_ATTEMPT} (token {ROGUE_TOKEN}" in told,
        f"attempt {first} (token " in told,
        "revision 1" in told,
        MERGES in told,
    )
    return "+" if all(named) else "~"
