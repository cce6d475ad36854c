"""The load of CORE-008: a healthy siege shows nothing, a broken freezer shows in every phase."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stageflow_lab import World
from stageflow_lab.metric import Measured, share
from stageflow_lab.scenarios.core.core_008_immutability import MUTATORS_MIN, SCENARIO
from stageflow_lab.scenarios.core.frozen_costs import bait
from stageflow_lab.scenarios.core.frozen_families import FAMILIES, Loose, draw
from stageflow_lab.scenarios.core.frozen_routes import READERS, ROUTES
from stageflow_lab.scenarios.core.frozen_sieges import PHASES, Phase, Portion, besiege
from stageflow_lab.scenarios.core.mutators import MUTATORS, attack
from stageflow_lab.scenarios.core.refused_values import BOUNDARIES, planted, refused
from stageflow_lab.scenarios.core.value_image import BROKEN, image, reachable


@pytest.mark.parametrize("phase", PHASES)
def test_a_healthy_siege_is_whole_and_shows_nothing(phase: Phase, tmp_path: Path) -> None:
    result = besiege(Portion(phase, 2, 11, 0, tmp_path))
    assert len(result["runs"]) == 2
    for run in result["runs"]:
        assert (run["status"], run["values"], run["readers"]) == ("ok", len(ROUTES), READERS)
        assert run["mutators"] >= MUTATORS_MIN
        assert run["hash_same"]
        assert (run["torn"], run["escapes"]) == (0, 0)
        assert run["raised"] > 0
        assert run["returned"] > 0


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", [each.name for each in SCENARIO.sabotages])
def test_a_broken_freezer_shows(name: str, phase: Phase, tmp_path: Path) -> None:
    with SCENARIO.sabotaged(name):
        runs = besiege(Portion(phase, 8, 11, 0, tmp_path))["runs"]
    assert sum(run["escapes"] for run in runs) > 0
    assert not all(run["hash_same"] for run in runs)


def test_a_row_holds_one_value_of_each_family_and_depends_on_its_seed_only(tmp_path: Path) -> None:
    rows, again, others = (draw(4, seed, tmp_path) for seed in (3, 3, 4))
    assert all(len(row) == len(FAMILIES) for row in rows)
    assert [image(row) for row in rows] == [image(row) for row in again]
    assert [image(row) for row in rows] != [image(row) for row in others]


def test_more_than_40_mutators_change_values_that_nothing_froze(tmp_path: Path) -> None:
    live = set()
    for pickled in bait(6, 5, tmp_path):
        for name, mutate in MUTATORS.items():
            value = pickle.loads(pickled)
            before = image(value)
            attack(mutate, value)
            if image(value) != before:
                live.add(name)
    assert len(live) > MUTATORS_MIN


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ([1], (1,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (Loose("n", [1]), Loose("n", [2])),
        (np.zeros(2, "f4"), np.zeros(2, "f8")),
        (bytearray(b"a"), b"a"),
        ({1: [2]}, {1: [3]}),
    ],
)
def test_images_tell_values_apart(one: Any, other: Any) -> None:
    assert image(one) != image(other)
    assert image([one]) == image([one])


def test_a_value_that_cannot_be_looked_at_has_no_image_of_a_healthy_one() -> None:
    value = Loose("n", [])
    object.__setattr__(value, "__dict__", {1: object(), "notes": value})
    assert image(value) == BROKEN


def test_everything_inside_is_reachable_but_text_and_numbers() -> None:
    inner: list[Any] = [1, "x", bytearray(b"y")]
    found = reachable({"a": inner, "b": (inner, Loose("n", inner))})
    assert [type(item) for item in found].count(list) == 1
    assert {type(item) for item in found} == {dict, list, bytearray, tuple, Loose}


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_what_cannot_be_kept_is_refused_with_its_path_and_a_mend(boundary: str) -> None:
    for number in range(8):
        told = await refused(random.Random(number), boundary)
        assert told["refused"], told
        assert told["located"], told
        assert told["hinted"], told
        assert told["readable"], told


def test_planted_values_cover_custom_objects_and_lie_at_different_depths() -> None:
    found = [planted(random.Random(number)) for number in range(60)]
    assert {"Sealed", "Shelf"} <= {kind for kind, _, _ in found}
    assert len({path for _, _, path in found}) > 10


@pytest.mark.parametrize("name", [None, "the_callers_list_is_kept"])
def test_worker_processes_have_the_defect_that_the_load_has(
    name: str | None, tmp_path: Path
) -> None:
    size = {"sim": 64, "loop": 64, "thread": 64, "refused": 10, "bait_rows": 2, "workers": 2}
    world = World(seed=4, size=size, scratch=tmp_path, sabotage=name)
    with SCENARIO.sabotaged(name):
        history = SCENARIO.load(world)
    judgement = SCENARIO.check(history)
    if name is None:
        assert judgement.unknown is None
        assert judgement.metrics["hash_unchanged"] == share(192, 192)
    else:
        measured = judgement.metrics["hash_unchanged"]
        assert isinstance(measured, Measured)
        assert measured.value < 1
