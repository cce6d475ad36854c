"""Owners that are stopped, cut off from the database, or lose their connection at any moment.

Always: one accepted outcome for each node, nothing lost, and no finished node runs again.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from stageflow import JournalError, Pipeline, Run, Runtime, Stage, transform
from stageflow.journal.store import LoadedRun, Owner
from stageflow.model.marks import MarkCounts, counting

pytest.importorskip("psycopg", reason="needs the extra stageflow[postgres]")

from stageflow.journal.postgres.store import PostgresStore

PROGRAM = Path(__file__).parent / "shared_desk.py"
WAIT_S = 30.0


class Relay:
    """A TCP relay before the database, which can go silent, or deaf for answers, or cut.

    Silent: it takes bytes and keeps them, as a network that is split. Deaf: it hands on what comes
    from the client and throws away what the server answers.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()
        self._flows = threading.Event()
        self._flows.set()
        self.is_deaf = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def silence(self) -> None:
        self._flows.clear()

    def heal(self) -> None:
        self.is_deaf = False
        self._flows.set()

    def cut(self) -> None:
        """Ends every connection there is."""
        for pair in self._pairs:
            for one in pair:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.heal()
        self.cut()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._pairs.append((client, server))
                for one, other, answers in ((client, server, False), (server, client, True)):
                    thread = threading.Thread(
                        target=self._pump, args=(one, other, answers), daemon=True
                    )
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, one: socket.socket, other: socket.socket, answers: bool) -> None:
        with suppress(OSError), one:
            while data := one.recv(65536):
                self._flows.wait()
                if not (answers and self.is_deaf):
                    other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay(postgres_url: str) -> Iterator[Relay]:
    PostgresStore(postgres_url).close()  # making the tables may take longer than an answer here
    with closing(Relay(postgres_url)) as one:
        yield one


@contextmanager
def desk(folder: Path, journal: str, does: str = "start") -> Iterator[subprocess.Popen[str]]:
    """The program, at work on run "r"."""
    command = [sys.executable, str(PROGRAM), str(folder), journal, does, "r"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until(holds: Callable[[], bool]) -> None:
    """Waits for another process, or for the database's clock."""
    end_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.02)


def is_orphan(store: PostgresStore) -> bool:
    (line,) = store.runs()
    return line.live is False


def entered(folder: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in (folder / "ran.txt").read_text().splitlines())


def sound(loaded: LoadedRun, nodes: int) -> None:
    accepted = [record.node for record in loaded.records if record.is_accepted]
    assert sorted(set(accepted), key=str) == sorted(accepted, key=str), "accepted twice"
    assert len(accepted) == nodes and loaded.status == "ok"


def test_an_owner_stopped_past_its_lease_loses_its_run_and_is_told(
    tmp_path: Path, postgres_url: str
) -> None:
    """
    1. a process is stopped in its third stage, and its lease expires
    2. another process finishes the run
    3. the first goes on: its run is lost, what it writes is refused and kept apart
    """
    url = f"{postgres_url}&lease_s=0.5"
    with desk(tmp_path, url) as first, closing(PostgresStore(url)) as store:
        assert told(first) == "holding"
        first.send_signal(signal.SIGSTOP)
        until(lambda: is_orphan(store))
        (tmp_path / "go").touch()
        with desk(tmp_path, url, "resume") as second:
            assert (told(second), told(second)) == ("holding", "ok 012345")
        before = store.load("r")
        first.send_signal(signal.SIGCONT)
        assert told(first) == "journal.stale_owner"
        assert store.load("r") == before, "it wrote after it had lost the run"
        sound(before, 5)
        assert entered(tmp_path) == {"first": 1, "second": 1, "held": 2, "fourth": 1, "last": 1}
        late = store.refused("r")
        assert (
            late and {one.epoch for one in late} == {1} and {one.held_epoch for one in late} == {2}
        )
        assert {one.record.node for one in late} <= {"held", "fourth", None}
    shown = subprocess.run(
        [sys.executable, "-m", "stageflow.cli", "show", "r", "--journal", postgres_url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "refused: " in shown.stdout and "from epoch 1" in shown.stdout


def test_an_owner_that_has_nothing_to_write_learns_of_its_loss_too(
    tmp_path: Path, postgres_url: str
) -> None:
    url = f"{postgres_url}&lease_s=0.5"
    (tmp_path / "other").mkdir()
    with desk(tmp_path, url) as first, closing(PostgresStore(url)) as store:
        assert told(first) == "holding"
        first.send_signal(signal.SIGSTOP)
        until(lambda: is_orphan(store))
        (tmp_path / "other" / "go").touch()
        with desk(tmp_path / "other", url, "resume") as second:
            assert (told(second), told(second)) == ("holding", "ok 012345")
        first.send_signal(signal.SIGCONT)
        assert told(first) == "journal.stale_owner", "it still waits in its stage"


def test_a_run_of_a_live_owner_is_not_resumed(tmp_path: Path, postgres_url: str) -> None:
    url = f"{postgres_url}&lease_s=0.5"
    with desk(tmp_path, url) as first:
        assert told(first) == "holding"
        with closing(PostgresStore(url)) as store:
            for _ in range(3):
                with desk(tmp_path, url, "resume") as second:
                    assert told(second) == "journal.run_is_live"
                assert not is_orphan(store), "the heartbeat keeps the lease"
        (tmp_path / "go").touch()
        assert told(first) == "ok 012345"


def test_an_owner_split_from_the_database_loses_its_run(
    tmp_path: Path, postgres_url: str, relay: Relay
) -> None:
    """
    1. the network between a process and the database goes silent; its lease expires
    2. another process, on the right side, finishes the run
    3. the network heals: what the first had under way is refused
    """
    slow = f"{relay.url}&lease_s=0.5&answer_s=0.5"
    with desk(tmp_path, slow) as first, closing(PostgresStore(postgres_url)) as store:
        assert told(first) == "holding"
        relay.silence()
        (tmp_path / "go").touch()
        until(lambda: is_orphan(store))
        with desk(tmp_path, postgres_url, "resume") as second:
            assert (told(second), told(second)) == ("holding", "ok 012345")
        before = store.load("r")
        relay.heal()
        assert told(first) == "journal.stale_owner"
        assert store.load("r") == before
        sound(before, 5)


async def test_a_database_that_stays_away_ends_the_run_with_its_code(
    tmp_path: Path, postgres_url: str, relay: Relay
) -> None:
    """And the run goes on where it stood, once the database is back."""
    away = f"{relay.url}&lease_s=0.5&answer_s=0.5&away_s=0.5"
    with desk(tmp_path, away) as first:
        assert told(first) == "holding"
        relay.silence()
        (tmp_path / "go").touch()
        assert told(first) == "journal.unreachable"
    relay.cut()  # what it had sent and nobody answered is gone with its connections
    relay.heal()
    with closing(PostgresStore(postgres_url)) as store:
        until(lambda: is_orphan(store))
        with desk(tmp_path, postgres_url, "resume") as second:
            assert (told(second), told(second)) == ("holding", "ok 012345")
        sound(store.load("r"), 5)
    assert entered(tmp_path)["first"] == entered(tmp_path)["second"] == 1


STAGES = 60


def chain(visit: Callable[[str], None]) -> Pipeline[Any]:
    async def body(text: str) -> str:
        visit(text)
        return str(int(text) + 1)

    stages: list[Stage[..., Any]] = [transform(body, name="s0")]
    for number in range(1, STAGES):
        stages.append(stages[0].named(f"s{number}", text=stages[-1]))
    return Pipeline("chain", stages, inputs={"text": str}, outputs=stages[-1])


async def shaken(url: str, shake: Callable[[], None]) -> tuple[Run[Any], Counter[str], LoadedRun]:
    """Three runs side by side while `shake` is done again and again; the last run's account."""
    visits: Counter[str] = Counter()
    pipeline = chain(lambda text: visits.update([text]))
    async with Runtime(journal=url) as runtime:
        bound = pipeline.using(runtime=runtime)
        handles = [bound.start(text="0") for _ in range(3)]
        over = asyncio.gather(*handles)
        seen = -1
        while not over.done():
            if visits.total() > seen:  # however slow the machine is, the runs get on between
                seen = visits.total()
                await asyncio.to_thread(shake)
            await asyncio.wait([over], timeout=0.01)
        runs = await over
        for run in runs:
            sound(await runtime.load(run.id), STAGES)
        return runs[-1], visits, await runtime.load(runs[-1].id)


async def test_connections_that_are_cut_lose_and_repeat_nothing(relay: Relay) -> None:
    marks = MarkCounts()
    with counting(marks):
        run, visits, _ = await shaken(relay.url, relay.cut)
    assert run.output == str(STAGES) and set(visits.values()) == {3}
    assert marks.all()["connection_lost"] >= 1


async def test_sessions_that_the_server_ends_lose_and_repeat_nothing(
    postgres_url: str, postgres_server: Any
) -> None:
    schema = postgres_url.partition("schema=")[2]

    def end_sessions() -> None:
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = ANY(%s)",
            ([f"{schema} writes", f"{schema} lease"],),
        )

    run, visits, _ = await shaken(postgres_url, end_sessions)
    assert run.output == str(STAGES) and set(visits.values()) == {3}


async def test_appends_whose_answers_are_lost_are_found_by_reading(relay: Relay) -> None:
    """
    1. an append reaches the server and is committed; its answer is thrown away
    2. the connection ends: nobody here knows
    3. a new connection finds the append, and it is not written again
    """
    marks, rng = MarkCounts(), random.Random(3)

    def swallow() -> None:
        relay.is_deaf = True
        time.sleep(rng.uniform(0.005, 0.02))
        relay.cut()
        relay.is_deaf = False

    with counting(marks):
        run, visits, loaded = await shaken(relay.url, swallow)
    assert run.output == str(STAGES) and set(visits.values()) == {3}
    assert [record.seq for record in loaded.records] == list(range(1, len(loaded.records) + 1))
    assert marks.all()["unknown_append_found"] >= 1


async def test_a_database_that_is_not_there_is_told_when_the_journal_opens() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(JournalError) as caught:
        Runtime(journal=f"postgresql://nobody@127.0.0.1:{port}/none")
    assert caught.value.code == "journal.unreachable"


async def test_what_stood_in_line_while_the_database_was_away_fails_at_once(relay: Relay) -> None:
    """
    1. the database goes away while twenty runs begin
    2. one of them waits for it as long as may be; the others fail with it, not one after another
    3. once it is back, what was cut off is nobody's, and can be taken up by anybody
    """
    begun, pipeline = asyncio.Event(), chain(lambda text: None)

    async def body(text: str) -> str:
        begun.set()
        await gone.wait()
        return text

    gone = asyncio.Event()
    stage = transform(body, name="waits")
    waits = Pipeline("waits", [stage], inputs={"text": str}, outputs=stage)
    url = f"{relay.url}&lease_s=0.6&answer_s=0.3&away_s=0.5"
    async with Runtime(journal=url) as runtime, asyncio.timeout(WAIT_S):
        held = waits.using(runtime=runtime, run_id="held").start(text="0")
        await begun.wait()
        relay.silence()
        handles = [pipeline.using(runtime=runtime).start(text="0") for _ in range(20)]
        begun_s = time.monotonic()
        gone.set()
        ended = await asyncio.gather(held, *handles, return_exceptions=True)
        took_s = time.monotonic() - begun_s
        assert {getattr(one, "code", one) for one in ended} == {"journal.unreachable"}
        assert took_s < 12, f"they waited one after another: {took_s:.1f} s"
        relay.cut()
        relay.heal()
        with closing(PostgresStore(relay.url)) as other:
            until(lambda: all(line.live is False for line in other.runs()))
            assert other.claim("held", Owner.this_process()).epoch == 2
