"""What guards look at is sealed in the journal, and gone for ever once they decide against it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sqlite3
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    UNSEALED,
    Allow,
    Block,
    BuildError,
    Context,
    Decision,
    Feedback,
    JournalError,
    KeyFile,
    Pipeline,
    Redact,
    Revise,
    Run,
    RunError,
    Runtime,
    StageflowError,
    StageOutput,
    Subscription,
    agent,
    guard,
    transform,
    work,
)
from stageflow.journal.journal import GroupCommit
from stageflow.journal.memory import MemoryStore
from stageflow.journal.opening import opened
from stageflow.journal.postgres.address import parsed
from stageflow.journal.sqlite import SQLiteStore
from stageflow.model.record import RecordType
from stageflow.runtime.account import attempts_of
from stageflow.testing import crash_at_every_record

DECISIONS: dict[str, Callable[[str], Decision]] = {
    "allow": lambda _: Allow(),
    "redact": lambda _: Redact("clean"),
    "block": lambda _: Block("not for others"),
}
DECIDED_AGAINST = ("redact", "block")


def secret(name: str) -> str:
    """Long and unlike anything else; with a quote, so that escaped forms differ."""
    return f'canary "{name}" 7f3a91c2e5'


def forms(text: str) -> dict[str, bytes]:
    """How a value may lie in a file. Base64 shifts with what is before it: the middle tells."""
    utf8 = text.encode()
    return {
        "utf-8": utf8,
        "utf-16": text.encode("utf-16-le"),
        "hex": utf8.hex().encode(),
        "base64 at 0": base64.b64encode(utf8)[4:-4],
        "base64 at 1": base64.b64encode(b"x" + utf8)[4:-4],
        "base64 at 2": base64.b64encode(b"xx" + utf8)[4:-4],
        "json": json.dumps(text)[1:-1].encode(),
        "json twice": json.dumps(json.dumps(text))[3:-3].encode(),
        "compressed": zlib.compress(utf8)[2:-4],
    }


def found_in(data: bytes, text: str) -> list[str]:
    return [name for name, form in forms(text).items() if form in data]


def desk(how: str, *, size: int = 0) -> Pipeline[Any]:
    """A guarded input, a guarded value with steps, failures and revisions, and a consumer."""
    decide = DECISIONS[how]

    @agent(revisions=3)
    async def draft(text: str, feedback: Feedback | None, ctx: Context) -> str:
        made = await ctx.step("model", lambda: secret("step"))
        revision = 0 if feedback is None else feedback.revision
        return f"{made} {secret('draft')} {revision}" + "x" * size

    @guard(of="text")
    async def asked(text: str) -> Decision:
        return decide(text) if how != "block" else Allow()

    @guard
    async def checked(draft: str) -> Decision:
        return Revise("again") if draft.rstrip("x").endswith(" 0") else decide(draft)

    @transform
    async def final(draft: str) -> int:
        return len(draft)

    return Pipeline("desk", [draft, asked, checked, final], inputs={"text": str}, outputs=final)


SECRETS = [secret(name) for name in ("input", "step", "draft")]


def files_in(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.iterdir()))


def code_of(caught: pytest.ExceptionInfo[Any]) -> str:
    return str(caught.value.code)


@pytest.mark.parametrize("size", [0, 100_000], ids=["small", "kept apart"])
@pytest.mark.parametrize("how", DECISIONS)
async def test_no_form_of_a_guarded_value_is_in_any_file_of_the_journal(
    how: str, size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events = Subscription()
    pipeline = desk(how, size=size)
    seen: list[bytes] = []
    async with Runtime(journal=tmp_path / "runs.db", events=[events]) as runtime:
        run = await pipeline.using(runtime=runtime).run(text=secret("input"))
        assert run.status == ("blocked" if how == "block" else "ok")
        seen.append(files_in(tmp_path))  # the log was not written back yet
        loaded = await runtime.load(run.id)
    seen.append(files_in(tmp_path))
    told = [repr(each) for each in events.drain()] + [str(run.reason), repr(run), caplog.text]
    seen.append("\n".join(told).encode())
    kinds = {record.type for record in loaded.records if record.node == "draft"}
    assert {RecordType.STEP, RecordType.OUTCOME} <= kinds and len(told) > 10, "the load happened"
    for text in SECRETS:
        for data in seen:
            assert found_in(data, text) == []


async def test_the_search_finds_what_is_not_sealed(tmp_path: Path) -> None:
    async with Runtime(journal=tmp_path / "runs.db", keys=UNSEALED) as runtime:
        await desk("block").using(runtime=runtime).run(text=secret("input"))
        data = files_in(tmp_path)
    for text in SECRETS:
        assert found_in(data, text)
    for name, form in forms(SECRETS[0]).items():
        assert name in found_in(b"before" + form + b"after", SECRETS[0])


def keys_in(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as file:
        return sorted(key_id.partition("#")[0] for (key_id,) in file.execute("SELECT id FROM keys"))


@pytest.mark.parametrize(
    ("how", "left"),
    [("allow", ["", "draft", "run", "text"]), ("redact", ["", "run"]),
     ("block", ["", "run", "text"])],
)  # fmt: skip
async def test_a_decision_against_a_value_destroys_its_key(
    how: str, left: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"
    wrapped: dict[str, bytes] = {}

    class Watching(SQLiteStore):
        def commit(self, batch: Any) -> Any:
            answers = super().commit(batch)
            wrapped.update(dict(self.load(batch[0].run).keys))
            return answers

        def create(self, header: Any, owner: Any, records: Any) -> int:
            epoch = super().create(header, owner, records)
            wrapped.update(dict(self.load(header.run).keys))
            return epoch

    async with Runtime(journal=GroupCommit(Watching(path))) as runtime:
        await desk(how).using(runtime=runtime).run(text=secret("input"))
    assert keys_in(path) == left
    data = files_in(tmp_path)
    for key_id, key in wrapped.items():
        assert (key in data) is (key_id.partition("#")[0] in left), key_id


@pytest.mark.parametrize("how", DECIDED_AGAINST)
async def test_nothing_that_reads_a_run_gives_a_value_that_was_decided_against(
    how: str, tmp_path: Path
) -> None:
    pipeline = desk(how)
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        run = await pipeline.using(runtime=runtime).run(text=secret("input"))
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        loaded = await runtime.load(run.id)
        told = repr(attempts_of(loaded, pipeline.plan)) + repr(loaded)
        for again in (
            await runtime.resume(run.id, pipeline=pipeline),
            await runtime.result(run.id, pipeline=pipeline),
        ):
            assert (again.status, again.reason) == (run.status, run.reason)
            told += repr(again) + repr(again.candidates("draft")) + repr(again.failures)
            if how == "redact":
                assert again.output == run.output == len("clean")
                assert again["draft"] == "clean"
            else:
                with pytest.raises(StageflowError) as caught:
                    _ = again["draft"]
                told += str(caught.value)
    hidden = SECRETS if how == "redact" else SECRETS[1:]  # its input was allowed
    for text in hidden:
        assert found_in(told.encode(), text) == []


async def test_an_allowed_value_is_read_with_the_key_and_erased_without(tmp_path: Path) -> None:
    pipeline = desk("allow")
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        run = await pipeline.using(runtime=runtime).run(text=secret("input"))
        assert secret("draft") in (await runtime.result(run.id, pipeline=pipeline))["draft"]
        assert await runtime.erase(run.id) == 4
        assert await runtime.erase(run.id) == 0
        erased = await runtime.result(run.id, pipeline=pipeline)
        assert erased.status == "ok"
        for text in SECRETS:
            assert found_in(repr(await runtime.load(run.id)).encode(), text) == []


async def test_a_run_that_was_erased_does_not_go_on(tmp_path: Path) -> None:
    @transform
    async def draft(text: str) -> str:
        return text

    @guard
    async def broken(draft: str) -> Decision:
        raise RuntimeError("no model")

    pipeline = Pipeline("desk", [draft, broken], inputs={"text": str}, outputs=draft)
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        run = await pipeline.using(runtime=runtime).run(text="a")
        assert run.status == "blocked"
        again = await runtime.resume(run.id, pipeline=pipeline)
        assert again.status == "blocked", "a guard that failed is asked again, with the raw value"
        await runtime.erase(run.id)
        with pytest.raises(JournalError) as caught:
            await runtime.resume(run.id, pipeline=pipeline)
        assert code_of(caught) == "seal.erased"


async def test_a_run_that_goes_on_is_not_erased(tmp_path: Path) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    @transform
    async def draft(text: str) -> str:
        started.set()
        await go.wait()
        return text

    pipeline = Pipeline("desk", [draft], inputs={"text": str}, outputs=draft)
    async with Runtime(journal=tmp_path / "runs.db", sealed="all") as runtime:
        handle = pipeline.using(runtime=runtime).start(text="a")
        await started.wait()
        with pytest.raises(RunError) as caught:
            await runtime.erase(handle.run_id)
        assert code_of(caught) == "run.not_over"
        go.set()
        assert (await handle).status == "ok"


async def test_all_values_of_a_run_are_sealed_when_asked(tmp_path: Path) -> None:
    @transform
    async def draft(text: str) -> str:
        return text + secret("draft")

    pipeline = Pipeline("desk", [draft], inputs={"text": str}, outputs=draft)
    for sealed in ("guarded", "all"):
        folder = tmp_path / sealed
        async with Runtime(journal=folder / "runs.db", sealed=sealed) as runtime:
            run = await pipeline.using(runtime=runtime).run(text=secret("input"))
            assert (await runtime.result(run.id, pipeline=pipeline)).output == run.output
        data = files_in(folder)
        for text in (secret("input"), secret("draft")):
            assert bool(found_in(data, text)) is (sealed == "guarded")


async def test_what_a_guard_quotes_in_its_failure_goes_with_the_value(tmp_path: Path) -> None:
    @transform
    async def draft(text: str) -> str:
        return secret("draft")

    @guard
    async def quotes(draft: str) -> Decision:
        raise ValueError(f"can't judge {draft}")

    @guard
    async def blocks(draft: str) -> Decision:
        return Block("no")

    pipeline = Pipeline("desk", [draft, quotes, blocks], inputs={"text": str}, outputs=draft)
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        run = await pipeline.using(runtime=runtime).run(text="a")
        assert run.status == "blocked"
        assert found_in(files_in(tmp_path), secret("draft")) == []


@pytest.mark.parametrize("how", DECISIONS)
def test_sealed_runs_survive_a_crash_between_any_two_records(how: str) -> None:
    pipeline = desk(how)
    crashes = crash_at_every_record(pipeline, {"text": "a"})
    assert len(crashes) > 10
    for crash in crashes:
        assert crash.run.status == ("blocked" if how == "block" else "ok"), crash.records
        if how == "redact":
            assert crash.run.output == len("clean")
        names = {key_id.partition("#")[0] for key_id in crash.history.keys}
        assert ("draft" in names) is (how == "allow"), crash.records
        for record in crash.history.records:
            sealed = record.payload is not None and record.node == "draft"
            assert bool(record.key_id) is sealed or record.node != "draft"


def test_equal_seeds_write_equal_sealed_journals() -> None:
    pipeline = desk("redact")
    one, other = (
        [crash.history.records for crash in crash_at_every_record(pipeline, {"text": "a"})]
        for _ in range(2)
    )
    assert one == other


async def test_an_undo_has_the_value_that_a_guard_blocked(tmp_path: Path) -> None:
    undone: list[str] = []

    async def refund(result: str) -> None:
        undone.append(result)

    @work(undo=refund)
    async def charge(text: str) -> str:
        return secret("charge")

    @guard
    async def checked(charge: str) -> Decision:
        return Block("no")

    pipeline = Pipeline("desk", [charge, checked], inputs={"text": str}, outputs=charge)
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        run = await pipeline.using(runtime=runtime).run(text="a")
        assert undone == [secret("charge")], run
        assert found_in(files_in(tmp_path), secret("charge")) == []


@pytest.mark.parametrize("how", DECISIONS)
async def test_a_child_of_a_guarded_stage_is_shredded_with_it(how: str, tmp_path: Path) -> None:
    decide = DECISIONS[how]

    @transform
    async def inner(text: str) -> str:
        return secret("inner")

    child = Pipeline("child", [inner], inputs={"text": str}, outputs=inner)

    @agent
    async def draft(text: str, ctx: Context) -> str:
        return str(await ctx.run(child, key="k", text=secret("given")))

    @guard
    async def checked(draft: str) -> Decision:
        return decide(draft)

    pipeline = Pipeline("desk", [draft, checked], inputs={"text": str}, outputs=draft)
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        run = await pipeline.using(runtime=runtime).run(text="a")
        assert run.status == ("blocked" if how == "block" else "ok"), run.failures
        runs = await runtime.runs()
        (below,) = [one.header.run for one in runs if one.header.parent == run.id]
        told = repr(await runtime.load(below)).encode()
        for text in (secret("inner"), secret("given")):
            assert bool(found_in(told, text)) is (how == "allow")
            assert found_in(files_in(tmp_path), text) == []


async def test_a_sealed_record_opens_only_in_its_place(tmp_path: Path) -> None:
    pipeline = desk("allow")
    store = MemoryStore()
    async with Runtime(journal=GroupCommit(store)) as runtime:
        run = await pipeline.using(runtime=runtime).run(text=secret("input"))
        whole = store.load(run.id)
        place = next(i for i, one in enumerate(whole.records) if one.key_id)
        for change in (
            {"revision": 9}, {"attempt": 9}, {"seq": 99}, {"node": "final"},
            {"payload": whole.records[place].payload[:-1] + b"!"},
        ):  # fmt: skip
            records = list(whole.records)
            records[place] = records[place]._replace(**change)
            with pytest.raises(JournalError) as caught:
                await runtime.seals.opened(replace(whole, records=tuple(records)))
            assert code_of(caught) == "seal.damaged"
        for other in ({"run": "another"}, {"tenant": "another"}):
            moved = replace(whole, header=replace(whole.header, **other))
            with pytest.raises(StageflowError) as caught:
                await runtime.seals.opened(moved)
            assert code_of(caught) in ("seal.damaged", "seal.wrong_key")


async def test_another_key_encryption_key_opens_nothing(tmp_path: Path) -> None:
    pipeline = desk("allow")
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        run = await pipeline.using(runtime=runtime).run(text="a")
    async with Runtime(journal=tmp_path / "runs.db", keys=tmp_path / "other.key") as runtime:
        await desk("allow").using(runtime=runtime).run(text="b")
        with pytest.raises(JournalError) as caught:
            await runtime.load(run.id)
        assert code_of(caught) == "seal.wrong_key"
    (tmp_path / "runs.db.key").unlink()
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        with pytest.raises(BuildError) as missing:
            await runtime.load(run.id)
        assert missing.value.code == "seal.key_file"


async def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stageflow.key"
    path.write_bytes(bytes(32))
    path.chmod(0o640)
    with pytest.raises(BuildError) as caught:
        await KeyFile(path).wrap(bytes(32), bound=b"")
    assert caught.value.code == "seal.key_file"
    path.chmod(0o600)
    wrapped = await KeyFile(path).wrap(b"k" * 32, bound=b"here")
    assert await KeyFile(path).unwrap(wrapped, bound=b"here") == b"k" * 32
    with pytest.raises(JournalError):
        await KeyFile(path).unwrap(wrapped, bound=b"there")


async def test_a_key_service_is_asked_once_a_run_and_its_failure_is_told() -> None:
    class Service:
        def __init__(self) -> None:
            self.asked = 0
            self.is_away = False

        async def wrap(self, key: bytes, *, bound: bytes) -> bytes:
            return self._done(key)

        async def unwrap(self, wrapped: bytes, *, bound: bytes) -> bytes:
            return self._done(wrapped)

        def _done(self, key: bytes) -> bytes:
            if self.is_away:
                raise ConnectionError("away")
            self.asked += 1
            return bytes(byte ^ 0x55 for byte in key)

    service = Service()
    async with Runtime(journal=GroupCommit(MemoryStore()), keys=service) as runtime:
        bound = desk("redact").using(runtime=runtime)
        run = await bound.run(text="a")
        assert service.asked == 1
        await runtime.load(run.id)
        assert service.asked == 2
        service.is_away = True
        for call in (lambda: bound.run(text="a"), lambda: runtime.load(run.id)):
            with pytest.raises(JournalError) as caught:
                await call()
            assert code_of(caught) == "seal.keys_failed"
        assert len(await runtime.runs()) == 1, "nothing was begun"


async def test_a_journal_without_the_package_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        with pytest.raises(BuildError) as caught:
            await desk("allow").using(runtime=runtime).run(text="a")
        assert caught.value.code == "seal.missing_package" and "pip install cryptography" in str(
            caught.value
        )
        assert await runtime.runs() == []
    async with Runtime(journal=tmp_path / "runs.db", keys=UNSEALED) as runtime:
        assert (await desk("allow").using(runtime=runtime).run(text="a")).status == "ok"
    assert (await desk("allow").run(text="a")).status == "ok", "in memory nothing is kept"


async def test_a_journal_that_has_no_place_for_keys_must_be_given_some(postgres_url: str) -> None:
    async with Runtime(journal=postgres_url) as runtime:
        with pytest.raises(BuildError) as caught:
            await desk("allow").using(runtime=runtime).run(text="a")
        assert caught.value.code == "seal.no_keys"


@pytest.mark.parametrize("how", DECISIONS)
async def test_no_table_in_postgresql_holds_a_guarded_value(
    how: str, postgres_url: str, postgres_server: Any, tmp_path: Path
) -> None:
    pipeline = desk(how, size=100_000)
    keys = tmp_path / "stageflow.key"
    async with Runtime(journal=opened(postgres_url), keys=keys) as runtime:
        run = await pipeline.using(runtime=runtime).run(text=secret("input"))
    schema = parsed(postgres_url).schema
    tables = postgres_server.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)
    ).fetchall()
    assert len(tables) > 8
    dumped = b""
    for (table,) in tables:
        with postgres_server.cursor().copy(
            f'COPY "{schema}"."{table}" TO STDOUT (FORMAT binary)'
        ) as rows:
            dumped += b"".join(bytes(part) for part in rows)
    assert run.id.encode() in dumped
    for text in SECRETS:
        assert found_in(dumped, text) == []
    async with Runtime(journal=postgres_url, keys=keys) as runtime:
        again = await runtime.result(run.id, pipeline=pipeline)
        assert (again.status, again.reason) == (run.status, run.reason)
        names = {key.partition("#")[0] for key in (await runtime.load(run.id)).keys}
        assert ("draft" in names) is (how == "allow")


async def test_a_repeated_request_gets_its_run_after_its_input_was_shredded(
    tmp_path: Path,
) -> None:
    async def asked(text: str) -> Run[Any]:
        async with Runtime(journal=tmp_path / "runs.db") as runtime:
            return await desk("redact").using(runtime=runtime, request_key="k").run(text=text)

    first = await asked(secret("input"))
    again = await asked(secret("input"))
    assert again.id == first.id and again.output == first.output


async def test_a_failed_guarded_stage_says_so_in_sealed_words(tmp_path: Path) -> None:
    @transform
    async def draft(text: str) -> Any:
        return StageOutput.fail(secret("said"), data=secret("data"))

    @guard
    async def checked(draft: Any) -> Decision:
        return Allow()

    pipeline = Pipeline("desk", [draft, checked], inputs={"text": str}, outputs=draft)
    async with Runtime(journal=tmp_path / "runs.db") as runtime:
        run = await pipeline.using(runtime=runtime).run(text="a")
        again = await runtime.result(run.id, pipeline=pipeline)
        assert again.failures["draft"] == run.failures["draft"]
        for text in (secret("said"), secret("data")):
            assert found_in(files_in(tmp_path), text) == []
