"""What an undo log keeps: sealed with keys, erased when somebody asks, swept when unused."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from stageflow import EffectError, KeyFile, LocalKeys
from stageflow.stages.work import MemoryResource, MemoryUndo, UndoLog
from stageflow.stages.work.undo import records as on_record
from stageflow.stages.work.undo.store import Decide

SECRET = "4929 1234 5678 9012"


class Clock:
    """A wall clock that is set."""

    def __init__(self) -> None:
        self.now_s = time.time()

    def __call__(self) -> float:
        return self.now_s


def _bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("undo.db*"))


def _count(path: Path, text: str) -> int:
    database = sqlite3.connect(path)
    query = "SELECT count(*) FROM stageflow_undo WHERE instr(record, ?)"
    (count,) = database.execute(query, (text.encode(),)).fetchone()
    database.close()
    return int(count)


async def test_nothing_of_a_sealed_log_can_be_read_without_its_keys(tmp_path: Path) -> None:
    cards = MemoryResource("cards")
    keys = KeyFile(tmp_path / "key")
    async with UndoLog(tmp_path / "undo.db", cards, keys=keys) as undo:
        line = undo.timeline("ann", by="test")
        await line.change(cards, "card of ann", SECRET)
        await line.change(cards, "card of ann", "gone")
        assert SECRET.encode() not in _bytes_in(tmp_path)
        assert b"card of ann" not in _bytes_in(tmp_path)
    async with UndoLog(tmp_path / "undo.db", cards, keys=KeyFile(tmp_path / "key")) as again:
        await again.timeline("ann", by="test").undo_to(1)
    assert cards.texts == {"card of ann": SECRET}


@pytest.mark.parametrize("keys", [None, LocalKeys(os.urandom(32))])
async def test_a_sealed_log_without_its_key_changes_nothing(keys: Any) -> None:
    store, cards = MemoryUndo(), MemoryResource("cards")
    undo = UndoLog(store, cards, keys=LocalKeys(bytes(32)))
    await undo.timeline("ann", by="test").change(cards, "a", SECRET)
    stranger = UndoLog(store, cards, keys=keys).timeline("ann", by="test")
    with pytest.raises(EffectError) as caught:
        await stranger.undo_to(0)
    assert (caught.value.code, cards.texts) == ("undo.keys", {"a": SECRET})
    await stranger.erase()  # what can't be read any more can be erased
    assert await stranger.steps() == ()


async def test_a_log_is_sealed_from_the_day_it_has_keys() -> None:
    store, cards = MemoryUndo(), MemoryResource("cards")
    await UndoLog(store, cards).timeline("ann", by="test").change(cards, "a", "before")
    undo = UndoLog(store, cards, keys=LocalKeys(bytes(32)))
    await undo.timeline("ann", by="test").change(cards, "a", SECRET)
    (name,) = await store.idle(-1.0)
    assert sum(SECRET.encode() in record for record in await store.read(name, 0)) == 0
    line = undo.timeline("ann", by="test")
    await line.undo_to(1)
    assert cards.texts == {"a": "before"}
    await line.undo_to(2)
    assert cards.texts == {"a": SECRET}


async def test_a_sealed_record_opens_in_its_own_place_only() -> None:
    store, cards = MemoryUndo(), MemoryResource("cards")
    undo = UndoLog(store, cards, keys=LocalKeys(bytes(32)))
    line = undo.timeline("ann", by="test")
    await line.change(cards, "a", "1")
    await line.change(cards, "a", "2")
    (name,) = await store.idle(-1.0)
    records = store._records[name]
    taken, records[0] = records[0], records[1]
    with pytest.raises(EffectError, match="can't be read"):
        await undo.timeline("ann", by="test").undo_to(0)
    records[0] = taken
    assert isinstance(on_record.decoded(records[0], name, 0), on_record.Keyed)
    records[1], records[3] = records[3], records[1]
    with pytest.raises(EffectError) as caught:
        await undo.timeline("ann", by="test").undo_to(0)
    assert (caught.value.code, cards.texts) == ("undo.damaged", {"a": "2"})


class Refusing:
    """A key service that is away."""

    async def wrap(self, key: bytes, *, bound: bytes) -> bytes:
        raise ConnectionError("no route")

    async def unwrap(self, wrapped: bytes, *, bound: bytes) -> bytes:
        raise ConnectionError("no route")


async def test_nothing_is_changed_while_the_key_service_is_away() -> None:
    store, cards = MemoryUndo(), MemoryResource("cards")
    line = UndoLog(store, cards, keys=Refusing()).timeline("ann", by="test")
    with pytest.raises(EffectError) as caught:
        await line.change(cards, "a", SECRET)
    assert (caught.value.code, cards.texts) == ("undo.keys", {})
    assert "no route" not in str(caught.value)
    undo = UndoLog(store, cards, keys=LocalKeys(bytes(32)))
    await undo.timeline("ann", by="test").change(cards, "a", SECRET)
    assert cards.texts == {"a": SECRET}


async def test_an_erased_timeline_begins_anew_for_everybody(tmp_path: Path) -> None:
    cards = MemoryResource("cards")
    async with UndoLog(tmp_path / "undo.db", cards) as undo:
        line, other = (undo.timeline("ann", by=name) for name in ("one", "two"))
        bystander = undo.timeline("bob", by="one")
        await bystander.change(cards, "b", "kept")
        for text in ("1", "2", SECRET):
            await line.change(cards, "a", text)
        assert len(await other.steps()) == 3
        await line.erase()
        assert _count(tmp_path / "undo.db", SECRET) == 0
        assert await line.change(cards, "a", "3") == 1
        assert [step.number for step in await other.steps()] == [1]
        for text in ("4", "5"):
            await line.change(cards, "a", text)
        await other.undo_to(1)
        assert cards.texts == {"a": "3", "b": "kept"}
        assert (await bystander.undo_to(0)).steps == (1,)


async def test_what_was_cut_off_is_finished_before_it_is_erased() -> None:
    class Dying(MemoryUndo):
        lives = True

        async def change(self, timeline: str, decide: Decide[Any]) -> Any:
            if not self.lives:
                raise EffectError("undo.store", "away")
            return await super().change(timeline, decide)

    store = Dying()

    class Fatal(MemoryResource):
        async def write(self, key: str, content: bytes | None, expected: Any) -> Any:
            store.lives = content is not None
            return await super().write(key, content, expected)

    cards = Fatal("cards")

    class Dead:
        def new(self) -> str:
            return os.urandom(4).hex()

        def is_alive(self, holder: str) -> bool:
            return False

    undo = UndoLog(store, cards, holders=Dead())
    line = undo.timeline("ann", by="test")
    await line.change(cards, "b", "1")
    await line.change(cards, "a", "2")
    with pytest.raises(EffectError):
        await line.undo_to(0)
    store.lives = True
    assert cards.texts == {"b": "1"}
    heir = MemoryResource("cards")
    heir.texts, heir._versions = cards.texts, cards._versions
    await UndoLog(store, heir, holders=Dead()).timeline("ann", by="heir").erase()
    assert (cards.texts, await store.unfinished()) == ({}, [])
    assert await line.steps() == ()


async def test_what_nobody_used_is_swept() -> None:
    clock = Clock()
    store, cards = MemoryUndo(wall_s=clock), MemoryResource("cards")
    undo = UndoLog(store, cards)
    old, new = (undo.timeline(name, by="test") for name in ("old", "new"))
    await old.change(cards, "old", "1")
    clock.now_s += 20 * 86_400
    await new.change(cards, "new", "1")
    assert await undo.sweep() == 0
    clock.now_s += 11 * 86_400
    assert await undo.sweep() == 1
    assert await undo.sweep() == 0
    assert (len(await old.steps()), len(await new.steps())) == (0, 1)
    assert cards.texts == {"old": "1", "new": "1"}, "what was changed stays as it is"


async def test_a_sweep_leaves_what_was_used_since_it_looked() -> None:
    clock = Clock()
    store, cards = MemoryUndo(wall_s=clock), MemoryResource("cards")
    undo = UndoLog(store, cards)
    line = undo.timeline("ann", by="test")
    await line.change(cards, "a", "1")
    clock.now_s += 40 * 86_400
    looked = await store.idle(30 * 86_400)
    await line.change(cards, "a", "2")
    assert len(looked) == 1 and not await line.erase_if_idle(30 * 86_400)
    assert len(await line.steps()) == 2
