"""The roadmap's rows: all there, all told, in the right phase."""

from __future__ import annotations

from collections import Counter

import pytest

from stageflow_lab.roadmap import entries, execution_order, sabotages_of, section_of

ROWS_OF_TIER = {1: 28, 2: 55, 3: 33, 4: 101, 5: 21, 6: 15, 7: 14, 8: 15, 9: 14, 10: 12}


def test_all_308_rows_are_there_once_and_by_tier() -> None:
    assert len(entries()) == 308
    assert Counter(entry.tier for entry in entries().values()) == ROWS_OF_TIER
    assert [entry.position for entry in entries().values()] == list(range(308))


def test_every_row_is_told_whole() -> None:
    for entry in entries().values():
        assert entry.claim and entry.load and entry.passes and entry.builds, entry.id
        assert entry.sabotages and all(entry.sabotages), entry.id
        assert entry.target and entry.section_title and entry.tier_title, entry.id


def test_rows_parse_once_and_cannot_be_changed() -> None:
    assert entries() is entries()
    with pytest.raises(TypeError):
        entries()["NEW-001"] = entries()["CORE-001"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("row", "phase"),
    [
        ("CORE-001", 1),  # P0 of tier 1
        ("CORE-005", 2),  # the rest of tier 1
        ("GUARD-004", 1),
        ("GUARD-005", 2),
        ("WORK-002", 1),
        ("LLM-SYS-001", 2),
        ("K8S-001", 3),
        ("OBS-001", 3),
        ("SEC-001", 3),
        ("CHAOS-001", 3),
        ("LEGAL-001", 4),
        ("DX-001", 5),
        ("PERF-001", 5),
    ],
)
def test_phase_follows_the_execution_order(row: str, phase: int) -> None:
    assert entries()[row].phase == phase


def test_execution_goes_by_phase_then_named_verticals_then_priority() -> None:
    order = execution_order()
    assert sorted(entry.id for entry in order) == sorted(entries())
    assert [entry.phase for entry in order] == sorted(entry.phase for entry in order)
    verticals = [entry.id.split("-")[0] for entry in order if entry.phase == 4]
    last_named = max(at for at, name in enumerate(verticals) if name in {"FIN", "HEALTH", "DEF"})
    assert set(verticals[: last_named + 1]) == {"FIN", "HEALTH", "DEF"}
    second = [entry.priority for entry in order if entry.phase == 2]
    assert second == sorted(second)


def test_sabotage_line_splits_at_semicolons_outside_parentheses() -> None:
    text = "token ignored; late write (one; two) accepted."
    assert sabotages_of(text) == ("token ignored", "late write (one; two) accepted")


def test_section_is_the_prefix_as_a_folder_name() -> None:
    assert section_of("LLM-REASON-001") == "llm_reason"
    assert section_of("K8S-001") == "k8s"
