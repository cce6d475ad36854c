"""Every promise of Store as a check: run it over a store before trusting the store with runs.

    check_store(lambda: SQLiteStore(path))

Raises AssertionError that names the broken promise. Needs no test framework.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from stageflow.journal.queue import QueueBounds, QueueStore, Wanted
from stageflow.journal.store import Append, Owner, RunHeader, RunSummary, Store
from stageflow.model.errors import JournalError
from stageflow.model.ids import RunIds
from stageflow.model.record import UNDO_RUN, Record, RecordType

MakeStore = Callable[[], Store]
OtherOwner = Callable[[Store], AbstractContextManager[Owner]]
"""An owner that is alive, as the store sees it, until the block ends, and dead from then on."""
RACERS = 4
_TARGET = "shop:desk"
RACE_RECORDS = 50
RACE_TURNS = 10


@contextmanager
def another_process(store: Store) -> Iterator[Owner]:
    """A process of this host; for stores that look at processes."""
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE) as process:
        try:
            yield Owner.of_process(process.pid)
        finally:
            process.kill()


def check_store(
    make_store: MakeStore, *, is_shared: bool = False, other_owner: OtherOwner = another_process
) -> None:
    """Run every check, each on a store of its own from `make_store`.

    `is_shared`: what one store wrote, the next one from `make_store` sees; then that is checked
    too. `other_owner`: how an owner lives and dies for this store. Runs get fresh ids, so the
    stores may hold other runs.
    """
    for check in CHECKS:
        with _opened(make_store) as store:
            check(store)
    for owner_check in OWNER_CHECKS:
        with _opened(make_store) as store:
            owner_check(store, other_owner)
    if is_shared:
        for shared_check in SHARED_CHECKS:
            shared_check(make_store)


def gives_back_what_was_written(store: Store) -> None:
    """A loaded run equals what was created and appended, field by field."""
    records = (
        Record(RecordType.RUN_STARTED, 1, payload=b'{"text":"tide"}', wall_s=1e9 + 0.1),
        Record(RecordType.INTENT, 2, node="a", revision=0, attempt=1, token=1),
        Record(
            RecordType.OUTCOME,
            3,
            node="a",
            revision=2,
            attempt=1,
            token=2**62,
            wall_s=-1.5,
            data={"accepted": True, "deep": [1, None, 2.5, {"ключ": "\ud800 \x00 '"}], "n": 10**40},
            contract="c0ffee",
            labels=("pii", "tenant:ä"),
            key_id="k\x001",
            payload=bytes(range(256)),
        ),
        Record(RecordType.STEP, 4, node="", data={}, payload=b""),
        Record(RecordType.STEP, 5, node="b", payload=b"x" * 300_000),
        Record(RecordType.STEP, 6, node="c", payload=b"x" * 300_000),
        Record(RecordType.STEP, 7, node="d", payload=None),
    )
    header = _header(
        target="shop:desk", session="s", parent="p", correlation="c", seed=2**80, pipeline="'; --"
    )
    _expect(store.create(header, _me(), records[:1]) == 1, "create returns epoch 1")
    _accepts(store, Append(header.run, 1, records[1:]))
    loaded = store.load(header.run)
    _expect(loaded.header == header, "load gives the header back as it was created")
    _same(loaded.records, records)
    _expect((loaded.epoch, loaded.status) == (1, "running"), "a created run runs in epoch 1")


def keeps_its_own_copy(store: Store) -> None:
    """Changing what was handed in changes nothing that was written."""
    fingerprints, data, buffer = {"a": "f"}, {"list": [1]}, bytearray(b"before")
    header = _header(fingerprints=fingerprints)
    record = Record(RecordType.STEP, 1, data=data, payload=memoryview(buffer))  # type: ignore[arg-type]
    store.create(header, _me(), (record,))
    fingerprints["a"] = "changed"
    data["list"].append(2)
    buffer[:] = b"after!"
    loaded = store.load(header.run)
    _expect(loaded.header.fingerprints == {"a": "f"}, "a header is the store's own")
    _expect(loaded.records[0].data == {"list": [1]}, "data is the store's own")
    _expect(loaded.records[0].payload == b"before", "a payload is the store's own")


def keeps_keys_apart_from_records(store: Store) -> None:
    """Keys that records bring are given back with the run, and the records without them."""
    header = _header()
    first = _started()._replace(keys=(("run", b"wrapped"), ("a#1", b"\x00\xff")))
    store.create(header, _me(), (first,))
    _accepts(store, Append(header.run, 1, (_step(2), _step(3)._replace(keys=(("b#1", b"b"),)))))
    again = _step(4)._replace(keys=(("b#1", b"another"), ("\u043a\x00'", b"")))
    _accepts(store, Append(header.run, 1, (again,)))
    keys = {"run": b"wrapped", "a#1": b"\x00\xff", "b#1": b"b", "\u043a\x00'": b""}
    loaded = store.load(header.run)
    _expect(loaded.keys == keys, "each key is there once, as it came first")
    _same(loaded.records, (_started(), _step(2), _step(3), _step(4)))
    _expect(store.claim(header.run, _me()).keys == keys, "who claims a run gets its keys")
    _expect(store.load(_created(store).run).keys == {}, "a run has its own keys only")


def destroys_keys_with_the_record_that_says_so(store: Store) -> None:
    """A key is gone with the record that lists it; a refused one destroys and brings nothing."""
    keys = (("run", b"run"), ("a#1", b"a"), ("b#1", b"b"))
    one, two = _header(), _header()
    for header in (one, two):
        store.create(header, _me(), (_started()._replace(keys=keys),))
    says = _step(2)._replace(data={"shreds": ["a#1", "unknown"]})
    late = says._replace(seq=9, keys=(("c#1", b"c"),))
    _answers(store, [(Append(one.run, 1, (late,)), "journal.out_of_order")])
    _expect(store.load(one.run).keys == dict(keys), "a refused record changes no key")
    _accepts(store, Append(one.run, 1, (says,)))
    _expect(store.load(one.run).keys == {"run": b"run", "b#1": b"b"}, "a listed key is gone")
    brief = _step(3)._replace(keys=(("d#1", b"d"),))
    at_once = _step(4)._replace(data={"shreds": ["d#1", "b#1"]})
    _accepts(store, Append(one.run, 1, (brief, at_once)))
    _expect(store.load(one.run).keys == {"run": b"run"}, "one that came and went was never there")
    _expect(store.load(two.run).keys == dict(keys), "another run's key of that id stays")
    _same(store.load(one.run).records[1:], (says, _step(3), at_once))


def erases_the_keys_of_a_run(store: Store) -> None:
    """Erasing takes all keys of one run, and nothing else."""
    keys = (("run", b"run"), ("a#1", b"a"))
    one, two = _header(), _header()
    for header in (one, two):
        store.create(header, _me(), (_started()._replace(keys=keys),))
    _expect(store.erase(one.run) == len(keys), "it tells how many there were")
    _expect(store.load(one.run).keys == {}, "none is left")
    _same(store.load(one.run).records, (_started(),))
    _expect(store.erase(one.run) == 0, "a second time there is nothing to destroy")
    _expect(store.load(two.run).keys == dict(keys), "another run has its keys")
    _refuses("journal.unknown_run", lambda: store.erase("nobody"))


def refuses_a_second_run_under_one_id(store: Store) -> None:
    """A taken id is refused, and the run that has it is as it was."""
    header = _created(store)
    before = store.load(header.run)
    intruder = replace(header, pipeline="intruder", tenant="other")
    _refuses("journal.run_exists", lambda: store.create(intruder, _me(), (_started(),)))
    for tenant, told in (("default", True), ("other", False)):
        second = replace(header, pipeline="second", tenant=tenant)
        try:
            store.create(second, _me(), (_started(),))
        except JournalError as error:
            text = str(error)
            _expect(header.run in text and "'second'" in text, "a refusal names id and new run")
            _expect(("'desk'" in text) is told, "it names the run that exists, to its tenant only")
    _expect(store.load(header.run) == before, "a refused create leaves the existing run alone")
    fresh = _header()
    _refuses("journal.out_of_order", lambda: store.create(fresh, _me(), (_step(2),)))
    _refuses("journal.unknown_run", lambda: store.load(fresh.run))


def answers_unknown_ids(store: Store) -> None:
    """An id that no run has is answered as such, whatever it looks like."""
    for run in ("nobody", "", "%", "' OR 1=1 --", "a\x00b", "\ud800", "x" * 100_000):
        _refuses("journal.unknown_run", partial(store.load, run))
        _refuses("journal.unknown_run", partial(store.claim, run, _me()))
        _answers(store, [(Append(run, 1, (_step(1),)), "journal.unknown_run")])


def accepts_or_refuses_each_item_alone(store: Store) -> None:
    """A refused item leaves no trace, and its neighbours in the batch are written."""
    one, two = _created(store).run, _created(store).run
    _answers(
        store,
        [
            (Append(one, 1, (_outcome(2, "a"), _step(3))), None),
            (Append("nobody", 1, (_step(1),)), "journal.unknown_run"),
            (Append(two, 2, (_step(2),)), "journal.stale_owner"),
            (Append(two, 0, (_step(2),)), "journal.stale_owner"),
            (Append(two, 1, (_step(3),)), "journal.out_of_order"),
            (Append(two, 1, (_step(2), _step(2))), "journal.out_of_order"),
            (Append(two, 1, (_step(1),)), "journal.out_of_order"),
            (Append(two, 1, (_outcome(2, "a"), _outcome(3, "a"))), "journal.already_accepted"),
            (Append(two, 1, (_step(2), _unkeepable(3))), "journal.bad_record"),
            (Append(two, 1, (_step(2),)), None),
            (Append(one, 1, (_step(4), _outcome(5, "a"))), "journal.already_accepted"),
            (Append(one, 1, (_step(4),)), None),
            (Append(one, 1, ()), None),
            (Append(one, 9, ()), "journal.stale_owner"),
        ],
    )
    _expect(len(store.load(one).records) == 4, "exactly the accepted items are there")
    _same(store.load(two).records, (_started(), _step(2)))
    _expect(store.commit([]) == [], "an empty batch is nothing")


def accepts_one_outcome_per_revision(store: Store) -> None:
    """Once accepted, an outcome of (node, revision) is the only one, across commits."""
    run = _created(store).run
    _accepts(store, Append(run, 1, (_outcome(2, "a"),)))
    _answers(store, [(Append(run, 1, (_outcome(3, "a"),)), "journal.already_accepted")])
    refused = Record(RecordType.OUTCOME, 3, node="a", data={"accepted": False})
    _accepts(store, Append(run, 1, (refused, _outcome(4, "a", revision=1), _outcome(5, "b"))))
    other = _created(store).run
    _accepts(store, Append(other, 1, (_outcome(2, "a"),)))


def refuses_what_it_could_not_give_back(store: Store) -> None:
    """A record that would change on its way through the store is refused."""
    run = _created(store).run
    nested: dict[str, Any] = {}
    for _ in range(100):
        nested = {"in": nested}
    for fields in (
        {"data": {"key": object()}},
        {"data": {1: "number as key"}},
        {"data": {"key": b"bytes"}},
        {"data": nested},
        {"data": {"key": "x" * 2_000_000}},
        {"wall_s": float("nan")},
        {"wall_s": float("inf")},
        {"token": 2**63},
        {"node": "\ud800"},
        {"labels": (1,)},
        {"contract": None},
        {"payload": "text"},
        {"type": RecordType.OUTCOME, "data": {"accepted": True}},
        {"type": RecordType.RUN_ENDED, "data": {"status": "running"}},
        {"type": RecordType.RUN_ENDED},
    ):
        bad = _step(2)._replace(node=None)._replace(**fields)
        _answers(store, [(Append(run, 1, (bad,)), "journal.bad_record")])
    for fields in ({"tenant": "\ud800"}, {"session": "\ud800"}, {"session": 7}):
        whose = _header(**fields)
        _refuses("journal.bad_record", partial(store.create, whose, _me(), ()))
    _same(store.load(run).records, (_started(),))


def hands_runs_of_dead_owners_over(store: Store, other_owner: OtherOwner) -> None:
    """A claim starts the next epoch and says so in the history; the old owner is refused."""
    with other_owner(store) as other:
        run = _created(store, other).run
    loaded = store.claim(run, _me())
    claimed = loaded.records[-1]
    _expect(loaded.epoch == 2, "a claim starts the next epoch")
    _expect(claimed.type is RecordType.CLAIMED and claimed.seq == 2, "a claim writes CLAIMED")
    _expect(claimed.data.get("pid") == _me().pid, "CLAIMED names the new owner's pid")
    _expect(store.load(run) == loaded, "a claim returns what a load shows")
    _answers(
        store,
        [
            (Append(run, 1, (_step(2),)), "journal.stale_owner"),
            (Append(run, 1, (_step(3),)), "journal.stale_owner"),
            (Append(run, 2, (_step(3),)), None),
        ],
    )
    _expect(store.claim(run, _me()).epoch == 3, "an owner may claim its own run again")


def refuses_runs_of_live_owners(store: Store, other_owner: OtherOwner) -> None:
    """A run whose owner lives stays with it."""
    with other_owner(store) as other:
        run = _created(store, other).run
        before = store.load(run)
        _refuses("journal.run_is_live", lambda: store.claim(run, _me()))
        _expect(store.load(run) == before, "a refused claim changes nothing")
        _expect(_listed(store, run).live is True, "a live owner is listed as live")
    _expect(_listed(store, run).live is False, "an ended owner is listed as not live")
    _expect(store.claim(run, _me()).epoch == 2, "a run can be claimed once its owner has ended")


def frees_released_runs(store: Store, other_owner: OtherOwner) -> None:
    """Who lets go of a run leaves it to anybody, at once; only its owner can."""
    with other_owner(store) as other:
        run = _created(store, other).run
        store.release(run, 2)
        store.release("nobody", 1)
        _refuses("journal.run_is_live", lambda: store.claim(run, _me()))
        store.release(run, 1)
        store.release(run, 1)
        line = _listed(store, run)
        _expect((line.status, line.owner, line.live) == ("running", None, False), "it is nobody's")
        _answers(store, [(Append(run, 1, (_step(2),)), "journal.stale_owner")])
        _expect(store.claim(run, _me()).epoch == 2, "a released run can be claimed at once")
        store.release(run, 1)
        _expect(_listed(store, run).owner == _me(), "a former owner can't release a run")
    _accepts(store, Append(run, 2, (_ended(3, "ok", ""),)))
    store.release(run, 2)
    _expect(store.load(run).status == "ok", "what ended stays ended")


def leaves_finished_runs_alone(store: Store) -> None:
    """What ended keeps its status, its outcomes and its epoch."""
    run = _created(store).run
    _accepts(store, Append(run, 1, (_outcome(2, "a"), _ended(3, "failed", "timeout"))))
    loaded = store.claim(run, _me())
    _expect((loaded.status, loaded.reason) == ("failed", "timeout"), "the ending is kept")
    _expect((loaded.epoch, len(loaded.records)) == (1, 3), "a claim changes no finished run")
    late = Record(RecordType.LATE, 4, node="b", data={"status": "ok"})
    _answers(
        store,
        [
            (Append(run, 1, (_ended(4, "ok", ""),)), "journal.run_ended"),
            (Append(run, 1, (_outcome(4, "b"),)), "journal.run_ended"),
            (Append(run, 1, (late,)), None),
        ],
    )
    line = _listed(store, run)
    _expect((line.status, line.owner, line.live) == ("failed", None, False), "it has no owner")


def reopens_what_ended_badly_when_asked(store: Store) -> None:
    """A claim with `rerun` takes up a run that did not end ok, and keeps what it had accepted."""
    run = _created(store).run
    _accepts(store, Append(run, 1, (_outcome(2, "a"), _ended(3, "failed", "timeout"))))
    loaded = store.claim(run, _me(), rerun=("b",))
    _expect((loaded.epoch, loaded.status) == (2, "running"), "a failed run may go on")
    _expect(loaded.records[-1].data.get("rerun") == ["b"], "what was allowed is on record")
    _expect(store.load(run) == loaded, "a reopened run loads as it was claimed")
    _answers(store, [(Append(run, 2, (_outcome(5, "a"),)), "journal.already_accepted")])
    _accepts(store, Append(run, 2, (_ended(5, "ok", ""),)))
    _expect(store.claim(run, _me(), rerun=()).epoch == 2, "a run that ended ok stays ended")
    undone = store.claim(run, _me(), rerun=(UNDO_RUN,))
    _expect((undone.epoch, undone.status) == (3, "running"), "unless it is to be taken back")


def wakes_suspended_runs(store: Store, other_owner: OtherOwner) -> None:
    """A suspended run has no owner: anybody may claim it, and then it runs again."""
    with other_owner(store) as other:
        run = _created(store, other).run
        _accepts(store, Append(run, 1, (_ended(2, "suspended", "approval"),)))
        line = _listed(store, run)
        _expect((line.status, line.owner) == ("suspended", None), "suspension frees the run")
        loaded = store.claim(run, _me())
    _expect((loaded.epoch, loaded.status) == (2, "running"), "a claim wakes a suspended run")
    _accepts(store, Append(run, 2, (_ended(4, "ok", ""),)))
    _expect(store.load(run).status == "ok", "a woken run can end")


def holds_a_run_for_its_tenant_only(store: Store) -> None:
    """Another tenant's run is not there, like one that does not exist."""
    mine, theirs = RunIds()(), RunIds()()
    run = _created(store, tenant=mine).run
    _expect(store.holds(run, tenant=mine), "a run is there for its tenant")
    _expect(not store.holds(run, tenant=theirs), "and for no other")
    _expect(not store.holds("no-such-run", tenant=mine), "one that does not exist is not there")
    for odd in ("\ud800", "\x00"):
        _expect(not store.holds(odd, tenant=mine), "nor is one that can't exist")
        _expect(not store.holds(run, tenant=odd), "not for a tenant that can't exist either")


def lists_newest_first_within_a_tenant(store: Store) -> None:
    """A listing is ordered, bounded, and shows no other tenant's run."""
    mine, theirs = RunIds()(), RunIds()()
    runs = [_created(store, tenant=mine, created_wall_s=float(at)).run for at in (2, 3, 1)]
    _created(store, tenant=theirs)
    listed = [line.header.run for line in store.runs(tenant=mine)]
    _expect(listed == [runs[1], runs[0], runs[2]], "newest first, one tenant only")
    _expect(len(store.runs(tenant=mine, limit=2)) == 2, "limit is kept")
    _expect(store.runs(tenant=mine, limit=0) == [], "limit 0 lists nothing")
    _expect(store.runs(tenant="\ud800") == [], "a tenant that can't exist has no runs")
    everybody = {line.header.tenant for line in store.runs(limit=1_000_000)}
    _expect({mine, theirs} <= everybody, "without a tenant all are listed")
    line = store.runs(tenant=theirs)[0]
    _expect((line.records, line.epoch, line.owner) == (1, 1, _me()), "a line tells the run's state")


def lets_one_of_many_racers_win(store: Store) -> None:
    """Threads that append the same seq: one is accepted, the others leave no trace."""
    run = _created(store).run
    wins = [0] * RACERS

    def race(racer: int) -> None:
        for seq in range(2, RACE_RECORDS + 2):
            while True:
                (answer,) = store.commit([Append(run, 1, (_step(seq, payload=b"%d" % racer),))])
                if answer is None:
                    wins[racer] += 1
                if answer is None or len(store.load(run).records) >= seq:
                    break

    threads = [threading.Thread(target=race, args=(racer,)) for racer in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = store.load(run).records[1:]
    _expect(len(records) == RACE_RECORDS, "every seq was written once")
    for racer, won in enumerate(wins):
        there = sum(record.payload == b"%d" % racer for record in records)
        _expect(there == won, f"thread {racer}: {won} appends acknowledged, {there} written")


def lets_turns_begin_one_after_another(store: Store) -> None:
    """A turn begins when those that arrived before it are over, under the next number."""
    tenant = RunIds()()
    one, two, three = (_arrived(store, tenant).run for _ in range(3))
    _expect(_line(store, tenant) == [(one, 0), (two, 0), (three, 0)], "turns wait as they arrived")
    _answers(
        store,
        [
            (Append(two, 1, (_turn(2, 1),)), "journal.not_its_turn"),
            (Append(one, 1, (_turn(2, 2),)), "journal.not_its_turn"),
            (Append(one, 1, (_turn(2, 1), _step(3))), None),
            (Append(two, 1, (_turn(2, 2),)), "journal.not_its_turn"),
        ],
    )
    _expect(_line(store, tenant) == [(one, 1), (two, 0), (three, 0)], "a turn has begun")
    _answers(
        store,
        [
            (Append(one, 1, (_ended(4, "ok", ""),)), None),
            (Append(three, 1, (_turn(2, 2),)), "journal.not_its_turn"),
            (Append(two, 1, (_turn(2, 2), _ended(3, "failed", "timeout"))), None),
            (Append(three, 1, (_turn(2, 0), _ended(3, "cancelled", "by_user"))), None),
        ],
    )
    four = _header(tenant=tenant, session="s")
    store.create(four, _me(), (_started(), _turn(2, 3)))
    five = _header(tenant=tenant, session="s")
    _refuses("journal.not_its_turn", lambda: store.create(five, _me(), (_started(), _turn(2, 4))))
    _refuses("journal.unknown_run", lambda: store.load(five.run))
    _expect(_line(store, tenant) == [(four.run, 3)], "a refused create leaves no turn")
    _accepts(store, Append(four.run, 1, (_ended(3, "ok", ""),)))
    found = store.turns(tenant, "s")
    _expect(found.begun == 3 and found.line == (), "every number is given once, and all are over")
    _expect(list(found.ended) == [(3, four.run), (1, one)], "what ended ok, the latest first")


def keeps_sessions_apart(store: Store) -> None:
    """Sessions of other tenants, other sessions and children are in nobody's way."""
    tenant, other = RunIds()(), RunIds()()
    first = _arrived(store, tenant).run
    for whose, name in ((other, "s"), (tenant, "t"), (other, tenant + "s")):
        run = _created(store, tenant=whose, session=name).run
        _accepts(store, Append(run, 1, (_turn(2, 1),)))
    child = _created(store, tenant=tenant, session="s", parent=first).run
    alone = _created(store, tenant=tenant).run
    for run in (child, alone):
        _answers(store, [(Append(run, 1, (_turn(2, 1),)), "journal.not_its_turn")])
    _expect(_line(store, tenant) == [(first, 0)], "only its own turns are in a session's line")
    for odd in ("nobody", "", "%", "' OR 1=1 --", "a\x00b", "\ud800"):
        _expect(store.turns(tenant, odd) == (0, (), ()), "an unknown session has no turns")
        _expect(store.turns(odd, "s") == (0, (), ()), "an unknown tenant has no turns")


def lists_turns_that_ended_ok(store: Store) -> None:
    """The latest first, below a number, and no more than asked for."""
    tenant = RunIds()()
    runs = []
    for number in range(1, 6):
        runs.append(_arrived(store, tenant).run)
        status = "failed" if number == 3 else "ok"
        _accepts(store, Append(runs[-1], 1, (_turn(2, number), _ended(3, status, ""))))
    waiting = [_arrived(store, tenant).run for _ in range(3)]

    def listed(**bounds: int) -> list[int]:
        return [turn.number for turn in store.turns(tenant, "s", **bounds).ended]

    _expect(listed() == [5, 4, 2, 1], "a turn that failed is not listed")
    _expect(listed(limit=2) == [5, 4], "limit is kept")
    _expect(listed(before=4, limit=2) == [2, 1], "and so is before")
    _expect(listed(before=1) == [], "there is nothing below the first")
    _expect(listed(limit=0) == [], "limit 0 lists nothing")
    _expect(store.turns(tenant, "s").ended[-1] == (1, runs[0]), "a number names its run")
    line = store.turns(tenant, "s", limit=2).line
    _expect([turn.run for turn in line] == waiting[:2], "the line keeps limit, too")


def passes_turns_of_dead_owners(store: Store, other_owner: OtherOwner) -> None:
    """The next turn does not wait for the dead; a dead one that is claimed waits in its place."""
    tenant = RunIds()()
    with other_owner(store) as other:
        crashed = _arrived(store, tenant, other).run
        _accepts(store, Append(crashed, 1, (_turn(2, 1),)))
        never_begun = _arrived(store, tenant, other).run
        early = Append(_arrived(store, tenant).run, 1, (_turn(2, 2),))
        _answers(store, [(early, "journal.not_its_turn")])
        _accepts(store, Append(early.run, 1, (_ended(2, "cancelled", "by_user"),)))
    after = _arrived(store, tenant).run
    _accepts(store, Append(after, 1, (_turn(2, 2),)))
    last = _arrived(store, tenant).run
    for run in (crashed, never_begun):
        epoch = store.claim(run, _me()).epoch
        refused = Append(run, epoch, (_turn(len(store.load(run).records) + 1, 3),))
        _answers(store, [(refused, "journal.not_its_turn")])
    _accepts(store, Append(after, 1, (_ended(3, "ok", ""),)))
    _answers(store, [(Append(last, 1, (_turn(2, 3),)), "journal.not_its_turn")])
    _expect(
        _line(store, tenant) == [(crashed, 0), (never_begun, 0), (last, 0)],
        "what was claimed waits where it had arrived",
    )
    _accepts(store, Append(crashed, 2, (_turn(4, 3), _ended(5, "ok", ""))))
    _accepts(store, Append(never_begun, 2, (_ended(3, "ok", ""),)))
    _accepts(store, Append(last, 1, (_turn(2, 4), _ended(3, "ok", ""))))
    found = [turn.run for turn in store.turns(tenant, "s").ended]
    _expect(found == [last, crashed, after], "turns follow in the order in which they began last")


def holds_a_session_for_a_suspended_turn(store: Store) -> None:
    """A suspended turn has no owner, and nobody begins before it has ended."""
    tenant = RunIds()()
    first = _arrived(store, tenant).run
    _accepts(store, Append(first, 1, (_turn(2, 1), _ended(3, "suspended", "waiting"))))
    second = _arrived(store, tenant).run
    _answers(store, [(Append(second, 1, (_turn(2, 2),)), "journal.not_its_turn")])
    line = store.turns(tenant, "s").line
    _expect([turn.status for turn in line] == ["suspended", "running"], "and it is listed so")
    store.claim(first, _me())
    _accepts(store, Append(first, 2, (_turn(5, 2), _ended(6, "cancelled", "by_user"))))
    _accepts(store, Append(second, 1, (_turn(2, 3),)))


def lets_one_of_many_turns_begin(store: Store) -> None:
    """Threads that begin turns of one session at once: never two, and each number once."""
    tenant = RunIds()()
    active, most, done = [0], [0], [0]

    def race() -> None:
        for _ in range(RACE_TURNS):
            run = _arrived(store, tenant).run
            while True:
                number = store.turns(tenant, "s", limit=0).begun + 1
                (answer,) = store.commit([Append(run, 1, (_turn(2, number),))])
                if answer is None:
                    break
            active[0] += 1
            most[0] = max(most[0], active[0])
            done[0] += 1
            active[0] -= 1
            _accepts(store, Append(run, 1, (_ended(3, "ok", ""),)))

    threads = [threading.Thread(target=race) for _ in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = RACERS * RACE_TURNS
    _expect(most[0] == 1, "one turn of a session at a time")
    _expect(done[0] == total == store.turns(tenant, "s").begun, "every turn had its number")


def queues_runs_that_nobody_owns(store: Store) -> None:
    """A queued run is in the journal, is taken once, and then is as one that was claimed."""
    queue = _queue(store)
    run = _enqueued(queue).run
    line = _listed(store, run)
    _expect((line.status, line.owner, line.live) == ("queued", None, False), "it waits, unowned")
    _answers(store, [(Append(run, 1, (_step(2),)), "journal.stale_owner")])
    _expect(store.load(run).records == (_started(),), "its inputs are on record")
    taken = queue.take(_me(), _wanted())
    _expect(taken is not None and taken == store.load(run), "the run that waits is taken")
    assert taken is not None
    _expect((taken.epoch, taken.status) == (2, "running"), "taking it is a claim")
    _expect(taken.records[-1].type is RecordType.CLAIMED, "a claim writes CLAIMED")
    _expect(queue.take(_me(), _wanted()) is None, "it is taken once")
    other = _enqueued(queue).run
    _expect(store.claim(other, _me()).epoch == 2, "a queued run can be claimed by its id")
    _expect(queue.take(_me(), _wanted()) is None, "a claimed run waits no more")
    _expect(not queue.waiting(), "nobody waits")


def serves_priority_then_age(store: Store) -> None:
    """Within a tenant: higher priority first, then who came first."""
    queue = _queue(store)
    runs = [_enqueued(queue, priority=priority).run for priority in (0, 5, 0, 5, -1)]
    served = [_taken(queue) for _ in runs]
    _expect(served == [runs[place] for place in (1, 3, 0, 2, 4)], "priority, then age")


def serves_tenants_in_turn(store: Store) -> None:
    """A tenant with a long line, whatever its priority, keeps no other waiting."""
    queue = _queue(store)
    tenants = ["a"] * 5 + ["b"] * 2 + ["c"]
    names = {tenant: RunIds()() for tenant in "abc"}
    whose = {_enqueued(queue, priority=9 * (t == "a"), tenant=names[t]).run: t for t in tenants}
    _expect(dict(queue.waiting()) == {names["a"]: 5, names["b"]: 2, names["c"]: 1}, "who waits")
    served = "".join(whose[_taken(queue)] for _ in tenants)
    _expect(served == "abcabaaa", f"tenants take turns, not {served}")
    late = _enqueued(queue, tenant=names["b"]).run
    _enqueued(queue, tenant=names["a"])
    _expect(_taken(queue) == late, "who was served longest ago is next")
    _taken(queue)


def bounds_its_queue(store: Store) -> None:
    """Past a bound a run is refused whole."""
    queue = _queue(store)
    for tenant in ("a", "a", "b"):
        _enqueued(queue, tenant=tenant)
    for tenant, bounds in (("a", QueueBounds(9, 2)), ("c", QueueBounds(3, 9))):
        header = _header(target=_TARGET, tenant=tenant)
        _refuses("queue.full", partial(_enqueued, queue, header=header, bounds=bounds))
        _refuses("journal.unknown_run", partial(store.load, header.run))
    _enqueued(queue, tenant="b", bounds=QueueBounds(4, 2))
    for _ in range(4):
        _taken(queue)
    header = _header(target=None)
    _refuses("queue.no_target", partial(_enqueued, queue, header=header))
    _refuses("journal.unknown_run", partial(store.load, header.run))


def gives_a_worker_only_what_it_wants(store: Store) -> None:
    """Other pipelines' runs, and those it passes over, stay where they are."""
    queue = _queue(store)
    first, second = _enqueued(queue).run, _enqueued(queue).run
    other = _enqueued(queue, target="shop:other").run
    _expect(_taken(queue, passed_over=(first,)) == second, "what is passed over stays")
    _expect(_taken(queue, passed_over=(first,)) is None, "other pipelines' runs stay")
    _expect(_taken(queue, targets=()) is None, "a worker without pipelines gets nothing")
    _expect(_taken(queue) == first and _taken(queue, targets=("shop:other",)) == other, "till then")


def gives_each_run_to_one_taker(store: Store) -> None:
    """Threads that take at once: each run is taken once, and none is left."""
    queue = _queue(store)
    runs = {_enqueued(queue).run for _ in range(RACERS * 5)}
    taken: list[str] = []

    def race() -> None:
        while (run := _taken(queue)) is not None:
            taken.append(run)

    threads = [threading.Thread(target=race) for _ in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _expect(sorted(taken) == sorted(runs), "each run was taken once")


def takes_orphans_up(store: Store, other_owner: OtherOwner) -> None:
    """A run whose owner has ended comes before those that wait; not a child, nor for ever."""
    queue = _queue(store)
    with other_owner(store) as other:
        orphan = _created(store, other, target=_TARGET).run
        child = _created(store, other, target=_TARGET, parent=orphan).run
        _expect(_taken(queue) is None, "the run of a live owner is nobody's to take")
        waits = _enqueued(queue).run
    _expect(_taken(queue, epochs_max=0) == waits, "a run with too many owners is left alone")
    _expect(_taken(queue) == orphan and store.load(orphan).epoch == 2, "an orphan is taken up")
    _expect(_taken(queue) is None and store.load(child).epoch == 1, "a child is its parent's")
    store.release(orphan, 2)
    _expect(_taken(queue) == orphan, "a released run is taken up")


def closes_twice(store: Store) -> None:
    """A second close does nothing."""
    store.close()
    store.close()


def shows_one_store_what_another_wrote(make_store: MakeStore) -> None:
    """A commit is visible to every store over the same data, at once and after a close."""
    with _opened(make_store) as one, _opened(make_store) as two:
        run = _created(one).run
        _accepts(two, Append(run, 1, (_outcome(2, "a"),)))
        _answers(one, [(Append(run, 1, (_outcome(3, "a"),)), "journal.already_accepted")])
        _expect(two.claim(run, _me()).epoch == 2, "both see the same owner")
        _answers(one, [(Append(run, 1, (_step(4),)), "journal.stale_owner")])
        tenant = RunIds()()
        first, second = _arrived(one, tenant).run, _arrived(two, tenant).run
        _answers(two, [(Append(second, 1, (_turn(2, 1),)), "journal.not_its_turn")])
        _accepts(one, Append(first, 1, (_turn(2, 1), _ended(3, "ok", ""))))
        _accepts(two, Append(second, 1, (_turn(2, 2),)))
        _expect(one.turns(tenant, "s") == two.turns(tenant, "s"), "both see the same session")
        before = one.load(run)
    with _opened(make_store) as again:
        # Its owner may be gone: a store may release what it had when it closes.
        after = replace(again.load(run), owner=before.owner)
        _expect(after == before, "what was committed is there after a close")


CHECKS: tuple[Callable[[Store], None], ...] = (
    gives_back_what_was_written,
    keeps_keys_apart_from_records,
    destroys_keys_with_the_record_that_says_so,
    erases_the_keys_of_a_run,
    keeps_its_own_copy,
    refuses_a_second_run_under_one_id,
    answers_unknown_ids,
    accepts_or_refuses_each_item_alone,
    accepts_one_outcome_per_revision,
    refuses_what_it_could_not_give_back,
    leaves_finished_runs_alone,
    reopens_what_ended_badly_when_asked,
    holds_a_run_for_its_tenant_only,
    lists_newest_first_within_a_tenant,
    lets_one_of_many_racers_win,
    lets_turns_begin_one_after_another,
    keeps_sessions_apart,
    lists_turns_that_ended_ok,
    holds_a_session_for_a_suspended_turn,
    lets_one_of_many_turns_begin,
    closes_twice,
)
OWNER_CHECKS: tuple[Callable[[Store, OtherOwner], None], ...] = (
    hands_runs_of_dead_owners_over,
    refuses_runs_of_live_owners,
    frees_released_runs,
    wakes_suspended_runs,
    passes_turns_of_dead_owners,
)
QUEUE_CHECKS: tuple[Callable[[Store], None], ...] = (
    queues_runs_that_nobody_owns,
    serves_priority_then_age,
    serves_tenants_in_turn,
    bounds_its_queue,
    gives_a_worker_only_what_it_wants,
    gives_each_run_to_one_taker,
)
"""For stores that hold a queue; each wants an empty one."""
QUEUE_OWNER_CHECKS: tuple[Callable[[Store, OtherOwner], None], ...] = (takes_orphans_up,)
SHARED_CHECKS: tuple[Callable[[MakeStore], None], ...] = (shows_one_store_what_another_wrote,)


def _expect(holds: bool, promise: str) -> None:
    """Unlike `assert`, it also holds under `python -O`."""
    if not holds:
        raise AssertionError(f"broken promise: {promise}")


def _refuses(code: str, act: Callable[[], object]) -> None:
    try:
        act()
    except JournalError as error:
        _expect(error.code == code, f"{code}, not {error.code}")
    else:
        _expect(False, f"refused with {code}, but it was taken")


def _answers(store: Store, expected: list[tuple[Append, str | None]]) -> None:
    answers = store.commit([append for append, _ in expected])
    _expect(len(answers) == len(expected), "one answer for each item of a batch")
    for place, (answer, (_, code)) in enumerate(zip(answers, expected, strict=True)):
        got = None if answer is None else answer.code
        _expect(got == code, f"item {place} of the batch: expected {code}, got {got}")


def _accepts(store: Store, append: Append) -> None:
    _answers(store, [(append, None)])


def _same(got: tuple[Record, ...], expected: tuple[Record, ...]) -> None:
    _expect(len(got) == len(expected), f"{len(expected)} records, got {len(got)}")
    for ours, theirs in zip(expected, got, strict=True):
        for name in Record._fields:
            same = getattr(ours, name) == getattr(theirs, name)
            _expect(same, f"{name} of record {ours.seq} comes back as it was")


def _listed(store: Store, run: str) -> RunSummary:
    found = [line for line in store.runs(limit=1_000_000) if line.header.run == run]
    _expect(len(found) == 1, "a run is listed once")
    return found[0]


def _header(**fields: Any) -> RunHeader:
    plain: dict[str, Any] = {
        "run": RunIds()(),
        "tenant": "default",
        "pipeline": "desk",
        "target": None,
        "session": None,
        "parent": None,
        "correlation": None,
        "created_wall_s": 1.5,
        "fingerprints": {"a": "f1"},
        "seed": 7,
    }
    return RunHeader(**{**plain, **fields})


def _created(store: Store, owner: Owner | None = None, **fields: Any) -> RunHeader:
    header = _header(**fields)
    store.create(header, owner or _me(), (_started(),))
    return header


def _arrived(store: Store, tenant: str, owner: Owner | None = None) -> RunHeader:
    return _created(store, owner, tenant=tenant, session="s")


def _turn(seq: int, number: int) -> Record:
    return Record(RecordType.TURN, seq, data={"turn": number, "sees": 0})


def _line(store: Store, tenant: str) -> list[tuple[str, int]]:
    return [(turn.run, turn.number) for turn in store.turns(tenant, "s").line]


def _started() -> Record:
    return Record(RecordType.RUN_STARTED, 1, payload=b"{}")


def _step(seq: int, *, payload: bytes | None = None) -> Record:
    return Record(RecordType.STEP, seq, node="a", payload=payload)


def _outcome(seq: int, node: str, *, revision: int = 0) -> Record:
    data = {"accepted": True, "status": "ok"}
    return Record(RecordType.OUTCOME, seq, node=node, revision=revision, data=data, payload=b"1")


def _queue(store: Store) -> Any:
    _expect(isinstance(store, QueueStore), "the store holds a queue")
    return store


def _wanted(**fields: Any) -> Wanted:
    plain: dict[str, Any] = {"targets": (_TARGET,), "epochs_max": 10}
    return Wanted(**{**plain, **fields})


def _taken(queue: Any, **fields: Any) -> Any:
    """The id of the run that is next."""
    loaded = queue.take(_me(), _wanted(**fields))
    return None if loaded is None else loaded.header.run


def _enqueued(
    queue: Any,
    *,
    header: RunHeader | None = None,
    priority: int = 0,
    bounds: QueueBounds = QueueBounds(1_000, 1_000),  # noqa: B008 - immutable
    **fields: Any,
) -> RunHeader:
    header = header or _header(**{"target": _TARGET, **fields})
    queue.enqueue(header, (_started(),), priority=priority, bounds=bounds)
    return header


def _ended(seq: int, status: str, reason: str) -> Record:
    return Record(RecordType.RUN_ENDED, seq, data={"status": status, "reason": reason})


def _unkeepable(seq: int) -> Record:
    return Record(RecordType.STEP, seq, data={"key": object()})


def _me() -> Owner:
    return Owner.this_process()


@contextmanager
def _opened(make_store: MakeStore) -> Iterator[Store]:
    store = make_store()
    try:
        yield store
    finally:
        store.close()


__all__ = [
    "CHECKS",
    "OWNER_CHECKS",
    "QUEUE_CHECKS",
    "QUEUE_OWNER_CHECKS",
    "SHARED_CHECKS",
    "another_process",
    "check_store",
]
