"""The check of CORE-002 on small histories: one that passes, and one for every way to fail."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow.model.values import Freezer, content_hash
from stageflow_lab import History
from stageflow_lab.scenarios.core.core_002_snapshot_streams import HARMS, SCENARIO, check
from stageflow_lab.scenarios.core.snapshot_mixes import MIB, floor_read, floor_write, mix
from stageflow_lab.verdict import Verdict, rule

SIZES = {"small_mib": 1, "medium_mib": 16, "largest_mib": 128, "damages": 10}


def history(**changed: Any) -> History:
    """A history that passes; `changed` says what is different at the largest size."""
    made = History(SIZES)
    for mib in (1, 16, 128):
        at_end = changed if mib == 128 else {}
        for _ in range(3):
            plain = {"subject_s": 1.2 * mib, "floor_s": 1.0 * mib, "stall_s": 0.01 * mib}
            timed = {key: at_end.get(key, value) for key, value in plain.items()}
            made.record("timed", mib=mib, chunks=9, bytes=mib * MIB // 2, **timed)
        dump = at_end.get("dump", 10 * MIB)
        made.record("memory", mib=mib, dump=dump, load=MIB)
        made.record("loaded", mib=mib, same=at_end.get("same", True))
    made.record("target", chunks=changed.get("chunks", 5), bytes=9_000)
    for harm in HARMS:
        made.fired(harm)
        made.record("harmed", harm=harm, outcome=changed.get("outcome", "codec.damaged"), times=5)
    return made


def test_a_clean_history_passes() -> None:
    ruling = rule(SCENARIO, check(history()), size="quick")
    assert ruling.verdict is Verdict.PASS, ruling.reason


@pytest.mark.parametrize(
    ("metrics", "changed"),
    [
        ({"cost", "slope"}, {"subject_s": 128 * 2.4}),
        ({"cost"}, {"subject_s": 128 * 1.6, "floor_s": 128.0}),
        ({"longest_stall"}, {"stall_s": 128 * 0.06}),
        ({"extra_memory"}, {"dump": 225 * MIB}),
        ({"hash_equal"}, {"same": False}),
        ({"damage_detected"}, {"outcome": "decoded"}),
        ({"damage_detected"}, {"outcome": "codec.mismatch"}),
    ],
)
def test_each_wrong_fails_its_metric(metrics: set[str], changed: dict[str, Any]) -> None:
    ruling = rule(SCENARIO, check(history(**changed)), size="quick")
    assert ruling.verdict is Verdict.FAIL
    assert {metric.name for metric in ruling.metrics if metric.passed is False} == metrics


def test_memory_within_the_allowance_passes() -> None:
    assert rule(SCENARIO, check(history(dump=223 * MIB)), size="quick").verdict is Verdict.PASS


def test_a_load_that_did_not_happen_decides_nothing() -> None:
    assert "chunks" in str(check(history(chunks=3)).unknown)
    assert "not measured" in str(check(History(SIZES)).unknown)
    few = History({**SIZES, "damages": 11})
    for event in history().events:
        few.record(event.kind, **event.data)
    assert "10 of 11" in str(check(few).unknown)


def test_the_floor_gives_back_what_went_in() -> None:
    value = mix(200_000, 3, keys=500, digits=10_000)
    assert all(len(str(each >> 33_000)) < 100 for each in value["integers"])
    back = floor_read(floor_write(value))
    freeze = Freezer().freeze
    assert content_hash(freeze(back)) == content_hash(freeze(value))


def test_a_mix_has_about_the_size_asked_for() -> None:
    import msgspec

    from stageflow_lab.scenarios.core.snapshot_mixes import prepared

    size = len(msgspec.msgpack.encode(prepared(mix(MIB, 1, keys=7_800, digits=10_000))))
    assert 0.9 * MIB < size < 1.2 * MIB
