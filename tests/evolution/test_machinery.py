"""Costed genes: worlds of known spectra, and animals whose errors are known."""

import numpy as np
import pytest

from ontogeny.evolution.machinery import COST, GENES, LIFE, NOISE, Animals, history, live, machinery, reproduce


def animals(on: tuple[bool, bool, bool], gains: np.ndarray) -> Animals:
    return Animals(np.tile(on, (len(gains), 1)), np.zeros(len(gains)), gains)


@pytest.mark.parametrize("scale", [2.0, 20.0])
def test_worlds_have_variance_one(scale: float) -> None:
    rhythm, rough, shuffled = (history(kind, scale, 5000, 1) for kind in ("rhythm", "rough", "shuffled"))
    for path in (rhythm, rough, shuffled):
        assert path.shape == (5000, LIFE)
        assert path.var() == pytest.approx(1, abs=0.15)
    np.testing.assert_array_equal(np.sort(rhythm.ravel()), np.sort(shuffled.ravel()))
    assert abs(np.corrcoef(shuffled[:, 0], shuffled[:, 1])[0, 1]) < 0.05
    assert np.corrcoef(rough[:, 0], rough[:, 1])[0, 1] == pytest.approx(np.exp(-1 / scale), abs=0.03)


def test_of_a_rhythm_the_next_change_can_be_foretold_and_of_a_rough_world_not() -> None:
    for kind, least, most in (("rhythm", 0.7, 1.0), ("rough", -0.4, 0.0)):
        steps = np.diff(history(kind, 2.0, 3000, 1), axis=1)  # type: ignore[arg-type]
        assert least < np.corrcoef(steps[:, 0], steps[:, 1])[0, 1] < most
    assert np.ptp(history("frozen", 1.0, 10, 1)) == 0


def test_without_machinery_the_innate_guess_stands() -> None:
    path, noise = np.linspace(0, 1, LIFE)[:, None], np.ones((LIFE, 1))
    still = animals((True, True, False), np.ones((1, 3)))
    assert live(still, path, noise) == pytest.approx(np.square(path).mean())


def test_plasticity_follows_memory_averages_and_the_predictor_runs_ahead() -> None:
    line, clear = np.arange(1.0, LIFE + 1)[:, None], np.zeros((LIFE, 1))
    follows = live(animals((False, False, True), np.array([[1.0, 0, 0]])), line, clear)
    assert follows == pytest.approx(1)  # a step behind, always
    ahead = live(animals((True, True, True), np.array([[1.0, 1, 1]])), line, clear)
    assert ahead == pytest.approx(2 / LIFE)  # two sightings, and then it is right
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(LIFE, 2000))
    still = np.zeros((LIFE, 1))
    reflex, mean = (
        live(animals((m, False, True), np.tile([0.2, 0, 0], (2000, 1))), still, noise) for m in (False, True)
    )
    assert reflex.mean() == pytest.approx(0.2**2 * (LIFE - 1) / LIFE, rel=0.1)
    assert mean.mean() > reflex.mean()


def test_at_the_fastest_drift_every_gene_can_be_worth_its_cost() -> None:
    """With the best gains and without evolution: so that a gene which is lost was not priceless."""
    values = np.linspace(0, 1, 9)
    gains = np.stack([part.ravel() for part in np.meshgrid(values, values, values)], axis=1)

    def least(kind: str, on: tuple[bool, bool, bool]) -> float:
        rng, total = np.random.default_rng(0), np.zeros(len(gains))
        for path in history(kind, 2.0, 100, 1):  # type: ignore[arg-type]
            noise = NOISE * np.repeat(rng.normal(size=(LIFE, 1)), len(gains), axis=1)
            total += live(animals(on, gains), path[:, None], noise)
        return float(total.min()) / 100

    whole = least("rhythm", (True, True, True))
    for place in range(len(GENES)):
        without = tuple(place != other for other in range(len(GENES)))
        assert least("rhythm", without) - whole > COST  # type: ignore[arg-type]
    assert least("shuffled", (True, True, True)) == pytest.approx(least("shuffled", (False,) * 3), abs=COST)


def test_the_fitter_reproduce() -> None:
    crowd = Animals(np.repeat([[True] * 3, [False] * 3], 100, axis=0), np.zeros(200), np.zeros((200, 3)))
    children = reproduce(crowd, np.repeat([0.0, 5.0], 100), np.random.default_rng(0))
    assert children.on.mean() > 0.9
    assert (children.gains >= 0).all()


def test_a_frozen_world_keeps_nothing_and_places_of_ones_own_keep_plasticity() -> None:
    still, places = (machinery(kind, 1.0, 150, 300, 1) for kind in ("frozen", "places"))
    assert still["plasticity"] < 0.5 < places["plasticity"]
    assert places["plasticity ablated"] > 0.5
