"""Ways to make one value of two: what `merge_of` folds over the values of its branches."""

from __future__ import annotations

from typing import Any, TypeVar

from stageflow.model.errors import ContractError

A = TypeVar("A")

MERGEABLE = (list, set, frozenset, dict)
"""Types that `append` and `union` know what to do with; exactly these, no subclasses."""


def append(first: A, second: A) -> A:
    """The items of both lists, those of `first` before those of `second`.

    ContractError `merge.unlike` for anything but two lists.
    """
    _alike("append", first, second, (list,))
    return first + second  # type: ignore[operator,no-any-return]


def union(first: A, second: A) -> A:
    """What is in either, once: of two sets, two dicts, or two lists.

    Of lists, the items of `first`, then those of `second` that equal none before them. Of dicts,
    the keys of both; ContractError `merge.conflict` when one key has two values that differ, since
    either would be lost without a word. `merge.unlike` for anything else.
    """
    _alike("union", first, second, MERGEABLE)
    found: Any
    if isinstance(first, dict) and isinstance(second, dict):
        for key in first.keys() & second.keys():
            if first[key] != second[key]:
                raise ContractError(
                    "merge.conflict",
                    "two branches give different values under one key",
                    field=repr(key)[:80],
                    expected="keys of their own, or equal values",
                    fix="merge_of(..., with_=operator.or_) lets the later branch win",
                )
        found = {**first, **second}
    elif isinstance(first, list) and isinstance(second, list):
        found = [*first]
        seen = _Seen(first)
        found += [item for item in second if seen.is_new(item)]
    else:
        found = first | second  # type: ignore[operator]
    return found  # type: ignore[no-any-return]


class _Seen:
    """Items met so far. Those that can be hashed cost no walk through the others."""

    def __init__(self, items: list[Any]) -> None:
        self._hashed: set[Any] = set()
        self._others: list[Any] = []
        for item in items:
            self.is_new(item)

    def is_new(self, item: Any) -> bool:
        """True the first time, and the item counts from then on."""
        try:
            is_known = item in self._hashed
        except TypeError:
            is_known = item in self._others
            if not is_known:
                self._others.append(item)
            return not is_known
        self._hashed.add(item)
        return not is_known


def _alike(what: str, first: Any, second: Any, accepted: tuple[type, ...]) -> None:
    if type(first) is not type(second) or type(first) not in accepted:
        raise ContractError(
            "merge.unlike",
            f"{what} can't make one value of these two",
            expected="two of a kind: " + ", ".join(each.__name__ for each in accepted),
            got=f"{type(first).__name__} and {type(second).__name__}",
            fix="give merge_of a function of your own: with_=lambda first, second: ...",
        )
