"""Memories of several rates, against the Kalman filter that they should be."""

import numpy as np
import pytest

from ontogeny.evolution import levels
from ontogeny.evolution.levels import (
    RATES,
    average,
    choose,
    count_levels,
    encoded,
    equal_rates,
    nested,
    optimum,
    out_of_sample,
    recover,
    side_by_side,
    time_scales,
    world,
)
from ontogeny.streams import numpy_stream


def test_processes_have_their_correlation_times() -> None:
    scales = np.array([50.0, 5.0])
    processes, seen = world(scales, 2.0, 64, 4096, numpy_stream(0, "test"))
    assert np.square(processes).mean((1, 2)) == pytest.approx([1, 1], abs=0.1)
    for process, scale in zip(processes, scales, strict=True):
        assert (process[:, 10:] * process[:, :-10]).mean() == pytest.approx(np.exp(-10 / scale), abs=0.07)
    assert (seen - processes.sum(0)).var() == pytest.approx(2.0, rel=0.02)


def test_an_average_sees_the_past_alone() -> None:
    np.testing.assert_allclose(average(np.array([[1.0, 0, 0, 0]]), 0.5), [[0, 0.5, 0.25, 0.125]])


def test_rates_of_the_optimum_lie_between_those_of_the_processes() -> None:
    scales = time_scales(4, 8.0, 1)
    assert (np.diff(scales) < 0).all()
    _, rates = optimum(scales, 1.0)
    speeds = -np.expm1(-1 / scales)  # what a process forgets a step
    assert (rates > speeds).all()
    assert (rates[:-1] < speeds[1:]).all()


def test_levels_at_the_optimum_reach_the_least_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "HORIZONS", (1, 2))
    scales = np.array([30.0, 4.0])
    least, rates = optimum(scales, 1.0)
    own, other = (side_by_side(world(scales, 1.0, 64, 4096, numpy_stream(1, path))[1], rates) for path in ("a", "b"))
    assert out_of_sample(own, other, np.arange(2)).mean() == pytest.approx(least, rel=0.01)


def test_of_one_process_the_error_is_the_riccati_equations() -> None:
    least, _ = optimum(np.array([4.0]), 1.0)
    keep = np.exp(-0.5)  # squared
    p = ((keep + (1 - keep) - 1) + np.sqrt(4 * (1 - keep))) / 2  # p² = 1 − φ², where process and noise have variance 1
    ahead = np.exp(-2 * (np.array(levels.HORIZONS) - 1) / 4)
    assert least == pytest.approx((ahead * p + 1 - ahead + 1).mean())


def test_what_is_nested_reaches_what_stands_side_by_side() -> None:
    _, seen = world(np.array([100.0, 5.0]), 1.0, 8, 4096, numpy_stream(2, "test"))
    rates = np.array([0.02, 0.4])
    beside = side_by_side(seen, rates)
    inside = levels.moments(seen, lambda episode: nested(episode, rates))
    every = np.arange(2)
    assert levels.weigh(beside.mean(0), every[None])[0] == pytest.approx(
        levels.weigh(inside.mean(0), every[None])[0], rel=1e-6
    )


def test_more_levels_are_never_worse_on_what_they_are_learnt_on() -> None:
    _, seen = world(time_scales(2, 8.0, 3), 1.0, 8, 4096, numpy_stream(3, "test"))
    mean = side_by_side(seen, RATES).mean(0)
    found = [levels.weigh(mean, choose(mean, number)[None])[0][0] for number in (1, 2, 3)]
    assert found == sorted(found, reverse=True)


def test_levels_are_counted_until_one_more_gains_nothing() -> None:
    noise = 0.01 * np.random.default_rng(0).normal(size=(4, 30))
    assert count_levels(np.array([[1.0], [0.5], [0.5], [0.2]]) + noise) == 1
    assert count_levels(np.array([[1.0], [1.2], [1.3], [1.4]]) + noise) == 0
    assert count_levels(np.array([[1.0], [0.8], [0.6], [0.4]]) + noise) == 3


def test_without_levels_the_loss_is_the_variance() -> None:
    _, seen = world(np.array([]), 3.0, 32, 4096, numpy_stream(6, "test"))
    seconds = side_by_side(seen, RATES[:1])
    losses, sets = levels.by_levels(seconds, seconds, 0)
    assert losses.mean() == pytest.approx(3.0, rel=0.02)
    assert len(sets[0]) == 0


def test_a_level_encodes_the_process_that_it_follows() -> None:
    processes, _ = world(np.array([100.0, 5.0]), 1.0, 4, 2048, numpy_stream(4, "test"))
    np.testing.assert_array_equal(encoded(processes, -processes[::-1]), [1, 0])


def test_one_level_of_one_rate_is_one_level() -> None:
    learnt, tested = (world(np.array([10.0]), 1.0, 8, 4096, numpy_stream(5, path))[1] for path in ("a", "b"))
    own, other = (side_by_side(each, RATES[levels.OCTAVE]) for each in (learnt, tested))
    best = min(range(len(levels.OCTAVE)), key=lambda place: levels.weigh(own.mean(0), np.array([[place]]))[0][0])
    assert equal_rates(learnt, tested, 1) == pytest.approx(float(out_of_sample(own, other, np.array([best])).mean()))


def test_what_is_recovered_is_told_by_number_of_levels() -> None:
    two = recover(2, 8.0, 1.0, 4096, 2, 1)
    assert two["exact"] == float(two["levels"] == 2)
    losses = two["losses"]
    assert len(losses) == 3  # type: ignore[arg-type]
    assert losses[2] == pytest.approx(two["least"], rel=0.1)  # type: ignore[index]
    assert two["by chance"] == pytest.approx(0.75, abs=0.26)
