"""The PostgreSQL store: the same promises as the others, and those that only it makes."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from typing import Any

import pytest

from stageflow.journal.admission import owner_text
from stageflow.journal.conformance import CHECKS, OWNER_CHECKS, SHARED_CHECKS, check_store
from stageflow.journal.journal import GroupCommit
from stageflow.journal.queue import QueueBounds, Wanted
from stageflow.journal.store import Append, Owner, RunHeader, Store
from stageflow.model.errors import BuildError, JournalError
from stageflow.model.marks import MarkCounts, counting
from stageflow.model.record import Record, RecordType

psycopg = pytest.importorskip("psycopg", reason="needs the extra stageflow[postgres]")

from stageflow.journal.postgres.address import parsed  # noqa: E402
from stageflow.journal.postgres.store import PostgresStore  # noqa: E402

Leased = Callable[[Store], AbstractContextManager[Owner]]
ME = Owner.this_process()
STARTED = Record(RecordType.RUN_STARTED, 1, payload=b"{}")


def header(run: str, tenant: str = "default") -> RunHeader:
    return RunHeader(run, tenant, "desk", None, None, None, None, 1.5, {"a": "f"}, 0)


def step(seq: int) -> Record:
    return Record(RecordType.STEP, seq, node="a")


def code_of(act: Callable[[], object]) -> str:
    """The code with which `act` was refused; what it returned, if it returned a code."""
    try:
        return str(act())
    except JournalError as error:
        return error.code


def raised(answers: Sequence[JournalError | None]) -> str:
    (answer,) = answers
    return "" if answer is None else answer.code


def as_role(url: str, role: str) -> str:
    return url.replace("//root@", f"//{role}@")


@pytest.fixture(name="plain_role")
def fixture_plain_role(postgres_server: Any) -> Iterator[str]:
    yield from role(postgres_server)


@pytest.fixture(name="other_role")
def fixture_other_role(postgres_server: Any) -> Iterator[str]:
    yield from role(postgres_server)


def role(server: Any) -> Iterator[str]:
    """A role that may make schemas in the test database, and no more."""
    name = f"test_{secrets.token_hex(8)}"
    database = server.info.dbname
    server.execute(f"CREATE ROLE {name} LOGIN NOSUPERUSER NOBYPASSRLS")
    server.execute(f'GRANT CREATE ON DATABASE "{database}" TO {name}')
    yield name
    server.execute(f"DROP OWNED BY {name} CASCADE")
    server.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_promises_of_a_store(
    check: Callable[[Store], None], postgres_url: str
) -> None:
    store = PostgresStore(postgres_url)
    check(store)
    store.close()


@pytest.mark.parametrize("check", OWNER_CHECKS, ids=lambda check: check.__name__)
def test_owners_live_as_long_as_their_lease(
    check: Callable[[Store, Leased], None], postgres_url: str, leased: Leased
) -> None:
    store = PostgresStore(postgres_url)
    check(store, leased)
    store.close()


@pytest.mark.parametrize("check", SHARED_CHECKS, ids=lambda check: check.__name__)
def test_stores_share_a_schema(check: Callable[[Any], None], postgres_url: str) -> None:
    check(lambda: PostgresStore(postgres_url))


def test_the_kit_passes_over_a_schema_that_holds_other_runs(
    postgres_url: str, leased: Leased
) -> None:
    for _ in range(2):
        check_store(lambda: PostgresStore(postgres_url), is_shared=True, other_owner=leased)


@pytest.mark.parametrize("owners", [False, True])
def test_row_security_holds_for_the_kit_under_a_plain_role(
    owners: bool, plain_role: str, postgres_url: str, leased: Leased
) -> None:
    """The role owns its tables and is no superuser, so that row security is forced on it."""
    url = as_role(postgres_url, plain_role)
    for check in CHECKS:
        with closing(PostgresStore(url)) as store:
            if not owners:
                check(store)
    for owner_check in OWNER_CHECKS:
        with closing(PostgresStore(url)) as store:
            if owners:
                owner_check(store, leased)


def test_a_scoped_store_sees_one_tenant_only(plain_role: str, postgres_url: str) -> None:
    """Foreign ids are unknown, whatever is asked with them."""
    url = as_role(postgres_url, plain_role)
    with closing(PostgresStore(url)) as every, closing(PostgresStore(f"{url}&tenant=acme")) as acme:
        every.create(header("theirs", "other"), ME, (STARTED,))
        every.create(header("ours", "acme"), ME, (STARTED,))
        acme.create(header("new", "acme"), ME, (STARTED,))
        assert {line.header.run for line in acme.runs()} == {"ours", "new"}
        assert acme.runs(tenant="other") == []
        for refuse in (
            lambda: acme.load("theirs"),
            lambda: acme.claim("theirs", ME),
            lambda: raised(acme.commit([Append("theirs", 1, (step(2),))])),
        ):
            assert code_of(refuse) == "journal.unknown_run"
        acme.release("theirs", 1)
        assert acme.refused("theirs") == ()
        assert code_of(lambda: acme.create(header("x", "other"), ME, ())) == "journal.other_tenant"
        with pytest.raises(JournalError) as caught:
            acme.create(header("theirs", "acme"), ME, ())
        assert caught.value.code == "journal.run_exists" and "other" not in str(caught.value)
        assert len(every.load("theirs").records) == 1
        assert every.commit([Append("ours", 1, (step(2),))]) == [None]


def test_a_tenants_role_cannot_look_further_by_its_settings(
    plain_role: str, other_role: str, postgres_url: str, postgres_server: Any
) -> None:
    """
    1. the owner of the schema keeps runs of two tenants
    2. another role, with rights on the tables, asks for every tenant: it sees none
    3. named, it sees one; and it can't write a row into the other
    """
    schema = postgres_url.partition("schema=")[2]
    with closing(PostgresStore(as_role(postgres_url, plain_role))) as every:
        every.create(header("ours", "acme"), ME, (STARTED,))
        every.create(header("theirs", "other"), ME, (STARTED,))
        for grant in (f"USAGE ON SCHEMA {schema}",
                      f"SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema}"):  # fmt: skip
            postgres_server.execute(f"GRANT {grant} TO {other_role}")
        for grant in (
            f"DELETE ON {schema}.queue, {schema}.keys",
            f"USAGE ON SEQUENCE {schema}.services",
        ):
            postgres_server.execute(f"GRANT {grant} TO {other_role}")
        url = as_role(postgres_url, other_role)
        with closing(PostgresStore(url)) as curious:
            assert curious.runs() == [] and curious.runs(tenant="acme") != []
            assert code_of(lambda: curious.load("ours")) == "journal.unknown_run"
            assert code_of(lambda: curious.create(header("n", "acme"), ME, ())) == (
                "journal.write_failed"
            )
        with closing(PostgresStore(f"{url}&tenant=acme")) as acme:
            assert [line.header.run for line in acme.runs()] == ["ours"]
            acme.create(header("n", "acme"), ME, (STARTED,))
            queued = replace(header("q", "acme"), target="shop:desk")
            acme.enqueue(queued, (STARTED,), priority=0, bounds=QueueBounds(1, 1))
            taken = acme.take(ME, Wanted(("shop:desk",), 9))
            assert taken is not None and taken.header.run == "q"
        with psycopg.connect(url.partition("?")[0], autocommit=True) as raw:
            for table in ("runs", "heads", "records", "contents", "refused", "queue", "served"):
                assert raw.execute(f"SELECT count(*) FROM {schema}.{table}").fetchone() == (0,)


def test_the_lines_of_former_owners_are_kept_apart(postgres_url: str) -> None:
    with closing(PostgresStore(postgres_url)) as store:
        store.create(header("r"), ME, (STARTED,))
        store.claim("r", ME)
        late = Record(
            RecordType.OUTCOME, 2, "a\0\\", 0, 1, 7, 5.0, {"accepted": True, "x": "\\\0"}, "c",
            ("pii",), "k\0", b"value",
        )  # fmt: skip
        large = step(3)._replace(payload=b"x" * 100_000)
        assert raised(store.commit([Append("r", 1, (late, large))])) == "journal.stale_owner"
        before, after = store.refused("r")
        assert before.record == late and (before.epoch, before.held_epoch) == (1, 2)
        assert after.record == large._replace(payload=None)
        assert len(store.load("r").records) == 2 and store.refused("nobody") == ()


def test_a_batch_goes_on_where_one_of_its_runs_was_taken(postgres_url: str) -> None:
    """
    1. two stores believe in their heads; one run is claimed through the other store
    2. the batch of the first writes its other runs, and has the one refused
    """
    with closing(PostgresStore(postgres_url)) as one, closing(PostgresStore(postgres_url)) as two:
        for run in "abc":
            one.create(header(run), ME, (STARTED,))
        two.claim("b", ME)
        answers = one.commit([Append(run, 1, (step(2),)) for run in "abc"])
        assert [answer and answer.code for answer in answers] == [None, "journal.stale_owner", None]
        assert [len(two.load(run).records) for run in "abc"] == [2, 2, 2]
        assert one.commit([Append(run, 1, (step(3),)) for run in "ac"]) == [None, None]


def test_a_large_payload_is_kept_once_for_each_tenant(
    postgres_url: str, postgres_server: Any
) -> None:
    schema = postgres_url.partition("schema=")[2]
    with closing(PostgresStore(postgres_url)) as store:
        for run, tenant in (("a", "x"), ("b", "x"), ("c", "y")):
            store.create(header(run, tenant), ME, (STARTED._replace(payload=b"p" * 70_000),))
            store.commit([Append(run, 1, (step(2)._replace(payload=b"p" * 70_000),))])
        assert store.load("c").records[1].payload == b"p" * 70_000
    (count,) = postgres_server.execute(f"SELECT count(*) FROM {schema}.contents").fetchone()
    assert count == 2


def test_a_newer_schema_is_refused_and_left_alone(postgres_url: str, postgres_server: Any) -> None:
    schema = postgres_url.partition("schema=")[2]
    PostgresStore(postgres_url).close()
    postgres_server.execute(f"UPDATE {schema}.version SET version = 99")
    assert code_of(lambda: PostgresStore(postgres_url)) == "journal.newer_schema"
    assert postgres_server.execute(f"SELECT version FROM {schema}.version").fetchone() == (99,)


def test_anothers_schema_is_refused_and_left_alone(postgres_url: str, postgres_server: Any) -> None:
    schema = postgres_url.partition("schema=")[2]
    postgres_server.execute(f"CREATE SCHEMA {schema}")
    postgres_server.execute(f"CREATE TABLE {schema}.orders (id int)")
    assert code_of(lambda: PostgresStore(postgres_url)) == "journal.foreign_file"


def test_many_processes_may_open_a_new_schema_at_once(postgres_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: PostgresStore(postgres_url), range(8)))
    for number, store in enumerate(stores):
        store.create(header(f"r{number}"), ME, ())
        store.close()


def test_every_changed_byte_is_found(postgres_url: str, postgres_server: Any) -> None:
    """Each column of each table, for one run; and a lost tail."""
    schema = postgres_url.partition("schema=")[2]
    spoilt = {
        "runs": ("tenant", "created_wall_s", "header", "checksum"),
        "heads": ("epoch", "owner", "status", "reason", "records", "updated_wall_s", "last",
                  "checksum"),
        "records": ("seq", "epoch", "type", "node", "revision", "attempt", "token", "wall_s",
                    "accepted", "data", "contract", "labels", "key_id", "payload", "previous",
                    "checksum"),
    }  # fmt: skip
    changes = {
        "text": "{0} || 'x'", "bigint": "{0} + 7", "double precision": "{0} + 1",
        "boolean": "NOT {0}", "bytea": "{0} || '\\x00'", "json": "('[' || {0}::text || ']')::json",
    }  # fmt: skip
    record = Record(
        RecordType.OUTCOME, 2, "a", 0, 1, 1, 1.0, {"accepted": True}, "c", ("l",), "k", b"p"
    )
    with closing(PostgresStore(postgres_url)) as store:
        store.create(header("r"), ME, (STARTED, record))
        for table, columns in spoilt.items():
            kinds = dict(postgres_server.execute(
                "SELECT column_name, data_type FROM information_schema.columns"
                " WHERE table_schema = %s AND table_name = %s", (schema, table),
            ).fetchall())  # fmt: skip
            for column in columns:
                last = " AND seq = 2" if table == "records" else ""
                postgres_server.execute(f"CREATE TABLE {schema}.kept AS TABLE {schema}.{table}")
                postgres_server.execute(
                    f"UPDATE {schema}.{table} SET {column} ="
                    f" {changes[kinds[column]].format(column)} WHERE run = 'r'{last}"
                )
                assert code_of(lambda: store.load("r")) == "journal.damaged", (table, column)
                postgres_server.execute(f"TRUNCATE {schema}.{table}")
                postgres_server.execute(f"INSERT INTO {schema}.{table} SELECT * FROM {schema}.kept")
                postgres_server.execute(f"DROP TABLE {schema}.kept")
        assert len(store.load("r").records) == 2
        postgres_server.execute(f"DELETE FROM {schema}.records WHERE seq = 2")
        assert code_of(lambda: store.load("r")) == "journal.damaged"


def test_a_turn_that_is_passed_over_takes_no_records_any_more(
    postgres_url: str, postgres_server: Any
) -> None:
    """
    1. a turn has begun; its owner is stopped past its lease
    2. the next turn of another process begins
    3. the first owner goes on: it is refused, though nobody has claimed its run
    4. claimed, it waits in its place again
    """
    schema = postgres_url.partition("schema=")[2]
    other = replace(ME, pid=1)

    def turn(seq: int, number: int) -> Record:
        return Record(RecordType.TURN, seq, data={"turn": number, "sees": number - 1})

    with closing(PostgresStore(postgres_url)) as one, closing(PostgresStore(postgres_url)) as two:
        for store, owner, run in ((one, ME, "first"), (two, other, "second")):
            store.create(replace(header(run), session="s"), owner, (STARTED,))
        assert one.commit([Append("first", 1, (turn(2, 1),))]) == [None]
        assert raised(two.commit([Append("second", 1, (turn(2, 2),))])) == "journal.not_its_turn"
        postgres_server.execute(
            f"UPDATE {schema}.leases SET expires = now() - interval '1 s' WHERE owner = %s",
            (owner_text(ME),),
        )
        assert two.commit([Append("second", 1, (turn(2, 2),))]) == [None]
        assert raised(one.commit([Append("first", 1, (step(3),))])) == "journal.stale_owner"
        assert one.claim("first", ME).epoch == 2
        assert raised(one.commit([Append("first", 2, (turn(4, 3),))])) == "journal.not_its_turn"
        ended = Record(RecordType.RUN_ENDED, 3, data={"status": "ok", "reason": ""})
        assert two.commit([Append("second", 1, (ended,))]) == [None]
        assert one.commit([Append("first", 2, (turn(4, 3),))]) == [None]
        assert one.turns("default", "s").ended == ((2, "second"),)


def test_a_changed_row_of_a_session_is_found(postgres_url: str, postgres_server: Any) -> None:
    schema = postgres_url.partition("schema=")[2]
    with closing(PostgresStore(postgres_url)) as store:
        store.create(replace(header("r"), session="s"), ME, (STARTED,))
        for change in (
            "sessions SET begun = begun + 1",
            "turns SET arrived = DEFAULT",
            "turns SET number = 7",
        ):
            postgres_server.execute(
                f"CREATE TABLE {schema}.kept AS TABLE {schema}.{change.split()[0]}"
            )
            postgres_server.execute(f"UPDATE {schema}.{change}")
            assert code_of(lambda: store.turns("default", "s")) == "journal.damaged", change
            table = change.split()[0]
            postgres_server.execute(f"TRUNCATE {schema}.{table}")
            postgres_server.execute(
                f"INSERT INTO {schema}.{table} OVERRIDING SYSTEM VALUE SELECT * FROM {schema}.kept"
            )
            postgres_server.execute(f"DROP TABLE {schema}.kept")
        assert [turn.run for turn in store.turns("default", "s").line] == ["r"]


def test_a_forked_child_has_its_own_connections(postgres_url: str) -> None:
    """The child writes and closes; the parent's connection is none the worse."""
    with closing(PostgresStore(postgres_url)) as store:
        store.create(header("parent"), ME, (STARTED,))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                store.create(header("child"), Owner.this_process(), (STARTED,))
                store.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert store.commit([Append("parent", 1, (step(2),))]) == [None]
        assert store.load("child").epoch == 1


def test_what_is_left_when_the_store_closes_can_be_claimed_at_once(postgres_url: str) -> None:
    with closing(PostgresStore(postgres_url)) as two:
        with closing(PostgresStore(postgres_url)) as one:
            one.create(header("r"), replace(ME, pid=1), (STARTED,))
            assert code_of(lambda: two.claim("r", ME)) == "journal.run_is_live"
        assert [line.live for line in two.runs()] == [False]
        assert two.claim("r", ME).epoch == 2


async def test_a_hundred_runs_share_commits(postgres_url: str) -> None:
    marks = MarkCounts()
    journal = GroupCommit(PostgresStore(postgres_url))

    async def one(run: str) -> None:
        await journal.create(header(run), (STARTED,))
        for seq in range(2, 12):
            await journal.append(run, 1, (step(seq),))

    with counting(marks):
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(f"r{number}"))
    assert [len((await journal.load(f"r{n}")).records) for n in (0, 99)] == [11, 11]
    await journal.close()
    assert marks.all()["batch_of_several"] >= 5 and "commit_decided_again" not in marks.all()


@pytest.mark.parametrize(
    "query", ["schema=", "lease_s=soon", "lease_s=0", "away_s=-1", "tenant=", "schema=" + "x" * 64]
)
def test_settings_that_cannot_be_meant_are_refused(query: str) -> None:
    with pytest.raises(BuildError) as caught:
        parsed(f"postgresql://h/d?{query}")
    assert caught.value.code == "runtime.journal"


def test_an_address_keeps_what_libpq_reads() -> None:
    address = parsed("postgresql://u:p%40@h:1,i:2/d?sslmode=require&schema=s&tenant=t&lease_s=5")
    assert address.conninfo == "postgresql://u:p%40@h:1,i:2/d?sslmode=require"
    assert (address.schema, address.tenant, address.lease_s) == ("s", "t", 5.0)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///d",  # the host that libpq takes by itself
        "postgresql:///d?host=/var/run/postgresql",
        "postgresql://h/d?options=-c%20statement_timeout%3D5s",
        "postgresql://h/d?password=a+b",  # libpq knows no other plus
    ],
)
def test_an_address_without_settings_of_ours_stays_as_it_is(url: str) -> None:
    assert parsed(url).conninfo == url
    mark = "&" if "?" in url else "?"
    assert parsed(f"{url}{mark}schema=a%26b").conninfo == url
    assert parsed(f"{url}{mark}schema=a%26b").schema == "a&b"
