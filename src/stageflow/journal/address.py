"""An address of a server, with settings of ours among those of its client."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import unquote


def without(address: str, ours: Collection[str]) -> tuple[str, dict[str, str]]:
    """The address without the settings that are called so, and these, decoded; of two with one
    name the last.

    Everything else stays as it was written: clients differ in what they take for a space, a host
    that is left out, or several hosts.
    """
    place, _, query = address.partition("?")
    found, others = dict[str, str](), list[str]()
    for part in query.split("&"):
        name, _, text = part.partition("=")
        if unquote(name) in ours:
            found[unquote(name)] = unquote(text)
        elif part:
            others.append(part)
    return f"{place}?{'&'.join(others)}" if others else place, found
