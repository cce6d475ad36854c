"""Beats of a process: what they renew, and what they tell."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from stageflow.journal.store import Append, Owner, RunHeader
from stageflow.model.record import Record, RecordType

pytest.importorskip("psycopg", reason="needs the extra stageflow[postgres]")

from stageflow.journal.postgres.store import PostgresStore

ME = Owner.this_process()
OTHER = Owner("elsewhere", "boot", 7, 7)


def created(store: PostgresStore, *runs: str) -> None:
    for run in runs:
        header = RunHeader(run, "default", "desk", None, None, None, None, 0.0, {}, 0)
        store.create(header, ME, (Record(RecordType.RUN_STARTED, 1),))


def expire(server: Any, url: str) -> None:
    schema = url.partition("schema=")[2]
    server.execute(f"UPDATE {schema}.leases SET expires = now() - interval '1 s'")


def alive(store: PostgresStore) -> dict[str, bool | None]:
    return {line.header.run: line.live for line in store.runs()}


def test_a_beat_renews_a_lease_that_nobody_has_used(
    postgres_url: str, postgres_server: Any
) -> None:
    with closing(PostgresStore(postgres_url)) as store:
        created(store, "a")
        expire(postgres_server, postgres_url)
        assert alive(store) == {"a": False}
        store._heartbeat.beat()
        assert alive(store) == {"a": True}


def test_a_beat_tells_of_lost_runs_and_leaves_the_others_free_for_a_while(
    postgres_url: str, postgres_server: Any
) -> None:
    """
    1. a process drives a run and a child of it; its lease lapses
    2. another process takes the run
    3. the first one's next beat tells of the run, and does not yet make the child its own again
    4. once nothing is lost any more, it does
    """
    lost: list[str] = []
    with closing(PostgresStore(postgres_url)) as store, closing(PostgresStore(postgres_url)) as two:
        store.when_lost(lost.append)
        created(store, "run", "child")
        expire(postgres_server, postgres_url)
        two.claim("run", OTHER)
        store._heartbeat.beat()
        assert lost == ["run"] and alive(two) == {"run": True, "child": False}
        store._heartbeat.beat()
        assert lost == ["run"] and alive(two) == {"run": True, "child": True}


def test_a_beat_tells_of_a_run_that_was_taken_while_the_lease_held(postgres_url: str) -> None:
    """As when a claim and a renewal cross: the claim counts, and is told with the next beat."""
    lost: list[str] = []
    with closing(PostgresStore(postgres_url)) as store, closing(PostgresStore(postgres_url)) as two:
        store.when_lost(lost.append)
        created(store, "a", "b")
        two.release("a", 1)
        two.claim("a", OTHER)
        store._heartbeat.beat()
        assert lost == ["a"] and alive(two)["b"] is True
        (refused,) = store.commit([Append("a", 1, (Record(RecordType.STEP, 2),))])
        assert refused is not None and refused.code == "journal.stale_owner"


def test_a_process_that_drives_nothing_holds_no_lease(
    postgres_url: str, postgres_server: Any
) -> None:
    schema = postgres_url.partition("schema=")[2]
    with closing(PostgresStore(postgres_url)) as store:
        created(store, "a")
        ended = Record(RecordType.RUN_ENDED, 2, data={"status": "ok", "reason": ""})
        assert store.commit([Append("a", 1, (ended,))]) == [None]
        expire(postgres_server, postgres_url)
        store._heartbeat.beat()
        held = f"SELECT count(*) FROM {schema}.leases WHERE expires > now()"
        assert postgres_server.execute(held).fetchone() == (0,)
