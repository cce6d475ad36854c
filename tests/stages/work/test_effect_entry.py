"""The state machine of one key: any order of claims, ends, deaths and clocks.

`Key` is a naive reading beside it: it knows who really acted, and what a receiver without keys saw.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stageflow.stages.work.ledger.entry import (
    EffectEntry,
    EffectState,
    Granted,
    InFlight,
    LedgerRules,
    NotKnown,
    OtherParameters,
    Replayed,
    allow,
    claim,
    lose,
    record,
    release,
    renew,
    settle,
)

RULES = LedgerRules(keep_s=1000.0, lease_s=10.0, skew_s=2.0)
MANY = settings(max_examples=500, deadline=None)
SEEDS = st.integers(min_value=0, max_value=2**48)


def claimed(entry: EffectEntry | None, now_s: float, **changed: Any) -> Any:
    options: dict[str, Any] = {
        "fingerprint": "f",
        "holder": "a",
        "repeatable": False,
        "rules": RULES,
        "is_alive": lambda holder: True,
    }
    return claim(entry, now_s, **{**options, **changed})


def test_a_key_lives_from_its_claim_to_its_expiry() -> None:
    entry, answer = claimed(None, 0.0)
    assert answer == Granted(1)
    assert claimed(entry, 1.0, holder="b")[1] == InFlight(1)
    assert claimed(entry, 1.0)[1] == Granted(1), "asked again after an answer that was lost"
    entry, fine = record(entry, 2.0, fence=1, outcome=b"x", rules=RULES)
    assert fine and claimed(entry, 1001.0, holder="b")[1] == Replayed(b"x")
    assert claimed(entry, 1003.9, holder="b")[1] == Replayed(b"x"), "clocks may be apart"
    assert claimed(entry, 1004.1, holder="b")[1] == Granted(2)


def test_other_parameters_are_refused_until_the_holder_says_that_nothing_happened() -> None:
    entry, _ = claimed(None, 0.0)
    assert claimed(entry, 1.0, holder="b", fingerprint="g")[1] == OtherParameters("f")
    pinned, _ = release(entry, 1.0, fence=1, may_change=False, rules=RULES)
    assert claimed(pinned, 1.0, holder="b", fingerprint="g")[1] == OtherParameters("f")
    free, _ = release(entry, 1.0, fence=1, may_change=True, rules=RULES)
    assert claimed(free, 1.0, holder="b", fingerprint="g")[1] == Granted(2)


def test_a_holder_that_dies_blocks_nobody() -> None:
    entry, _ = claimed(None, 0.0)
    dead = {"holder": "b", "is_alive": lambda holder: False}
    lost, answer = claimed(entry, 1.0, **dead)
    assert answer == NotKnown(1) and lost.state is EffectState.UNKNOWN
    assert claimed(entry, 1.0, **dead, repeatable=True)[1] == Granted(2)


def test_a_lease_ends_whatever_is_said_of_its_holder_and_can_be_renewed() -> None:
    entry, _ = claimed(None, 0.0)
    unseen = {"holder": "b", "is_alive": lambda holder: None}
    assert claimed(entry, 11.9, **unseen)[1] == InFlight(1)
    assert claimed(entry, 12.1, **unseen)[1] == NotKnown(1)
    renewed, fine = renew(entry, 9.0, fence=1, rules=RULES)
    assert fine and claimed(renewed, 20.9, **unseen)[1] == InFlight(1)


def test_an_unknown_effect_never_expires_and_its_holder_may_still_tell() -> None:
    entry, _ = claimed(None, 0.0)
    lost, _ = lose(entry, 1.0, fence=1)
    assert claimed(lost, 1e12, holder="b")[1] == NotKnown(1)
    assert record(lost, 2.0, fence=1, outcome=b"x", rules=RULES)[1]
    allowed, fine = allow(lost, 2.0, fence=None, rules=RULES)
    assert fine and claimed(allowed, 3.0, holder="b")[1] == Granted(2)
    assert not record(allowed, 3.0, fence=1, outcome=b"x", rules=RULES)[1], "it was ruled out"
    settled, fine = settle(lost, 2.0, fence=1, outcome=b"y", rules=RULES)
    assert fine and claimed(settled, 3.0, holder="b")[1] == Replayed(b"y")
    assert not settle(settled, 3.0, fence=1, outcome=b"z", rules=RULES)[1]


class Key:
    """One key under random use by several holders, some of which die unheard."""

    def __init__(self, rng: random.Random, *, repeatable: bool) -> None:
        self.rng = rng
        self.repeatable = repeatable
        self.entry: EffectEntry | None = None
        self.now_s = 0.0
        self.holding: dict[str, int] = {}
        self.acted: dict[str, bool] = {}
        self.dead: set[str] = set()
        self.effects = 0
        self.replies: set[bytes] = set()
        self.fences: list[int] = []
        self.unknown = False

    def step(self) -> None:
        self.now_s += self.rng.random() * 6
        live = [holder for holder in self.holding if holder not in self.dead]
        if live and self.rng.random() < 0.7:
            self._goes_on(self.rng.choice(live))
        else:
            self._wants()

    def _wants(self) -> None:
        holder = f"h{len(self.acted)}"
        self.entry, answer = claimed(
            self.entry,
            self.now_s,
            holder=holder,
            repeatable=self.repeatable,
            is_alive=lambda name: name not in self.dead,
        )
        if isinstance(answer, Granted):
            assert all(fence < answer.fence for fence in self.fences), "fences only grow"
            self.fences.append(answer.fence)
            self.holding[holder], self.acted[holder] = answer.fence, False
        elif isinstance(answer, Replayed):
            self.replies.add(answer.outcome)
        elif isinstance(answer, NotKnown):
            self.unknown = True

    def _goes_on(self, holder: str) -> None:
        fence = self.holding[holder]
        if self.rng.random() < 0.25:
            self.dead.add(holder)
        elif not self.acted[holder] and self.rng.random() < 0.2:
            self.entry, _ = release(
                self.entry, self.now_s, fence=fence, may_change=True, rules=RULES
            )
            del self.holding[holder]
        elif not self.acted[holder]:
            self.acted[holder] = True
            if not self.repeatable or self.effects == 0:
                self.effects += 1  # a receiver that honours keys applies it once
        else:
            outcome = b"one" if self.repeatable else holder.encode()
            self.entry, fine = record(
                self.entry, self.now_s, fence=fence, outcome=outcome, rules=RULES
            )
            if fine:
                self.replies.add(outcome)
            del self.holding[holder]


@MANY
@given(SEEDS, st.booleans())
def test_one_key_one_effect_one_answer_or_unknown(seed: int, repeatable: bool) -> None:
    key = Key(random.Random(seed), repeatable=repeatable)
    for _ in range(60):
        key.step()
    assert key.effects <= 1
    assert len(key.replies) <= 1
    if repeatable:
        assert not key.unknown
    assert key.entry is None or key.entry.state is not EffectState.DONE or key.effects == 1
