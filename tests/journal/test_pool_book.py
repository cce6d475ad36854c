"""The book of shared pools: its rules, and the stores that keep it."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from stageflow import BuildError
from stageflow.journal.pools import PER_TENANT, MemoryPools, PoolBook, PoolEntry, PoolStore

OWNERS = ("a", "b", "c")


def entry(request: str, *, units: int = 1, owner: str = "a") -> PoolEntry:
    return PoolEntry(request, owner, f"t{request}", units, 0)


def asked(book: PoolBook, request: str, total: int = 2, **options: Any) -> PoolEntry | None:
    return book.ask("gpu", total, entry(request, **options), waiters_max=100)


@pytest.mark.parametrize("seed", range(50))
def test_no_more_units_are_out_than_there_are_and_nobody_overtakes(seed: int) -> None:
    rng, book, live = random.Random(seed), PoolBook(), list[str]()
    last_fence = 0
    for number in range(200):
        if live and rng.random() < 0.45:
            book.give_back(live.pop(rng.randrange(len(live))))
        else:
            asked(book, f"r{number}", 3, units=rng.randint(1, 3), owner=rng.choice(OWNERS))
            live.append(f"r{number}")
        book = PoolBook.loaded(book.dumped())
        pool = book.pools["gpu"]
        assert 0 <= pool.free <= 3
        assert not pool.queue or pool.queue[0].units > pool.free, "who is first and fits is served"
        tickets = [each.ticket for each in pool.queue]
        assert tickets == sorted(tickets)
        fences = sorted(each.fence for each in pool.holds)
        assert len(set(fences)) == len(fences) and all(fences)
        last_fence = max([last_fence, *fences])
    for request in live:
        book.give_back(request)
    assert book.pools["gpu"].free == 3 and not book.pools["gpu"].queue


def test_asking_again_changes_nothing() -> None:
    book = PoolBook()
    first = asked(book, "r")
    assert asked(book, "r") is first
    assert book.pools["gpu"].free == 1


def test_a_lease_that_ended_frees_what_was_held() -> None:
    book = PoolBook()
    for owner in ("a", "b"):
        book.begin(owner, now_s=0.0, lease_s=10.0)
        asked(book, owner, 1, owner=owner)
    assert book.renew("b", now_s=9.0, lease_s=10.0)
    assert book.renew("b", now_s=12.0, lease_s=10.0)
    assert not book.renew("a", now_s=12.0, lease_s=10.0)
    assert [each.owner for each in book.pools["gpu"].holds] == ["b"]


def test_one_wait_of_a_cycle_is_ended_and_only_while_all_stand() -> None:
    book = PoolBook()
    for request in ("holds", "x", "y"):
        asked(book, request, 1)
    assert not book.doom(["x", "gone"], "why")
    assert book.doom(["x", "y"], "why")
    assert [each.doomed for each in book.pools["gpu"].queue] == ["", "why"], "the last to ask"
    assert not book.doom(["x", "y"], "again")
    assert not book.doom([], "nobody")


def test_too_many_who_wait_and_other_units() -> None:
    book = PoolBook()
    for request in ("holds", "waits"):
        asked(book, request, 1)
    assert book.ask("gpu", 1, entry("more"), waiters_max=1) is None
    with pytest.raises(ValueError, match="1"):
        asked(book, "other", 5)
    for request in ("holds", "waits"):
        book.give_back(request)
    assert asked(book, "other", 5) is not None


@pytest.fixture
def redis_pools() -> Iterator[str]:
    """An address of one's own; skips without the client or the server."""
    redis = pytest.importorskip("redis")
    server, prefix = "redis://127.0.0.1:6379/0", f"stageflow:test:{uuid.uuid4().hex}"
    client = redis.Redis.from_url(server, socket_connect_timeout=2)
    try:
        client.ping()
    except redis.RedisError as error:
        pytest.skip(f"no Redis: {error}")
    yield f"{server}?prefix={prefix}&lease_s=20"
    client.delete(f"{prefix}:book", f"{prefix}:pictures")
    client.close()


@pytest.fixture(params=["memory", "postgres", "redis"])
def store(request: pytest.FixtureRequest) -> PoolStore:
    if request.param == "memory":
        return MemoryPools()
    if request.param == "redis":
        from stageflow.journal.redis_pools import RedisPools

        return RedisPools(request.getfixturevalue("redis_pools"))
    url = request.getfixturevalue("postgres_url")
    from stageflow.journal.postgres.pools import PostgresPools

    return PostgresPools(url)


def test_a_store_keeps_what_is_changed_and_shows_the_pictures_of_the_living(
    store: PoolStore,
) -> None:
    async def main() -> None:
        def begin(book: PoolBook, now_s: float) -> int:
            for owner in ("a", "b"):
                book.begin(owner, now_s=now_s, lease_s=60.0)
            found = asked(book, "r", owner="a")
            assert found is not None
            return found.fence

        def fails(book: PoolBook, now_s: float) -> None:
            book.give_back("r")
            raise ZeroDivisionError

        try:
            assert await store.change(begin) > 0
            with pytest.raises(ZeroDivisionError):
                await store.change(fails)
            book, first_s = await store.read()
            assert book.find("r") is not None, "what failed changed nothing"
            await store.sight("a", "[1]")
            sight = await store.sight("b", "[2]")
            assert dict(sight.pictures) == {"a": "[1]", "b": "[2]"}
            assert sight.at_s >= first_s
            await store.change(lambda book, _: book.leave("a"))
            sight = await store.sight("b", "[3]")
            assert dict(sight.pictures) == {"b": "[3]"}
            assert sight.book.find("r") is None
        finally:
            await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("server", ["postgres", "redis"])
def test_changes_at_once_are_one_after_another(server: str, request: pytest.FixtureRequest) -> None:
    def opened() -> PoolStore:
        if server == "redis":
            from stageflow.journal.redis_pools import RedisPools

            return RedisPools(address)
        from stageflow.journal.postgres.pools import PostgresPools

        return PostgresPools(address)

    address = request.getfixturevalue("redis_pools" if server == "redis" else "postgres_url")

    async def main() -> None:
        stores = [opened() for _ in range(4)]
        try:
            numbers = await asyncio.gather(
                *(
                    each.change(lambda book, _: book.next_number())
                    for each in stores
                    for _ in range(25)
                )
            )
            assert sorted(numbers) == list(range(min(numbers), min(numbers) + 100))
        finally:
            for each in stores:
                await each.close()

    asyncio.run(main())


def test_a_server_that_lost_the_book_gives_greater_numbers_than_before(redis_pools: str) -> None:
    redis = pytest.importorskip("redis")
    from stageflow.journal.redis_pools import RedisPlace, RedisPools

    place = RedisPlace.parsed(redis_pools)

    async def main() -> None:
        store = RedisPools(redis_pools)
        before = await store.change(lambda book, _: book.next_number())
        client = redis.Redis.from_url(place.url)
        client.delete(f"{place.prefix}:book")
        client.close()
        assert await store.change(lambda book, _: book.next_number()) > before
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("query", ["lease_s=0", "lease_s=soon", "lease_s=nan", "prefix="])
def test_an_address_whose_options_cannot_be_is_refused(query: str) -> None:
    from stageflow.journal.redis_pools import RedisPlace

    with pytest.raises(BuildError) as caught:
        RedisPlace.parsed(f"redis://host:6379/0?{query}")
    assert caught.value.code == "pool.address"


def test_an_address_keeps_what_belongs_to_the_client() -> None:
    from stageflow.journal.redis_pools import RedisPlace

    place = RedisPlace.parsed("redis://u:p@host:1/2?lease_s=3&protocol=3")
    assert place == ("redis://u:p@host:1/2?protocol=3", 3.0, "stageflow:pools")
    place = RedisPlace.parsed("unix:///run/redis.sock?db=1&prefix=a%3Ab")
    assert place == ("unix:///run/redis.sock?db=1", 30.0, "a:b")


def test_a_tenants_line_is_forgotten_when_nobody_stands_in_it() -> None:
    book = PoolBook()
    key = f"gpu{PER_TENANT}acme"
    book.ask(key, 1, entry("r"), waiters_max=9)
    book.give_back("r")
    assert key not in book.pools


async def _hears_of_its_units(holder: PoolStore, waits: PoolStore) -> None:
    """Whoever waits is told when another gives back what it waits for."""
    told = asyncio.Event()

    def begin(book: PoolBook, now_s: float) -> None:
        for owner in ("a", "b"):
            book.begin(owner, now_s=now_s, lease_s=60.0)
            asked(book, f"r{owner}", 1, owner=owner)

    await holder.change(begin)
    assert await waits.listen("b", told.set)
    await asyncio.sleep(0)
    assert told.is_set(), "what was told before must be asked for once"
    told.clear()
    await holder.change(lambda book, _: book.renew("a", now_s=0.0, lease_s=60.0))
    await asyncio.sleep(0.1)
    assert not told.is_set(), "nobody was given anything"
    await holder.change(lambda book, _: book.give_back("ra"))
    async with asyncio.timeout(5.0):
        await told.wait()
    told.clear()
    waits.unlisten("b")

    def again(book: PoolBook, now_s: float) -> None:
        book.give_back("rb")
        asked(book, "rb", 1, owner="b")

    await holder.change(again)
    await asyncio.sleep(0.1)
    assert not told.is_set(), "it hears no more"


def test_who_is_given_units_by_another_process_hears_of_it(postgres_url: str) -> None:
    from stageflow.journal.postgres.pools import PostgresPools

    async def main() -> None:
        holder, waits = PostgresPools(postgres_url), PostgresPools(postgres_url)
        try:
            await _hears_of_its_units(holder, waits)
        finally:
            await holder.close()
            await waits.close()

    asyncio.run(main())


def test_who_is_given_units_by_another_runtime_of_the_process_hears_of_it() -> None:
    store = MemoryPools()
    asyncio.run(_hears_of_its_units(store, store))


def test_a_loop_that_was_closed_without_a_word_is_told_nothing() -> None:
    store = MemoryPools()

    async def listens() -> None:
        await store.listen("b", lambda: None)

    async def gives() -> None:
        def begin(book: PoolBook, now_s: float) -> None:
            book.begin("b", now_s=now_s, lease_s=60.0)
            asked(book, "rb", 1, owner="b")

        await store.change(begin)

    asyncio.run(listens())
    asyncio.run(gives())


def test_a_lost_connection_of_news_is_opened_again_by_the_next_listen(postgres_url: str) -> None:
    import psycopg

    from stageflow.journal.postgres.address import parsed
    from stageflow.journal.postgres.pools import PostgresPools

    async def main() -> None:
        holder, waits = PostgresPools(postgres_url), PostgresPools(postgres_url)
        told = asyncio.Event()
        try:
            await waits.listen("b", told.set)
            address = parsed(postgres_url)
            with psycopg.connect(address.conninfo, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = %s",
                    (f"{address.schema} news",),
                )
            await asyncio.sleep(0.2)
            assert await waits.listen("b", told.set)
            told.clear()

            def give(book: PoolBook, now_s: float) -> None:
                book.begin("b", now_s=now_s, lease_s=60.0)
                asked(book, "rb", owner="b")

            await holder.change(give)
            async with asyncio.timeout(5.0):
                await told.wait()
            waits.unlisten("b")
            told.clear()
            await holder.change(lambda book, _: book.give_back("rb"))
            await holder.change(give)
            await asyncio.sleep(0.1)
            assert not told.is_set()
        finally:
            await holder.close()
            await waits.close()

    asyncio.run(main())
