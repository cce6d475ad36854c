"""Why a value cannot be kept, said so that it can be mended."""

from __future__ import annotations

from typing import Any

from stageflow.model.errors import ValueRefused


class Refusal(Exception):
    """Travels up to the root, each level prepending its step to the path."""

    def __init__(self, code: str, message: str, *, got: str, fix: str, expected: str) -> None:
        self.code = code
        self.message = message
        self.got = got
        self.fix = fix
        self.expected = expected
        self.path = ""

    def within(self, step: str) -> Refusal:
        self.path = step + self.path
        return self

    def error(self) -> ValueRefused:
        path = "$" + self.path
        if len(path) > 400:
            path = f"{path[:200]} ... {path[-200:]}"
        return ValueRefused(
            self.code,
            self.message,
            problems=((path, self.expected, self.got),),
            field=path,
            expected=self.expected,
            got=self.got,
            fix=self.fix,
        )


def unknown(cls: type) -> Refusal:
    name = type_label(cls)
    return Refusal(
        "value.refused",
        f"a {name} cannot be kept",
        got=name,
        expected="plain data: builtins, dataclasses, pydantic models, structs, NumPy arrays",
        fix=_mend(cls),
    )


def _mend(cls: type) -> str:
    """What to do about a type that is refused, by what it is."""
    name, module = cls.__name__, cls.__module__.partition(".")[0]
    for base in (str, bytes, int, float, list, dict, set, tuple, bytearray):
        if issubclass(cls, base):
            return f"return {base.__name__}(value), or give Adapter({name}, freeze=..., thaw=...)"
    if module in {"torch", "tensorflow", "jax", "pandas", "polars", "pyarrow", "scipy"}:
        return f"give Adapter({name}, freeze=..., thaw=...), or return plain data or a NumPy array"
    if cls.__name__ == "ValidatorIterator":
        return "declare list[...] where Iterable or Generator is declared"
    if cls.__name__ == "memoryview":
        return "return bytes(value)"
    if issubclass(cls, type):
        return "return the class's name instead of the class"
    if cls.__name__ in {"generator", "async_generator", "coroutine"}:
        return "return list(value); for items one by one write a stage that yields them"
    return (
        "return its data as a dataclass or a model instead; clients and handles belong in deps; "
        f"for a value type give Adapter({name}, freeze=..., thaw=...)"
    )


def too_deep(depth_max: int) -> Refusal:
    return Refusal(
        "value.too_deep",
        f"the value is nested deeper than {depth_max} levels",
        got="deeper nesting",
        expected=f"at most {depth_max} nested containers or objects",
        fix="return a flat list of nodes that refer to each other by id, or raise depth_max",
    )


def type_label(cls: type) -> str:
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def attribute_step(slot: str) -> str:
    return {"__pydantic_private__": "", "__pydantic_extra__": ""}.get(slot, f".{slot}")


def key_step(key: Any) -> str:
    """A dict key in a path: names are shown, everything else is data and only its type is told."""
    if type(key) is str and key.isidentifier() and len(key) <= 40:
        return f".{key}"
    return f"[{key}]" if type(key) is int and abs(key) < 10**9 else f"[<{type(key).__name__}>]"
