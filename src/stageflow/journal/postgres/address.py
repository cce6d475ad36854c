"""The address of a PostgreSQL journal: a libpq URL with a few settings of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stageflow.journal.address import without
from stageflow.model.errors import BuildError

SCHEMES = ("postgresql", "postgres")
SCHEMA = "stageflow"
LEASE_S = 30.0
AWAY_S = 30.0
ANSWER_S = 30.0
_NAME_BYTES_MAX = 63
"""PostgreSQL cuts longer names off in silence (NAMEDATALEN)."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the runs lie and how patient the store is. Times in seconds."""

    conninfo: str
    """What libpq is given; may hold a password, so it is never shown."""
    schema: str = SCHEMA
    """Where the journal's tables are; made when it is missing."""
    tenant: str | None = None
    """The one tenant whose runs can be seen and written through it; None for every tenant."""
    lease_s: float = LEASE_S
    """How long a process that says nothing keeps its runs, by the database's clock."""
    away_s: float = AWAY_S
    """How long a database that can't be reached is waited for."""
    answer_s: float = ANSWER_S
    """How long one answer is waited for before the connection is given up."""


def parsed(url: str) -> Address:
    """The address in `url`; BuildError "runtime.journal" for settings that can't be meant."""
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise _refused("an address that begins with postgresql://", scheme[:40])
    conninfo, given = without(url, _SETTINGS)
    ours: dict[str, Any] = {}
    for name, text in given.items():
        try:
            ours[name] = _SETTINGS[name](text)
        except ValueError as error:
            raise _refused(str(error), f"{name}={text[:40]}") from None
    return Address(conninfo, **ours)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86_400:
        raise ValueError("seconds between 0.1 and 86400")
    return seconds


def _schema(text: str) -> str:
    if not text or len(text.encode()) > _NAME_BYTES_MAX or "\0" in text:
        raise ValueError(f"the name of a schema, 1 to {_NAME_BYTES_MAX} bytes")
    return text


def _tenant(text: str) -> str:
    if not text:
        raise ValueError("the name of a tenant")
    return text


_SETTINGS: dict[str, Callable[[str], str | float]] = {
    "schema": _schema,
    "tenant": _tenant,
    "lease_s": _seconds,
    "away_s": _seconds,
    "answer_s": _seconds,
}


def _refused(expected: str, got: str) -> BuildError:
    return BuildError(
        "runtime.journal",
        "this journal address is not known",
        field="journal",
        expected=expected,
        got=got,
        fix="Runtime(journal='postgresql://user@host/database')",
    )
