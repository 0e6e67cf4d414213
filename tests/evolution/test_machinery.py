"""Costed genes: worlds of known spectra, and animals whose errors are known."""

import numpy as np
import pytest

from ontogeny.evolution.machinery import GENES, LIFE, Animals, history, live, machinery, parents, reproduce


def animals(on: tuple[bool, bool, bool], gains: tuple[float, float, float], count: int = 1) -> Animals:
    """One population of equal animals."""
    wide = np.ones((3, 1, count))
    return Animals(
        np.array(on)[:, None, None] & (wide > 0), np.zeros((1, count)), np.array(gains)[:, None, None] * wide
    )


@pytest.mark.parametrize("scale", [2.0, 20.0])
def test_worlds_have_variance_one(scale: float) -> None:
    rhythm, rough = (history(kind, scale, 5000, 1) for kind in ("rhythm", "rough"))
    shuffled, smooth = (history(kind, scale, 5000, 1) for kind in ("shuffled", "smooth"))
    for path in (rhythm, rough, shuffled, smooth):
        assert path.shape == (5000, LIFE)
        assert path.var() == pytest.approx(1, abs=0.15)
    np.testing.assert_array_equal(np.sort(rhythm.ravel()), np.sort(shuffled.ravel()))
    assert abs(np.corrcoef(shuffled[:, 0], shuffled[:, 1])[0, 1]) < 0.05
    assert np.corrcoef(rough[:, 0], rough[:, 1])[0, 1] == pytest.approx(np.exp(-1 / scale), abs=0.03)


def test_of_a_rhythm_the_next_change_can_be_foretold_and_of_a_rough_world_not() -> None:
    for kind, least, most in (("rhythm", 0.7, 1.0), ("smooth", 0.1, 1.0), ("rough", -0.4, 0.0)):
        steps = np.diff(history(kind, 2.0, 3000, 1), axis=1)  # type: ignore[arg-type]
        assert least < np.corrcoef(steps[:, 0], steps[:, 1])[0, 1] < most
    assert np.ptp(history("frozen", 1.0, 10, 1)) == 0


def test_a_trend_is_a_second_order_process_with_equal_roots() -> None:
    keep, path = np.exp(-1 / 2.0), history("smooth", 2.0, 5000, 1).ravel()
    lag = 2 * keep / (1 + keep**2)  # by the Yule–Walker equations
    assert (path[1:] * path[:-1]).mean() / path.var() == pytest.approx(lag, abs=0.01)


def test_without_machinery_the_innate_guess_stands() -> None:
    path, noise = np.linspace(0, 1, LIFE)[:, None], np.ones((LIFE, 1, 1))
    assert live(animals((True, True, False), (1, 1, 1)), path, noise) == pytest.approx(np.square(path).mean())


def test_plasticity_follows_memory_averages_and_the_predictor_runs_ahead() -> None:
    line, clear = np.arange(1.0, LIFE + 1)[:, None], np.zeros((LIFE, 1, 1))
    follows = live(animals((False, False, True), (1, 0, 0)), line, clear)
    assert follows == pytest.approx(1)  # a step behind, always
    ahead = live(animals((True, True, True), (1, 1, 1)), line, clear)
    assert ahead == pytest.approx(2 / LIFE)  # two sightings, and then it is right
    rng, gain, steps = np.random.default_rng(0), 0.2, np.arange(LIFE)
    noise, still = rng.normal(size=(LIFE, 1, 5000)), np.zeros((LIFE, 1))
    reflex, mean = (live(animals((m, False, True), (gain, 0, 0), 5000), still, noise).mean() for m in (False, True))
    assert reflex == pytest.approx(gain**2 * (LIFE - 1) / LIFE, rel=0.05)
    variance = gain / (2 - gain) * (1 - (1 - gain) ** (2 * steps))  # of a moving average of noise
    assert mean == pytest.approx(variance.mean(), rel=0.05)


def test_without_plasticity_memory_and_predictor_do_nothing() -> None:
    rng = np.random.default_rng(0)
    path, noise, crowd = rng.normal(size=(LIFE, 1)), rng.normal(size=(LIFE, 1, 50)), rng.random((3, 1, 50))
    whole = Animals(np.ones((3, 1, 50), bool), rng.normal(size=(1, 50)), crowd)
    bare = whole.without("plasticity")
    np.testing.assert_allclose(live(bare, path, noise), np.square(whole.innate - path).mean(0, keepdims=True))
    assert (live(whole, path, noise) != live(bare, path, noise)).all()


def test_parents_are_of_the_same_population_and_drawn_by_fitness() -> None:
    loss = np.repeat([[0.0] * 500 + [np.log(3) / 4] * 500], 2, axis=0)  # fitness 1 and 1/3
    chosen = parents(loss, np.random.default_rng(0)).reshape(2, 1000)
    assert (chosen[0] < 1000).all() and (chosen[1] >= 1000).all()  # noqa: PT018
    assert (chosen % 1000 < 500).mean() == pytest.approx(0.75, abs=0.04)


def test_the_fitter_reproduce_with_what_they_have() -> None:
    on = np.repeat([[[True] * 100 + [False] * 100]], 3, axis=0)
    crowd = Animals(on, np.where(on[0], 5.0, -5.0), np.where(on, 0.9, 0.1))
    children = reproduce(crowd, np.where(on[0], 0.0, 5.0), np.random.default_rng(0))
    assert children.on.mean() > 0.95
    assert children.innate.min() > 4
    assert 0.8 < children.gains.mean() < 1
    assert children.gains.max() <= 1


def test_where_a_price_is_the_whole_variance_nothing_is_kept_in_a_frozen_world() -> None:
    found = machinery("frozen", 1.0, (0.0, 1.0), (0.1, 1.0), 100, 60, 1)
    assert np.shape(found["memory"]) == (2, 2)
    for gene in GENES:
        free, dear = np.array(found[gene]).T
        assert (dear < 0.1).all()
        assert (free > dear).all()
        assert np.abs(np.array(found[f"{gene} ablated"])[:, 1]).max() < 0.1


def test_who_is_born_elsewhere_needs_plasticity() -> None:
    found = machinery("places", 1.0, (0.01,), (0.1,), 150, 150, 1)
    assert found["plasticity"][0][0] > 0.9
    assert found["plasticity ablated"][0][0] > 0.5
