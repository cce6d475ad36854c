"""Shared pools over PostgreSQL: real processes wait for one another, and are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="needs the extra stageflow[postgres]")

PROGRAM = Path(__file__).with_name("shared_pool_process.py")


def started(address: str, pools: str, pause_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), address, pools, str(pause_s)],
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def test_three_processes_in_a_ring_lose_one(postgres_url: str) -> None:
    ring = [started(postgres_url, pools, 2.0) for pools in ("x,y", "y,z", "z,x")]
    ends = [said(process)[-1] for process in ring]
    assert sum(end["reason"] == "deadlock" for end in ends) == 1
    assert sorted(end["status"] for end in ends) == ["failed", "ok", "ok"]
    assert [found for end in ends for found in end["deadlocks"]] == [["takes"] * 3]


def test_a_killed_process_loses_its_units_and_fences_grow(postgres_url: str) -> None:
    address = f"{postgres_url}&lease_s=1"
    first = started(address, "x", 60.0)
    assert first.stdout is not None
    held = json.loads(first.stdout.readline())
    second = started(address, "x", 0.1)
    first.kill()
    first.communicate()
    got, end = said(second)
    assert end["status"] == "ok"
    assert got["fence"] > held["fence"]


def test_two_take_turns(postgres_url: str) -> None:
    pair = [started(postgres_url, "x", 0.3) for _ in range(2)]
    lines = [said(process) for process in pair]
    assert [each[-1]["status"] for each in lines] == ["ok", "ok"]
    assert lines[0][0]["fence"] != lines[1][0]["fence"]


def test_a_role_of_one_tenant_sees_nothing_of_who_waits(
    postgres_url: str, postgres_server: Any
) -> None:
    """With the rights that docs/postgres.md gives it."""
    said(started(postgres_url, "x", 0.1))
    schema = postgres_url.partition("schema=")[2]
    role = f"{schema}_acme"
    postgres_server.execute(f'CREATE ROLE "{role}"')
    try:
        for right in (
            f'USAGE ON SCHEMA "{schema}"',
            f'SELECT, UPDATE ON ALL TABLES IN SCHEMA "{schema}"',
        ):
            postgres_server.execute(f'GRANT {right} TO "{role}"')
        with postgres_server.transaction():
            postgres_server.execute(f'SET LOCAL ROLE "{role}"')
            postgres_server.execute("SELECT set_config('stageflow.scope', 'every', true)")
            for table in ("pool_book", "pool_pictures"):
                seen = postgres_server.execute(f'SELECT count(*) FROM "{schema}".{table}')
                assert seen.fetchone() == (0,)
    finally:
        postgres_server.execute(f'DROP OWNED BY "{role}"')
        postgres_server.execute(f'DROP ROLE "{role}"')
