"""Crossed designs, the six questions and co-evolution: what their definitions fix."""

import math

import numpy as np
import pytest

from ontogeny.evolution.coevolution import BOX, COUNT, KINDS, coevolve, errors, strength
from ontogeny.evolution.factorial import _final, four_cells, target_and_data
from ontogeny.evolution.landscapes import INPUTS, network_point
from ontogeny.evolution.questions import PER_STEP, QUESTIONS, participation_ratio, questions


def test_without_variation_and_selection_a_population_drifts_among_its_members() -> None:
    still = four_cells(variation=False, selection=False, generations=0, seed=1)["loss"]
    assert still == 0
    best = four_cells(variation=False, selection=True, generations=30, seed=1)["loss"]
    both = four_cells(variation=True, selection=True, generations=60, seed=1)["loss"]
    blind = four_cells(variation=True, selection=False, generations=60, seed=1)["loss"]
    assert both < best < 0 < blind


def test_clean_data_and_a_standing_target_are_learnt_better() -> None:
    easy = target_and_data("gradient", drifting=False, raw=False, dose=1.0, budget=240, seed=1)["loss"]
    hard = target_and_data("gradient", drifting=True, raw=True, dose=1.0, budget=240, seed=1)["loss"]
    assert easy < hard


def test_all_cells_are_scored_on_one_teacher_and_a_divergence_as_silence() -> None:
    cells = [(drifting, raw) for drifting in (False, True) for raw in (False, True)]
    silent = {_final("gradient", 1e9, drifting, raw, 1.0, 60, 1) for drifting, raw in cells}
    assert len(silent) == 1


def test_participation_ratio_counts_directions() -> None:
    assert participation_ratio(np.eye(5)) == pytest.approx(5)
    assert participation_ratio(np.outer(np.arange(1.0, 4), np.ones(5))) == pytest.approx(1)


@pytest.mark.parametrize("searcher", ["gradient", "evolution"])
def test_every_question_has_a_number(searcher: str) -> None:
    found = questions(searcher, 640, seed=1)
    own = {name for name in found if not name.startswith("half ")}
    assert own == {*QUESTIONS, *(f"{name} an evaluation" for name in PER_STEP), "growth", "loss"}
    assert {f"half {name}" for name in own} | own == set(found)
    assert all(map(math.isfinite, found.values()))
    assert 0 < found["dimensions"] <= 1
    assert 0 <= found["viable"] <= 1
    assert found["tail"] >= 1


def test_opponents_are_what_they_are_called() -> None:
    _, frozen = coevolve("frozen", 3, 6, seed=1)
    assert (frozen == frozen[0]).all()
    _, met = coevolve("co-evolving", 3, 6, seed=1)
    _, shuffled = coevolve("shuffled", 3, 6, seed=1, history=met)
    assert not np.array_equal(met, shuffled)
    assert sorted(met.sum((1, 2))) == sorted(shuffled.sum((1, 2)))
    assert met.shape == (6, COUNT, INPUTS)
    assert np.abs(met).max() <= BOX


def test_co_evolving_opponents_look_for_errors() -> None:
    start = network_point(3, 1, "student")[None]
    _, met = coevolve("co-evolving", 3, 1, seed=1)
    _, first = coevolve("frozen", 3, 1, seed=1)
    assert errors(start, met[0], 1).mean() > errors(start, first[0], 1).mean()


def test_learners_of_all_kinds_mutate_alike() -> None:
    history = coevolve("frozen", 3, 1, seed=1)[1]
    learners = {kind: coevolve(kind, 3, 1, seed=1, history=history)[0] for kind in KINDS}
    assert np.array_equal(learners["frozen"], learners["shuffled"])  # the same opponents, the same mutations
    assert not np.array_equal(learners["frozen"], learners["random"])


def test_strength_is_measured_for_every_kind() -> None:
    found = strength(3, 20, seed=1)
    assert set(found) == {f"{where} {kind}" for where in ("archive", "random") for kind in KINDS}
