"""What every resource and every store of an undo log must do, as executable checks.

Run them against your own: `await check_resource(...)` in a test. Each raises AssertionError with
what was broken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from stageflow.stages.work.undo.records import State
from stageflow.stages.work.undo.resource import Changed, Resource
from stageflow.stages.work.undo.store import Change, TimelineHead, UndoStore

Edit = Callable[[str, Any], Awaitable[None]]
"""Somebody else's write: key and value, None to remove."""


async def check_resource(
    resource: Resource, key: str, first: Any, second: Any, *, edit: Edit, sees_returns: bool
) -> None:
    """`key` must hold nothing; `first` and `second` are different values for it.

    `edit` writes without the resource, as others do. `sees_returns`: whether a version tells an
    edit that was put back.
    """
    assert resource.name and resource.in_flight_s >= 0
    await _check_writes(resource, key, first, second)
    await _check_conditions(resource, key, first, second, edit)
    if sees_returns:
        await _check_returns(resource, key, first, second, edit)


async def _check_writes(resource: Resource, key: str, first: Any, second: Any) -> None:
    nothing = await resource.read(key)
    assert nothing.content is None, f"{key!r} must hold nothing at first"
    wanted = await resource.encoded(first, nothing)
    made = await resource.write(key, wanted, nothing)
    assert made.content == wanted, "a write leaves what `encoded` said it would"
    assert made == await resource.read(key), "a write gives the state that a read gives then"
    again = await resource.encoded(resource.value(made.content), made)
    assert again == made.content, "a content's value is encoded as that content"
    other = await resource.write(key, await resource.encoded(second, made), made)
    assert other.content != made.content and other == await resource.read(key)
    back = await resource.write(key, made.content, other)
    assert back.content == made.content, "a content that was read can be written again"
    gone = await resource.write(key, None, back)
    assert gone.content is None and gone == await resource.read(key), "None removes"


async def _check_conditions(
    resource: Resource, key: str, first: Any, second: Any, edit: Edit
) -> None:
    nothing = await resource.read(key)
    await edit(key, second)
    theirs = await resource.read(key)
    await _is_refused(resource, key, await resource.encoded(first, nothing), nothing, theirs)
    ours = await resource.write(key, await resource.encoded(first, theirs), theirs)
    await edit(key, second)
    theirs = await resource.read(key)
    await _is_refused(resource, key, None, ours, theirs)
    await _is_refused(resource, key, ours.content, ours, theirs)
    await edit(key, None)
    await _is_refused(resource, key, theirs.content, theirs, await resource.read(key))


async def _check_returns(resource: Resource, key: str, first: Any, second: Any, edit: Edit) -> None:
    nothing = await resource.read(key)
    ours = await resource.write(key, await resource.encoded(first, nothing), nothing)
    await edit(key, second)
    await edit(key, first)
    theirs = await resource.read(key)
    assert theirs.content == ours.content, "the second edit puts back what was there"
    assert theirs.version != ours.version, "an edit that came and went is seen by the version"
    await _is_refused(resource, key, None, ours, theirs)
    await resource.write(key, None, theirs)


async def _is_refused(
    resource: Resource, key: str, content: bytes | None, expected: State, theirs: State
) -> None:
    try:
        await resource.write(key, content, expected)
    except Changed:
        found = await resource.read(key)
        assert found == theirs, f"a write that was refused changed {theirs} to {found}"
        return
    raise AssertionError(f"a write that expected {expected} was done where {theirs} was")


_TIMELINE: Final = "timeline ö/1"


async def check_undo_store(store: UndoStore, again: Callable[[], UndoStore]) -> None:
    """An empty store; `again` opens it once more, as another process would."""
    assert await store.read(_TIMELINE, 0) == [] and await store.unfinished() == []

    def nothing(head: TimelineHead, now_s: float) -> tuple[None, TimelineHead]:
        assert now_s > 0
        return None, head

    assert await store.change(_TIMELINE, nothing) == TimelineHead()
    records = [b"a", b"", bytes(range(256))]

    def longer(head: TimelineHead, now_s: float) -> tuple[Change, int]:
        after = TimelineHead(head.length + len(records), head.fence + 1, "me", now_s, True)
        return Change(after, records), head.length

    assert await store.change(_TIMELINE, longer) == 0
    assert await store.change(_TIMELINE, longer) == len(records)

    def failing(head: TimelineHead, now_s: float) -> tuple[Change, int]:
        raise ZeroDivisionError

    try:
        await store.change(_TIMELINE, failing)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("what `decide` raises reaches the caller")
    other = again()
    try:
        head = await other.change(_TIMELINE, nothing)
        assert (head.length, head.fence, head.holder) == (2 * len(records), 2, "me")
        assert await other.read(_TIMELINE, 0) == records * 2
        assert await other.read(_TIMELINE, 4) == records[1:]
        assert await other.read("another", 0) == []
        assert await other.unfinished() == [_TIMELINE]
        await other.change(_TIMELINE, lambda head, _: (Change(TimelineHead(head.length)), None))
        assert await other.unfinished() == []
        await _check_erasing(other, records)
    finally:
        await other.close()
        await other.close()


async def _check_erasing(store: UndoStore, records: Sequence[bytes]) -> None:
    """`_TIMELINE` has records, and was never used as far as its head says."""

    def used(head: TimelineHead, now_s: float) -> tuple[Change, None]:
        return Change(TimelineHead(head.length, used_s=now_s - 10.0)), None

    assert await store.idle(0.0) == [], "what was never used is not idle"
    await store.change(_TIMELINE, used)
    assert (await store.idle(5.0), await store.idle(15.0)) == ([_TIMELINE], [])
    ((latest, head),) = await store.latest(5)
    assert (latest, head.length, await store.latest(0)) == (_TIMELINE, 2 * len(records), [])
    await store.change("another", lambda *_: (Change(TimelineHead(1), [b"kept"]), None))
    erased = TimelineHead(erased=1)
    await store.change(_TIMELINE, lambda *_: (Change(erased, erases=True), None))
    assert await store.change(_TIMELINE, lambda head, _: (None, head)) == erased
    assert (await store.read(_TIMELINE, 0), await store.idle(0.0)) == ([], [])
    assert await store.latest(5) == []
    assert await store.read("another", 0) == [b"kept"]
    longer = Change(TimelineHead(len(records)), records)
    await store.change(_TIMELINE, lambda *_: (longer, None))
    assert await store.read(_TIMELINE, 0) == list(records), "places begin anew"
