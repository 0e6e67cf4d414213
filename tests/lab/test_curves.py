"""Closed forms, SciPy's least squares, brute-force bootstraps and the symmetries of the floor."""

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from ontogeny.errors import InputError
from ontogeny.lab.curves import (
    RULES,
    Curve,
    FloorFit,
    ValueCurve,
    aicc,
    fit_floor,
    fit_value_curve,
    judge_floor,
    judge_value_curve,
    trend,
)
from ontogeny.lab.statistics import DELTA, Interval, Verdict, student_interval
from ontogeny.streams import numpy_stream

HORIZONS = [100 * 2**j for j in range(7)]
DENSITIES = [0.5, 0.25, 0.1, 0.05]
KEPT = np.array(DENSITIES)


def power_law(horizons: Sequence[int], floor: float, amplitude: float, exponent: float) -> np.ndarray:
    return np.asarray(floor + amplitude * (np.array(horizons) / horizons[0]) ** -exponent)


def noise(*path: str | int, shape: tuple[int, ...] = (5, 7), sd: float = 0.012) -> np.ndarray:
    return sd * numpy_stream(0, "test", "curves", *path).standard_normal(shape)


def centred(*path: str | int, shape: tuple[int, ...] = (5, 4), sd: float = 0.012) -> np.ndarray:
    """Replicates that differ, with means of exactly 0."""
    values = noise(*path, shape=shape, sd=sd)
    return np.asarray(values - values.mean(axis=0))


def test_aicc_by_hand() -> None:
    assert aicc(10.0, 2, 4) == 10 + 4 + 12
    assert aicc(-61.0, 4, 7) == -61 + 8 + 20
    assert aicc(0.0, 4, 5) == math.inf


@pytest.mark.parametrize(
    ("floor", "amplitude", "exponent"), [(0.1, 0.2, 0.5), (-0.3, 0.7, 0.15), (0.0, 0.279, 0.34), (0.2, -0.1, 2.5)]
)
def test_a_power_law_with_a_floor_is_recovered(floor: float, amplitude: float, exponent: float) -> None:
    fit = fit_floor(HORIZONS, np.tile(power_law(HORIZONS, floor, amplitude, exponent), (5, 1)))
    curve = fit.with_floor
    assert (curve.constant, curve.amplitude, curve.rate) == pytest.approx((floor, amplitude, exponent), abs=1e-6)
    assert (fit.interval.low, fit.interval.high) == pytest.approx((floor, floor), abs=1e-6)
    assert fit.span == 64


def test_a_power_law_without_a_floor_is_recovered() -> None:
    curve = fit_floor(HORIZONS, np.tile(power_law(HORIZONS, 0.0, 0.279, 0.34), (5, 1))).without_floor
    assert (curve.constant, curve.amplitude, curve.rate) == pytest.approx((0.0, 0.279, 0.34), abs=1e-6)


@pytest.mark.parametrize("draw", range(5))
def test_both_floor_fits_are_least_squares_with_their_aicc(draw: int) -> None:
    gaps = power_law(HORIZONS, 0.1, 0.2, 0.5) + noise("squares", draw)
    fit, t = fit_floor(HORIZONS, gaps), np.array(HORIZONS) / 100
    free = optimize.curve_fit(lambda t, c, a, b: c + a * t**-b, t, gaps.mean(axis=0), p0=(0.1, 0.2, 0.5))[0]
    bare = optimize.curve_fit(lambda t, a, b: a * t**-b, t, gaps.mean(axis=0), p0=(0.2, 0.5))[0]
    curve, straight = fit.with_floor, fit.without_floor
    assert (curve.constant, curve.amplitude, curve.rate) == pytest.approx(free, abs=1e-5)
    assert (straight.amplitude, straight.rate) == pytest.approx(bare, abs=1e-5)
    squares = ((gaps.mean(axis=0) - free[0] - free[1] * t ** -free[2]) ** 2).sum()
    assert curve.aicc == pytest.approx(7 * math.log(squares / 7) + 8 + 20, abs=1e-5)
    squares = ((gaps.mean(axis=0) - bare[0] * t ** -bare[1]) ** 2).sum()
    assert straight.aicc == pytest.approx(7 * math.log(squares / 7) + 6 + 8, abs=1e-5)


def widened(values: np.ndarray, resampled: np.ndarray) -> float:
    """The interval's lower end for the mean of ``values``, its distribution given by brute force."""
    n = len(values)
    levels, counts = np.unique(resampled.round(12), return_counts=True)
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    return float(np.interp(tail, np.cumsum(counts) / len(resampled), levels))


def test_the_floor_interval_is_the_bootstrap_over_whole_replicates() -> None:
    """Replicates that differ by a constant move the floor by its mean: all 5⁵ ordered resamples give the interval."""
    shifts = noise("shifts", shape=(5,))
    interval = fit_floor(HORIZONS, power_law(HORIZONS, 0.1, 0.2, 0.5) + shifts[:, None]).interval
    means = np.array([shifts[list(drawn)].mean() for drawn in product(range(5), repeat=5)])
    assert interval.mean == pytest.approx(0.1 + shifts.mean(), abs=1e-6)
    assert interval.sd == pytest.approx(shifts.std(ddof=1), abs=1e-6)
    assert interval.low == pytest.approx(0.1 + widened(shifts, means), abs=1e-6)
    assert interval.high == pytest.approx(0.1 - widened(-shifts, -means), abs=1e-6)
    assert (interval.level, interval.n) == (0.95, 5)


def test_many_replicates_are_resampled_at_random_and_always_alike() -> None:
    shifts = noise("many", shape=(12,))
    gaps = power_law(HORIZONS, 0.1, 0.2, 0.5) + shifts[:, None]
    interval, expected = fit_floor(HORIZONS, gaps).interval, student_interval(0.1 + shifts)
    assert interval == fit_floor(HORIZONS, gaps).interval
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.002)
    assert interval.sd == pytest.approx(expected.sd, rel=0.06)


@given(shift=st.floats(-1, 1), scale=st.sampled_from([-3.0, -1.0, 0.5, 2.0]), unit=st.integers(1, 50))
def test_the_floor_follows_shifts_scales_reflections_and_units(shift: float, scale: float, unit: int) -> None:
    gaps = power_law(HORIZONS, 0.1, 0.2, 0.5) + noise("symmetry")
    old = fit_floor(HORIZONS, gaps).interval
    new = fit_floor([unit * step for step in HORIZONS], shift + scale * gaps[::-1]).interval
    ends = sorted((shift + scale * old.low, shift + scale * old.high))
    assert [new.low, new.high] == pytest.approx(ends, abs=1e-5)
    assert new.mean == pytest.approx(shift + scale * old.mean, abs=1e-5)


@pytest.mark.parametrize("replicates", [1, 2, 4])
def test_below_five_replicates_the_floor_has_no_bounds(replicates: int) -> None:
    fit = fit_floor(HORIZONS, power_law(HORIZONS, 0.1, 0.2, 0.5) + noise("few", shape=(replicates, 7)))
    assert (fit.interval.low, fit.interval.high) == (-math.inf, math.inf)
    assert floor_verdict(fit) == Verdict("undecided", "n", 5)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_gaps_that_never_move(value: float) -> None:
    fit = fit_floor(HORIZONS, np.full((5, 7), value))
    assert (fit.interval.low, fit.interval.high) == pytest.approx((value, value), abs=1e-9)
    assert floor_verdict(fit).word == ("supported" if value else "refuted")


def test_a_hump_is_a_misfit_and_not_evidence_against_a_floor() -> None:
    """The gap rises before it falls to 0.1, which bends the power law towards a floor far below."""
    t = np.array(HORIZONS) / 100
    fit = fit_floor(HORIZONS, 0.1 + 0.3 * (1 - np.exp(-t / 2)) * t**-0.5 + noise("hump", sd=0.004))
    assert fit.interval.high < DELTA
    assert fit.misfit < 0.01
    assert floor_verdict(fit) == Verdict("undecided", "misfit")


def test_misfit_is_the_f_test_of_nested_linear_models() -> None:
    """Against 7 free means, the fit linearised at its optimum, on one replicate's residuals at a time."""
    gaps = power_law(HORIZONS, 0.1, 0.2, 0.5) + noise("lack")
    fit, t = fit_floor(HORIZONS, gaps), np.array(HORIZONS) / 100
    curve = t**-fit.with_floor.rate
    design = np.stack([np.ones(7), curve, np.log(t) * curve], axis=1)
    hat = design @ np.linalg.pinv(design)
    within = sum(float(((row - hat @ row) ** 2).sum()) for row in gaps - gaps.mean(axis=0)) / 16
    residual = gaps.mean(axis=0) - fit.with_floor.constant - fit.with_floor.amplitude * curve
    assert fit.misfit == pytest.approx(stats.f.sf(5 * float((residual**2).sum()) / 4 / within, 4, 16), rel=1e-6)


@pytest.mark.parametrize(
    ("horizons", "gaps", "message"),
    [
        ([100, 200], np.zeros((5, 2)), "at least 3 different positive horizons"),
        ([100, 200, 200], np.zeros((5, 3)), "different"),
        ([0, 100, 200], np.zeros((5, 3)), "positive"),
        (HORIZONS, np.zeros((5, 6)), "at each of 7 horizons"),
        (HORIZONS, np.zeros((0, 7)), "every replicate"),
        (HORIZONS, np.full((5, 7), math.nan), "finite"),
    ],
)
def test_floors_refuse_what_carries_no_fit(horizons: list[int], gaps: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_floor(horizons, gaps)


def floor_verdict(
    fit: FloorFit, donors: int = 5, gates: bool = True, rates: bool = True, scale: bool = True
) -> Verdict:
    return judge_floor(fit, donors=donors, gates_passed=gates, rates_resolved=rates, decisive_scale=scale)


def floors(low: float, high: float, n: int = 5, span: float = 64.0, misfit: float = 0.5) -> FloorFit:
    line = Curve(constant=(low + high) / 2, amplitude=0.2, rate=0.5, squares=0.0, aicc=0.0)
    return FloorFit(line, line, Interval((low + high) / 2, 0.05, low, high, 0.95, n), span, misfit)


def test_the_rule_for_floors() -> None:
    assert floor_verdict(floors(0.021, 0.1)) == Verdict("supported")
    assert floor_verdict(floors(-0.1, 0.019)) == Verdict("refuted")
    assert floor_verdict(floors(DELTA, 0.1)).code == "straddles"
    assert floor_verdict(floors(-0.1, DELTA)).code == "straddles"
    assert floor_verdict(floors(0.021, 0.1, misfit=math.nan)) == Verdict("supported")
    needed = floor_verdict(floors(0.01, 0.11)).needed
    assert needed is not None
    assert stats.t.ppf(0.975, needed - 1) * 0.05 / math.sqrt(needed) < 0.06 - DELTA
    assert floor_verdict(floors(DELTA - 0.01, DELTA + 0.01)) == Verdict("undecided", "straddles", None)


@pytest.mark.parametrize("low", [0.05, -0.2])
def test_floor_conditions_come_before_the_interval(low: float) -> None:
    clear = floors(low, low + 0.05)
    assert floor_verdict(clear, scale=False, gates=False) == Verdict("undecided", "scale")
    assert floor_verdict(clear, gates=False, rates=False) == Verdict("undecided", "gate")
    assert floor_verdict(clear, rates=False, donors=1) == Verdict("undecided", "rate unresolved")
    assert floor_verdict(floors(low, low + 0.05, n=4), donors=4) == Verdict("undecided", "n", 5)
    assert floor_verdict(floors(low, low + 0.05, span=16.0), donors=4) == Verdict("undecided", "donors")
    assert floor_verdict(floors(low, low + 0.05, span=16.0, misfit=0.0)) == Verdict("undecided", "span")
    assert floor_verdict(floors(low, low + 0.05, misfit=0.009)) == Verdict("undecided", "misfit")


def test_five_doublings_can_only_be_undecided() -> None:
    fit = fit_floor(HORIZONS[:5], power_law(HORIZONS[:5], 0.3, 0.2, 1.0) + noise("short", shape=(5, 5)))
    assert fit.interval.low > DELTA
    assert floor_verdict(fit) == Verdict("undecided", "span")
    assert fit.with_floor.aicc == math.inf


@pytest.mark.parametrize(("amplitude", "rate"), [(0.0006, 7.97), (0.01, 3.0), (1e-9, 21.0)])
def test_an_exponential_is_recovered(amplitude: float, rate: float) -> None:
    truth = amplitude * np.exp(rate * (1 - KEPT))
    curve = fit_value_curve(DENSITIES, truth + centred("exponential"))
    found = curve.forms["exponential"]
    assert (found.amplitude, found.rate) == pytest.approx((amplitude, rate), rel=1e-4)
    assert found.squares == pytest.approx(0.0, abs=1e-6)
    assert found.aicc == pytest.approx(4 + 12, abs=1e-6)


@pytest.mark.parametrize(("amplitude", "exponent"), [(0.0378, 1.304), (0.1, 0.4)])
def test_a_power_of_density_is_recovered(amplitude: float, exponent: float) -> None:
    curve = fit_value_curve(DENSITIES[::-1], amplitude * KEPT[::-1] ** -exponent + centred("power"))
    found = curve.forms["power"]
    assert (found.amplitude, found.rate) == pytest.approx((amplitude, exponent), rel=1e-4)
    assert curve.winner == "power"
    assert curve.akaike_weight < 0.05


@pytest.mark.parametrize("draw", range(3))
def test_forms_are_weighted_least_squares_with_known_variance(draw: int) -> None:
    gaps = 0.0006 * np.exp(7.97 * (1 - KEPT)) + noise("weighted", draw, shape=(5, 4), sd=0.05)
    forms, errors = fit_value_curve(DENSITIES, gaps).forms, stats.sem(gaps, axis=0)
    start = {"exponential": (0.0006, 8.0), "power": (0.04, 1.3)}
    shapes: dict[str, Callable[..., np.ndarray]] = {
        "exponential": lambda d, a, b: a * np.exp(b * (1 - d)),
        "power": lambda d, a, b: a * d**-b,
    }
    for name, shape in shapes.items():
        best = optimize.curve_fit(shape, KEPT, gaps.mean(axis=0), start[name], errors, absolute_sigma=True, xtol=1e-12)[
            0
        ]
        chi_square = float((((gaps.mean(axis=0) - shape(KEPT, *best)) / errors) ** 2).sum())
        assert (forms[name].amplitude, forms[name].rate) == pytest.approx(best, rel=1e-3)
        assert forms[name].aicc == pytest.approx(chi_square + 4 + 12, abs=1e-4)


def test_akaike_weight_by_hand() -> None:
    curve = fit_value_curve(DENSITIES, 0.02 + noise("akaike", shape=(5, 4)))
    relative = [math.exp(-form.aicc / 2) for form in (curve.forms["exponential"], curve.forms["power"])]
    assert curve.akaike_weight == pytest.approx(relative[0] / sum(relative))
    assert curve.winner is None


def test_a_form_that_falls_cannot_win() -> None:
    curve = fit_value_curve(DENSITIES, -0.1 * KEPT**-1.0 + centred("falling"))
    assert abs(curve.forms["power"].aicc - curve.forms["exponential"].aicc) > 6
    assert curve.winner is None


def test_the_held_out_gap_is_compared_with_a_prediction_that_moves_with_each_replicate() -> None:
    """Its influence by finite differences: refit after moving the means a little towards one replicate."""
    gaps = 0.0006 * np.exp(7.97 * (1 - KEPT)) + centred("influence", shape=(6, 4))
    beyond = 1.4 + noise("beyond", shape=(6,))
    curve = fit_value_curve(DENSITIES, gaps, (0.02, beyond))
    assert curve.winner == "exponential"

    def predicted(means: np.ndarray) -> float:
        form = fit_value_curve(DENSITIES, gaps - gaps.mean(axis=0) + means).forms["exponential"]
        return form.amplitude * math.exp(form.rate * 0.98)

    means, step = gaps.mean(axis=0), 1e-3
    base = predicted(means)
    towards = [base + (predicted(means + step * (row - means)) - base) / step for row in gaps]
    expected, found = student_interval(beyond - np.array(towards)), curve.held_out
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high), rel=2e-3)
    assert curve.largest == student_interval(beyond)


def test_a_held_out_density_inside_the_range_leaves_the_largest_sparsity_alone() -> None:
    gaps = 0.0006 * np.exp(7.97 * (1 - KEPT)) + centred("inside")
    curve = fit_value_curve(DENSITIES, gaps, (0.2, 0.0006 * np.exp(7.97 * 0.8) + centred("held", shape=(5, 1))[:, 0]))
    assert curve.largest == student_interval(gaps[:, 3])
    assert curve.held_out is not None
    assert curve.held_out.mean == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("densities", "gaps", "held_out", "message"),
    [
        ([0.5, 0.25, 0.1], noise(shape=(5, 3)), None, "at least 4 different positive densities"),
        ([1.0, 0.5, 0.25, 0.1], noise(shape=(5, 4)), None, "densities below 1"),
        (DENSITIES, noise(shape=(1, 4)), None, "at least 2 replicates"),
        (DENSITIES, np.zeros((5, 4)), None, "differ"),
        (DENSITIES, np.full((5, 4), math.inf), None, "finite"),
        (DENSITIES, noise(shape=(5, 4)), (0.05, noise(shape=(5,))), "different"),
        (DENSITIES, noise(shape=(5, 4)), (1.0, noise(shape=(5,))), "densities below 1"),
        (DENSITIES, noise(shape=(5, 4)), (0.02, np.full(5, math.nan)), "finite"),
    ],
)
def test_value_curves_refuse_what_carries_no_fit(
    densities: list[float], gaps: np.ndarray, held_out: tuple[float, np.ndarray] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_value_curve(densities, gaps, held_out)


def value_verdict(
    curve: ValueCurve, donors: int = 5, gates: bool = True, rates: bool = True, scale: bool = True
) -> Verdict:
    return judge_value_curve(curve, donors=donors, gates_passed=gates, rates_resolved=rates, decisive_scale=scale)


def value_curve(winner: str | None, outside: float | None = None, low: float = 0.3, n: int = 5) -> ValueCurve:
    form = Curve(0.0, 0.1, 1.0, 0.0, 16.0)
    held_out = None if outside is None else Interval(outside, 0.1, outside - 0.1, outside + 0.1, 0.95, n)
    largest = Interval(low + 0.1, 0.1, low, low + 0.2, 0.95, n)
    return ValueCurve({"exponential": form, "power": form}, winner, held_out, largest, misfit=0.5)


def test_the_rule_for_value_curves() -> None:
    assert value_verdict(value_curve("exponential")) == Verdict("supported")
    assert value_verdict(value_curve("exponential", outside=0.05)) == Verdict("supported")
    assert value_verdict(value_curve("exponential", outside=0.2)) == Verdict("undecided", "out of sample")
    assert value_verdict(value_curve("exponential", low=-0.1)) == Verdict("undecided", "straddles", 99)
    assert value_verdict(value_curve("power")) == Verdict("refuted")
    assert value_verdict(value_curve("power", outside=-0.2)) == Verdict("undecided", "out of sample")
    assert value_verdict(value_curve(None)) == Verdict("undecided", "no winner")
    assert value_verdict(value_curve(None, low=-0.2)) == Verdict("refuted")
    assert value_verdict(value_curve("exponential", low=-0.2)) == Verdict("refuted")


@pytest.mark.parametrize("winner", ["exponential", "power"])
def test_value_conditions_come_before_the_winner(winner: str) -> None:
    curve = value_curve(winner)
    assert value_verdict(curve, scale=False, gates=False) == Verdict("undecided", "scale")
    assert value_verdict(curve, gates=False, rates=False) == Verdict("undecided", "gate")
    assert value_verdict(curve, rates=False, donors=1) == Verdict("undecided", "rate unresolved")
    assert value_verdict(value_curve(winner, n=4), donors=4) == Verdict("undecided", "n", 5)
    assert value_verdict(curve, donors=4) == Verdict("undecided", "donors")


@given(st.integers(0, 100))
def test_the_trend_is_the_slope_of_every_replicate_on_log2_of_width(draw: int) -> None:
    widths = [64, 96, 128, 256]
    gaps = noise("trend", draw, shape=(5, 4), sd=1.0)
    expected = student_interval([float(np.polyfit(np.log2(widths), row, 1)[0]) for row in gaps])
    found = trend(widths, gaps)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high), abs=1e-9)


def test_a_doubling_that_adds_a_tenth() -> None:
    found = trend([64, 128, 256], np.array([[0.1, 0.2, 0.3], [0.3, 0.4, 0.5], [-0.2, -0.1, 0.0]]))
    assert (found.mean, found.sd) == pytest.approx((0.1, 0.0))
    with pytest.raises(InputError, match="at least 2 different positive widths"):
        trend([64], np.zeros((5, 1)))


def test_rules_state_the_numbers_they_use() -> None:
    assert all(f"{DELTA} nats" in rule and "≥ 5 replicates over ≥ 5 donors" in rule for rule in RULES.values())
