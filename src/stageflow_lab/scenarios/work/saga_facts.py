"""What was seen of one branch of sagas, and the sums of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .saga_books import START_CENTS, Books, Followed, Post, judged
from .saga_specs import ACCOUNTS, Group, accounts_of

Facts = dict[str, Any]


def facts_of(
    found: Sequence[Followed], posts: Sequence[Post], books: Books, reads: Mapping[str, int]
) -> Facts:
    """Counts of one branch whose sagas have all ended, as plain values."""
    counts: Counter[str] = Counter(reads)
    wrong: list[tuple[str, str]] = []
    own: dict[str, list[Post]] = {}
    for post in posts:
        own.setdefault(post.saga, []).append(post)
    for followed in found:
        saga = followed.saga
        seen = judged(followed, own.get(saga.name, ()))
        counts["sagas"] += 1
        counts[seen.end if seen.is_legal else "illegal"] += 1
        counts["owed"] += seen.owed
        counts["right"] += seen.right
        counts["unbalanced"] += seen.net_cents != 0
        counts["died"] += len(followed.died)
        counts["stuck"] += bool(followed.stuck)
        counts["long"] += saga.kind == "long"
        counts["nested"] += any(isinstance(part, Group) for part in saga.parts)
        counts.update(f"died_{point}" for point in followed.died)
        counts.update(f"stuck_{reason.partition(':')[0]}" for reason in followed.stuck)
        told = (
            f"{saga.name}, {len(saga.legs())} steps, deaths {followed.died}: {seen.end}; "
            f"{followed.status} {followed.reason}; stuck {followed.stuck}; "
            f"{seen.right} of {seen.owed} undos right, {seen.net_cents} cents off"
        )
        for metric, is_wrong in (
            ("illegal_ends", not seen.is_legal),
            ("conservation_violated", seen.net_cents != 0),
            ("compensated_once_in_order", seen.right != seen.owed),
        ):
            if is_wrong:
                wrong.append((metric, told))
    branches = {followed.saga.branch for followed in found}
    for branch in branches:
        total = sum(books.balance(account) for account in accounts_of(branch))
        counts["unbalanced"] += total != ACCOUNTS * START_CENTS
    return {"counts": dict(counts), "wrong": wrong}
