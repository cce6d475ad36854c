"""Resources of an undo log: conditional writes, and nobody's edit is lost."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from stageflow import BuildError, EffectError
from stageflow.stages.work import (
    Body,
    Changed,
    Files,
    FormLost,
    MemoryResource,
    MemoryUndo,
    PostgresRows,
    Rows,
    StepStanding,
    UndoLog,
    WebResources,
    WriteRefused,
)
from stageflow.stages.work.undo import postgres_rows
from stageflow.stages.work.undo.conformance import check_resource, check_undo_store
from stageflow.stages.work.undo.postgres import PostgresUndo
from stageflow.stages.work.undo.sqlite import SQLiteUndo

TABLE = """CREATE TABLE orders (id TEXT PRIMARY KEY, status TEXT NOT NULL DEFAULT 'open',
  cents INTEGER, photo BLOB, revision INTEGER)"""
PAID = {"status": "paid", "cents": 900, "photo": b"\x00\xff"}


SLOW_COMMITS = """CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS
  $$BEGIN PERFORM pg_sleep(1); RETURN NULL; END$$;
CREATE CONSTRAINT TRIGGER pause AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION pause()"""
UNDER_WAY = """
import asyncio
from stageflow.stages.work import PostgresRows, UndoLog

async def main():
    orders = PostgresRows({address!r}, "orders")
    async with UndoLog({log!r}, orders) as undo:
        await undo.timeline("order 1", by="bob").change(orders, "1", {{"status": "paid"}})

asyncio.run(main())
"""


async def test_a_store_in_memory_keeps_its_promises() -> None:
    store = MemoryUndo()
    await check_undo_store(store, lambda: store)


async def test_a_store_in_sqlite_keeps_its_promises(tmp_path: Path) -> None:
    store = SQLiteUndo(tmp_path / "undo.db")
    await check_undo_store(store, lambda: SQLiteUndo(tmp_path / "undo.db"))
    await store.close()


async def test_a_store_in_postgresql_keeps_its_promises(postgres_schema: str) -> None:
    store = PostgresUndo(postgres_schema)
    await check_undo_store(store, lambda: PostgresUndo(postgres_schema))
    await store.close()


async def test_a_log_is_opened_by_its_address(postgres_schema: str, tmp_path: Path) -> None:
    memory = MemoryResource()
    for address in (postgres_schema, str(tmp_path / "undo.db")):
        async with UndoLog(address, memory) as undo:
            line = undo.timeline("t", by="ann")
            await line.change(memory, "a", "x")
            assert (await line.undo_to(0)).steps == (1,) and memory.texts == {}
    with pytest.raises(BuildError, match=r"undo\.address"):
        UndoLog("redis://127.0.0.1", memory)


# -- rows ----------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    execute(path, TABLE)
    return path


def execute(path: Path, statement: str, *given: Any) -> list[Any]:
    database = sqlite3.connect(path, isolation_level=None)
    try:
        return database.execute(statement, given).fetchall()
    finally:
        database.close()


@pytest.mark.parametrize("version", [None, "revision"])
async def test_rows_are_a_resource(shop: Path, version: str | None) -> None:
    revisions = iter(range(100, 200))

    async def edit(key: str, value: dict[str, Any] | None) -> None:
        execute(shop, "DELETE FROM orders WHERE id = ?", key)
        if value is not None:
            row = {"id": key, "cents": None, "photo": None, **value, "revision": next(revisions)}
            if version is None:
                row["revision"] = None
            names = ", ".join(row)
            marks = ", ".join("?" * len(row))
            execute(shop, f"INSERT INTO orders ({names}) VALUES ({marks})", *row.values())

    rows = Rows(shop, "orders", version=version)
    await check_resource(
        rows, "42", PAID, {"status": "sent"}, edit=edit, sees_returns=version is not None
    )


async def test_a_change_of_some_columns_keeps_the_others(shop: Path) -> None:
    execute(shop, "INSERT INTO orders VALUES ('a', 'open', 5, NULL, NULL)")
    rows = Rows(shop, "orders")
    before = await rows.read("a")
    wanted = await rows.encoded({"status": "paid"}, before)
    assert rows.value(wanted) == {
        "status": "paid",
        "cents": 5,
        "photo": None,
        "revision": None,
    }
    with pytest.raises(EffectError, match=r"undo\.value"):
        await rows.encoded({"state": "paid"}, before)


async def test_a_row_of_an_older_form_is_adapted_when_nothing_is_lost(shop: Path) -> None:
    execute(shop, "INSERT INTO orders (id, status) VALUES ('a', 'open')")
    rows = Rows(shop, "orders")
    then = await rows.read("a")
    execute(shop, "ALTER TABLE orders ADD COLUMN lane INTEGER NOT NULL DEFAULT '7'")
    now = await rows.read("a")
    assert rows.adapted(then.content, then.form, now.form) == now.content
    execute(shop, "ALTER TABLE orders DROP COLUMN photo")
    later = await rows.read("a")
    with pytest.raises(FormLost, match="photo"):
        rows.adapted(now.content, now.form, later.form)
    assert rows.adapted(None, now.form, later.form) is None


async def test_a_row_that_a_constraint_forbids_is_refused(shop: Path) -> None:
    execute(shop, "CREATE UNIQUE INDEX one ON orders(cents)")
    execute(shop, "INSERT INTO orders (id, cents) VALUES ('a', 5)")
    rows = Rows(shop, "orders")
    before = await rows.read("b")
    with pytest.raises(WriteRefused, match=r"undo\.refused"):
        await rows.write("b", await rows.encoded({"cents": 5}, before), before)
    assert await rows.read("b") == before


async def test_a_key_of_several_rows_is_refused(shop: Path) -> None:
    for key in "ab":
        execute(shop, "INSERT INTO orders (id, cents, status) VALUES (?, 5, 'same')", key)
    with pytest.raises(WriteRefused, match=r"undo\.several_rows"):
        await Rows(shop, "orders", key="status").read("same")


async def test_a_default_that_can_not_be_told_must_be_given(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    execute(path, "CREATE TABLE notes (id TEXT, text TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP)")
    rows = Rows(path, "notes")
    before = await rows.read("a")
    with pytest.raises(EffectError, match=r"undo\.value"):
        await rows.encoded({"text": "x"}, before)
    made = await rows.write("a", await rows.encoded({"text": "x", "at": "now"}, before), before)
    assert rows.value(made.content) == {"text": "x", "at": "now"}


async def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EffectError, match=r"undo\.no_table"):
        await Rows(tmp_path / "empty.db", "orders").read("a")


ORDERS = """CREATE TABLE orders (id bigint PRIMARY KEY, status varchar(10) NOT NULL DEFAULT 'open',
  euros numeric(10, 2), photo bytea, at timestamptz, tags text[], twice numeric GENERATED ALWAYS
  AS (euros * 2) STORED)"""
SHOWN = {
    "status": "paid",
    "euros": Decimal("9.50"),
    "photo": b"\x00\xff",
    "at": datetime(2024, 2, 29, tzinfo=UTC),
    "tags": ["a", "b,c"],
}


@pytest.fixture
async def database(postgres_schema: str) -> AsyncIterator[tuple[Any, PostgresRows]]:
    import psycopg

    with psycopg.connect(postgres_schema, autocommit=True) as connection:
        connection.execute(ORDERS)
        rows = PostgresRows(postgres_schema, "orders")
        yield connection, rows
        await rows.aclose()


async def test_rows_of_postgresql_are_a_resource(database: Any) -> None:
    connection, rows = database

    async def edit(key: str, value: dict[str, Any] | None) -> None:
        connection.execute("DELETE FROM orders WHERE id = %s", (key,))
        if value is not None:
            row = {"id": key, **value}
            names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
            query = f"INSERT INTO orders ({names}) VALUES ({marks})"
            connection.execute(query, tuple(row.values()))

    await check_resource(rows, "42", SHOWN, {"status": "sent"}, edit=edit, sees_returns=True)


async def test_values_of_postgresql_come_back_as_they_were(database: Any) -> None:
    connection, rows = database
    nothing = await rows.read("7")
    made = await rows.write("7", await rows.encoded(SHOWN, nothing), nothing)
    shown = connection.execute("SELECT * FROM orders").fetchone()
    paid = await rows.write("7", await rows.encoded({"status": "sent"}, made), made)
    await rows.write("7", made.content, paid)
    assert connection.execute("SELECT * FROM orders").fetchone() == shown
    assert rows.value(made.content)["euros"] == "9.50"


async def test_a_row_of_postgresql_is_adapted_when_nothing_is_lost(database: Any) -> None:
    connection, rows = database
    connection.execute("INSERT INTO orders (id) VALUES (1)")
    then = await rows.read("1")
    connection.execute("ALTER TABLE orders ADD COLUMN lane integer NOT NULL DEFAULT 7")
    connection.execute("ALTER TABLE orders ADD COLUMN note text DEFAULT 'it''s'")
    now = await rows.read("1")
    assert rows.adapted(then.content, then.form, now.form) == now.content
    connection.execute("ALTER TABLE orders DROP COLUMN photo")
    with pytest.raises(FormLost, match="photo"):
        rows.adapted(then.content, then.form, (await rows.read("1")).form)
    connection.execute("ALTER TABLE orders ADD COLUMN made timestamptz DEFAULT now()")
    with pytest.raises(FormLost, match="made"):
        rows.adapted(now.content, now.form, (await rows.read("1")).form)


async def test_a_row_held_by_somebody_else_is_waited_for_so_long(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, rows = database
    connection.execute("INSERT INTO orders (id, status) VALUES ('1', 'open')")
    monkeypatch.setattr(postgres_rows, "LOCK_S", 0.2)
    paid = await rows.encoded({"status": "paid"}, await rows.read("1"))
    with connection.transaction():
        connection.execute("SELECT 1 FROM orders FOR UPDATE")
        with pytest.raises(EffectError, match="did not answer") as caught:
            await rows.write("1", paid, await rows.read("1"))
    assert caught.value.code == "undo.unavailable"
    assert rows.value((await rows.read("1")).content)["status"] == "open"
    assert (await rows.write("1", paid, await rows.read("1"))).content == paid


def _killed_while_it_commits(program: str, database: Any) -> None:
    committing = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = 'COMMIT'"
    until_s = time.monotonic() + 30.0
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while not database.execute(f"{committing} AND datname = current_database()").fetchall():
            assert time.monotonic() < until_s and process.poll() is None
            time.sleep(0.01)
        process.kill()


async def test_a_commit_that_outlives_its_process_is_seen(
    postgres_schema: str, database: Any, tmp_path: Path
) -> None:
    connection, rows = database
    connection.execute(SLOW_COMMITS)
    program = UNDER_WAY.format(log=str(tmp_path / "undo.db"), address=postgres_schema)
    _killed_while_it_commits(program, connection)
    async with UndoLog(tmp_path / "undo.db", rows) as undo:
        await undo.recover()
        (step,) = await undo.timeline("order 1", by="ann").steps()
        told = rows.value((await rows.read("1")).content)
    assert told is not None and told["status"] == "paid"
    assert step.standing is StepStanding.ACTED


async def test_what_postgresql_forbids_is_refused(database: Any) -> None:
    connection, rows = database
    connection.execute("CREATE UNIQUE INDEX one ON orders(euros)")
    connection.execute("INSERT INTO orders (id, euros) VALUES (1, 5)")
    connection.execute("INSERT INTO orders (id, euros) VALUES (2, 6)")
    before = await rows.read("2")
    wanted = await rows.encoded({"euros": 5}, before)
    with pytest.raises(WriteRefused, match=r"undo\.refused"):
        await rows.write("2", wanted, before)
    with pytest.raises(WriteRefused, match=r"undo\.refused"):
        await rows.encoded({"euros": "many"}, before)
    with pytest.raises(EffectError, match=r"undo\.value"):
        await rows.encoded({"cents": 5}, before)
    assert await rows.read("2") == before


# -- files ---------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


async def test_files_are_a_resource(tmp_path: Path) -> None:
    async def edit(key: str, value: str | None) -> None:
        if value is None:
            (tmp_path / key).unlink()
        else:
            (tmp_path / key).write_text(value)

    await check_resource(Files(tmp_path), "a.txt", "first", "second", edit=edit, sees_returns=True)
    assert names(tmp_path) == []


async def test_a_file_that_is_replaced_by_a_rename_is_seen(tmp_path: Path) -> None:
    async def edit(key: str, value: str | None) -> None:
        if value is None:
            (tmp_path / key).unlink()
        else:
            (tmp_path / "new").write_text(value)
            (tmp_path / "new").rename(tmp_path / key)

    await check_resource(Files(tmp_path), "a.txt", "first", "second", edit=edit, sees_returns=True)


async def test_a_file_may_have_the_longest_name(tmp_path: Path) -> None:
    files, key = Files(tmp_path), "a" * 255
    nothing = await files.read(key)
    made = await files.write(key, await files.encoded("one", nothing), nothing)
    await files.write(key, await files.encoded("two", made), made)
    assert (tmp_path / key).read_text() == "two" and names(tmp_path) == [key]


async def test_the_mode_of_a_file_is_kept(tmp_path: Path) -> None:
    files, path = Files(tmp_path), tmp_path / "run.sh"
    path.write_text("one")
    path.chmod(0o750)
    before = await files.read("run.sh")
    after = await files.write("run.sh", await files.encoded("two", before), before)
    assert path.read_text() == "two" and path.stat().st_mode & 0o777 == 0o750
    await files.write("run.sh", before.content, after)
    assert path.read_text() == "one" and path.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("key", ["../a", "/etc/passwd", "a/../b", "", "a//b", "missing/a", "link"])
async def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, key: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "a").write_text("x")
    (root / "link").symlink_to(tmp_path / "a")
    with pytest.raises(EffectError, match=r"undo\.path"):
        await Files(root).read(key)


async def test_a_write_waits_for_whoever_has_the_file_open(tmp_path: Path) -> None:
    """1. an editor opens the file; 2. the write begins; 3. the editor writes and closes."""
    files, path = Files(tmp_path), tmp_path / "a"
    path.write_text("one")
    before = await files.read("a")
    wanted = await files.encoded("two", before)
    with path.open("r+") as editor:
        writing = asyncio.ensure_future(files.write("a", wanted, before))
        await asyncio.sleep(0.1)
        assert not writing.done()
        editor.write("theirs")
    with pytest.raises(Changed):
        await writing
    assert path.read_text() == "theirs" and names(tmp_path) == ["a"]


async def test_no_edit_is_lost_between_many_editors_and_a_writer(tmp_path: Path) -> None:
    """Editors append lines in place; the writer reads and writes."""
    files, path = Files(tmp_path), tmp_path / "a"
    path.write_text("")
    over = threading.Event()
    edits: dict[str, int] = {}

    def edit(name: str) -> None:
        while not over.wait(0.003):
            with path.open("a") as editor:
                editor.write(f"{name}{edits.setdefault(name, 0)}\n")
            edits[name] += 1

    editors = [threading.Thread(target=edit, args=(name,)) for name in "xy"]
    for each in editors:
        each.start()
    written, refused = 0, 0
    until_s = time.monotonic() + 30
    try:
        while (written < 20 or refused < 1) and time.monotonic() < until_s:
            before = await files.read("a")
            data = files.value(before.content) + f"w{written}\n".encode()
            try:
                await files.write("a", await files.encoded(data, before), before)
                written += 1
            except Changed:
                refused += 1
    finally:
        over.set()
        for each in editors:
            each.join()
    wanted = {f"{name}{number}" for name, count in edits.items() for number in range(count)}
    wanted |= {f"w{number}" for number in range(written)}
    # Two that edit within one write of a third can't both be followed: one lies beside the file.
    found = {line for name in names(tmp_path) for line in (tmp_path / name).read_text().split()}
    assert found == wanted and written >= 20
    assert all(name == "a" or name.startswith("a.kept-") for name in names(tmp_path))


def aside(path: Path, own: os.stat_result | None, expected: os.stat_result) -> Path:
    new = (0, 0) if own is None else (own.st_ino, own.st_mtime_ns)
    numbers = (*new, expected.st_ino, expected.st_mtime_ns)
    return path.with_name(f".{path.name}.{'-'.join(map(str, numbers))}.undo")


async def test_an_edit_that_a_dead_process_swapped_out_is_put_back(tmp_path: Path) -> None:
    """1. a process compares; 2. an editor renames his file there; 3. the process swaps, and dies
    before it looks at what came out."""
    path = tmp_path / "a"
    path.write_text("compared")
    compared = path.stat()
    path.rename(tmp_path / "old")
    path.write_text("ours")
    left = aside(path, path.stat(), compared)
    left.write_text("theirs")
    files = Files(tmp_path)
    assert files.value((await files.read("a")).content) == b"theirs"
    assert names(tmp_path) == ["a", "old"]


async def test_what_a_dead_process_had_finished_with_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    before = path.stat()
    path.rename(tmp_path / "kept")
    path.write_text("ours")
    (tmp_path / "kept").rename(aside(path, path.stat(), before))
    (tmp_path / ".a.0123.undo-draft").write_text("half")
    files = Files(tmp_path)
    assert files.value((await files.read("a")).content) == b"ours"
    assert names(tmp_path) == ["a"]


async def test_a_file_that_a_dead_process_had_removed_stays_removed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    path.rename(aside(path, None, path.stat()))
    assert (await Files(tmp_path).read("a")).content is None
    assert names(tmp_path) == []


async def test_of_two_edits_at_one_moment_the_earlier_is_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("compared")
    compared = path.stat()
    path.rename(tmp_path / "a.old")
    path.write_text("ours")
    left = aside(path, path.stat(), compared)
    left.write_text("earlier")
    inode = left.stat().st_ino
    path.write_text("later")
    os.utime(path, ns=(1, 1))
    files = Files(tmp_path)
    assert files.value((await files.read("a")).content) == b"later"
    assert (tmp_path / f"a.kept-{inode}").read_text() == "earlier"


# -- the web -------------------------------------------------------------------------------------


class Service:
    """Documents with entity tags, as RFC 9110 has them."""

    def __init__(self, *, tags: bool = True, tells: bool = True) -> None:
        self.documents: dict[str, tuple[str, bytes, str]] = {}
        self.writes = 0
        self.tags = tags
        self.tells = tells
        """Whether an answer to a PUT has the tag."""

    def put(self, key: str, media_type: str, data: bytes) -> str:
        self.writes += 1
        tag = f'"{hashlib.sha256(data).hexdigest()[:8]}-{self.writes}"'
        self.documents[key] = media_type, data, tag
        return tag

    async def answer(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        there = self.documents.get(key)
        wanted = request.headers.get("If-Match")
        if wanted is not None and (there is None or there[2] != wanted):
            return web.Response(status=412)
        if request.headers.get("If-None-Match") == "*" and there is not None:
            return web.Response(status=412)
        if request.method == "PUT":
            tag = self.put(key, request.headers["Content-Type"], await request.read())
            return web.Response(status=204, headers={"ETag": tag} if self.tells else {})
        if there is None:
            return web.Response(status=404)
        if request.method == "DELETE":
            del self.documents[key]
            return web.Response(status=204)
        headers = {"ETag": there[2]} if self.tags else {}
        return web.Response(body=there[1], headers={"Content-Type": there[0], **headers})


@pytest.fixture
async def serve() -> AsyncIterator[Any]:
    runners = []
    client = httpx.AsyncClient()

    async def started(service: Service) -> WebResources:
        app = web.Application()
        app.router.add_route("*", "/{key}", service.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        return WebResources(client, f"http://127.0.0.1:{port}", media_type="text/plain")

    yield started
    await client.aclose()
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize("key", ["../a", "a//b", "", "/a"])
async def test_a_path_out_of_the_service_is_refused(serve: Any, key: str) -> None:
    pages = await serve(Service())
    with pytest.raises(WriteRefused, match=r"undo\.path"):
        await pages.read(key)


@pytest.mark.parametrize("tells", [True, False])
async def test_a_web_service_is_a_resource(serve: Any, tells: bool) -> None:
    service = Service(tells=tells)
    pages = await serve(service)

    async def edit(key: str, value: str | None) -> None:
        if value is None:
            del service.documents[key]
        else:
            service.put(key, "text/plain", value.encode())

    await check_resource(pages, "about", "first", "second", edit=edit, sees_returns=True)


async def test_the_media_type_is_put_back(serve: Any) -> None:
    service = Service()
    service.put("a", "text/html", b"<p>")
    pages = await serve(service)
    before = await pages.read("a")
    other = await pages.encoded(Body("application/json", b"{}"), before)
    after = await pages.write("a", other, before)
    await pages.write("a", before.content, after)
    assert service.documents["a"][:2] == ("text/html", b"<p>")


async def test_a_service_without_entity_tags_is_refused(serve: Any) -> None:
    service = Service(tags=False)
    service.put("a", "text/plain", b"x")
    pages = await serve(service)
    with pytest.raises(EffectError, match=r"undo\.no_entity_tag"):
        await pages.read("a")
