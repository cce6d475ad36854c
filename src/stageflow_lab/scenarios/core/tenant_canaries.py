"""Canaries of 128 bits, one a tenant, in the forms in which data travels; and who finds them again.

Four forms: the 32 hexadecimal digits, their Base64, the digits reversed, and in two parts with
something between. A leak need not be whole: 16 digits in a row, of either direction, are the
tenant's (64 bits), and so are 20 characters of the Base64 of the digits, at any of its three
alignments, since a text around it shifts it.
"""

from __future__ import annotations

import base64
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

HEX_PART: Final = 16
BASE64_PART: Final = 20
_HEX_RUN: Final = re.compile(r"[0-9a-f]{16,}")
_BASE64_RUN: Final = re.compile(r"[A-Za-z0-9+/]{20,}")
EXAMPLES_MAX: Final = 8


def canary(seed: int, number: int) -> str:
    """32 hexadecimal digits of tenant `number`."""
    return f"{random.Random(f'canary {seed} {number}').getrandbits(128):032x}"


def _split(text: str) -> str:
    return f"{text[:16]}, and then {text[16:]}"


FORMS: Final[Mapping[str, Callable[[str], str]]] = {
    "raw": lambda text: text,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "reversed": lambda text: text[::-1],
    "split": _split,
}


def tenant_name(number: int) -> str:
    """As a directory of tenants would have it."""
    return f"tenant-{number:03d}"


class Scanner:
    """Knows the canaries of all tenants, and finds whose are in a text or in bytes."""

    def __init__(self, seed: int, tenants: int) -> None:
        self.canaries = {tenant_name(n): canary(seed, n) for n in range(tenants)}
        self._hex: dict[str, str] = {}
        self._base64: dict[str, str] = {}
        for name, text in self.canaries.items():
            for spelt in (text, text[::-1]):
                for at in range(len(spelt) - HEX_PART + 1):
                    self._hex[spelt[at : at + HEX_PART]] = name
            for shift in range(3):
                encoded = base64.b64encode(b"." * shift + text.encode()).decode()
                for at in range(4 if shift else 0, 4 + 4):
                    self._base64[encoded[at : at + BASE64_PART]] = name

    def found(self, item: str | bytes) -> set[str]:
        """The tenants whose canaries are in it."""
        text = item.decode("latin-1") if isinstance(item, bytes) else item
        found = set()
        for run in _HEX_RUN.findall(text):
            for at in range(len(run) - HEX_PART + 1):
                name = self._hex.get(run[at : at + HEX_PART])
                if name is not None:
                    found.add(name)
        for run in _BASE64_RUN.findall(text):
            for at in range(len(run) - BASE64_PART + 1):
                name = self._base64.get(run[at : at + BASE64_PART])
                if name is not None:
                    found.add(name)
        return found


def planted_found(scanner: Scanner, seed: int) -> tuple[int, int]:
    """(canaries found, canaries planted): every tenant's in every form, whole, cut and enclosed."""
    rng, found, planted = random.Random(f"planted {seed}"), 0, 0
    for name, text in scanner.canaries.items():
        for form in FORMS.values():
            spelt = form(text)
            around = "".join(rng.choices("ghijkl {}:,\"'", k=rng.randrange(1, 40)))
            enclosed = base64.b64encode((around + text).encode()).decode()
            for item in (around + spelt + around, repr({"x": spelt}), enclosed, spelt.encode()):
                planted += 1
                found += scanner.found(item) == {name}
    return found, planted


@dataclass(slots=True)
class Sinks:
    """What came out where, whose it was, and whose canaries were in it."""

    scanner: Scanner
    active: int
    """Tenants at work in the same runtime: an item is checked against all of them but its own."""
    items: Counter[str] = field(default_factory=Counter)
    own: Counter[str] = field(default_factory=Counter)
    """Items that hold the canary of whom they belong to: the sink would show one."""
    foreign: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, sink: str, owner: str | None, item: object) -> None:
        """One item that `owner` can see; None for what nobody's data may be in."""
        text = item if isinstance(item, (str, bytes)) else repr(item)
        found = self.scanner.found(text)
        self.items[sink] += 1
        self.own[sink] += owner in found
        others = found - {owner}
        if others:
            self.foreign[sink] += len(others)
            if len(self.examples) < EXAMPLES_MAX:
                whose = "what belongs to nobody" if owner is None else owner
                self.examples.append(f"{sink}: {whose} shows data of {sorted(others)[0]}")

    def add_all(self, sink: str, owner: str | None, items: Iterable[object]) -> None:
        """Several items."""
        for item in items:
            self.add(sink, owner, item)

    def data(self) -> dict[str, Any]:
        """As plain values, for a history."""
        return {
            "active": self.active,
            "items": dict(self.items),
            "own": dict(self.own),
            "foreign": dict(self.foreign),
            "examples": self.examples,
        }
