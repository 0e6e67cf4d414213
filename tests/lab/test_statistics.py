"""Closed forms, SciPy and the axioms of the Shapley value."""

import math
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ontogeny.errors import InputError
from ontogeny.lab.statistics import (
    DELTA,
    Equivalence,
    Interval,
    Verdict,
    attribution,
    describe,
    interchangeable,
    judge,
    judge_interchangeable,
    paired_interval,
    replicates_needed,
    share_bounds,
    simultaneous_level,
    student_interval,
    subsets,
    variance_component,
    variance_components,
    variance_share,
)
from ontogeny.streams import numpy_stream

LOSSES = st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 6))
CLEAR = Interval(mean=0.3, sd=0.05, low=0.2, high=0.4, level=0.95, n=5)
NULL = Interval(mean=0.0, sd=0.004, low=-0.005, high=0.005, level=0.95, n=5)
STRADDLING = Interval(mean=0.05, sd=0.05, low=0.05 - 0.0621, high=0.05 + 0.0621, level=0.95, n=5)


def verdict(
    interval: Interval,
    donors: int = 5,
    single_checkpoint: bool = False,
    gates_passed: bool = True,
    rates_resolved: bool = True,
    second_best_gap: float | None = 0.1,
    decisive_scale: bool = True,
) -> Verdict:
    return judge(
        interval,
        donors=donors,
        single_checkpoint=single_checkpoint,
        gates_passed=gates_passed,
        rates_resolved=rates_resolved,
        second_best_gap=second_best_gap,
        decisive_scale=decisive_scale,
    )


@given(st.lists(LOSSES, min_size=2, max_size=19), st.sampled_from([0.9, 0.95, simultaneous_level(6)]))
def test_small_samples_get_students_interval(values: list[float], level: float) -> None:
    interval = paired_interval(values, level)
    if interval.sd > 0:
        low, high = stats.ttest_1samp(values, 0).confidence_interval(level)
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
    assert interval.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_one_replicate_bounds_nothing() -> None:
    interval = paired_interval([0.3])
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.3, -math.inf, math.inf, 1)
    assert describe(interval) == "undecided"
    assert verdict(interval) == Verdict("undecided", "n", None)


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_failed_runs_are_refused(values: list[float]) -> None:
    with pytest.raises(InputError, match="expected finite differences"):
        paired_interval(values)


def test_bca_from_twenty_replicates_only() -> None:
    values = numpy_stream(0, "test", "bca").exponential(size=20)
    interval = paired_interval(values)
    assert (interval.low, interval.high) != pytest.approx((student_interval(values).low, student_interval(values).high))
    expected = stats.bootstrap((values,), np.mean, method="BCa", rng=np.random.default_rng(1)).confidence_interval
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=0.02)
    assert interval == paired_interval(values)
    assert paired_interval(values[:19]) == student_interval(values[:19])
    assert paired_interval([0.1] * 20).high == pytest.approx(0.1)


def test_half_widths_of_the_protocol() -> None:
    """Six contrasts: 2.2 sd at five replicates, 6.3 sd at three, so three never decide."""
    for n, expected in ((5, 2.2), (3, 6.3)):
        interval = paired_interval(np.arange(n) - (n - 1) / 2, simultaneous_level(6))
        assert interval.high / interval.sd == pytest.approx(expected, abs=0.05)


def test_at_most_six_primary_contrasts() -> None:
    assert simultaneous_level(1) == 0.95
    with pytest.raises(InputError, match="found 7"):
        simultaneous_level(7)


@given(st.floats(-1, 1), st.floats(1e-3, 1), st.sampled_from([0.95, simultaneous_level(6)]))
def test_replicates_needed_is_the_smallest(mean: float, sd: float, level: float) -> None:
    def excludes(n: int) -> bool:
        return bool(stats.t.ppf((1 + level) / 2, n - 1) * sd / math.sqrt(n) < abs(mean - DELTA))

    n = replicates_needed(mean, sd, level)
    if n is None:
        assert not excludes(10_000)
    else:
        assert excludes(n)
        assert n == 2 or not excludes(n - 1)


def test_no_number_of_replicates_decides_at_the_margin() -> None:
    assert replicates_needed(DELTA, 0.1, 0.95) is None
    assert replicates_needed(DELTA, 0.0, 0.95) is None
    assert replicates_needed(0.0, 0.0, 0.95) == 2
    assert replicates_needed(0.3, math.nan, 0.95) is None


def test_supported_and_refuted() -> None:
    assert verdict(CLEAR) == Verdict("supported")
    assert verdict(NULL) == Verdict("refuted")
    assert verdict(replace(CLEAR, low=0.05), donors=1, single_checkpoint=True) == Verdict("supported")


@pytest.mark.parametrize("interval", [CLEAR, NULL])
def test_the_conditions_of_both_verdicts(interval: Interval) -> None:
    assert verdict(interval, decisive_scale=False) == Verdict("undecided", "scale")
    assert verdict(interval, gates_passed=False) == Verdict("undecided", "gate")
    assert verdict(interval, rates_resolved=False) == Verdict("undecided", "rate unresolved")
    assert verdict(interval, donors=4).code == "donors"
    assert verdict(replace(interval, n=4), donors=1, single_checkpoint=True).code == "n"


def test_only_support_needs_the_second_best_rates() -> None:
    for gap in (None, 0.0, -0.1):
        assert verdict(CLEAR, second_best_gap=gap) == Verdict("undecided", "sign at second-best rate")
        assert verdict(NULL, second_best_gap=gap) == Verdict("refuted")


def test_bounds_at_delta_are_undecided() -> None:
    assert verdict(replace(CLEAR, low=DELTA)).code == "straddles"
    assert verdict(replace(NULL, high=DELTA)).code == "straddles"


def test_needed_says_what_would_decide() -> None:
    needed = replicates_needed(0.05, 0.05, 0.95)
    assert needed == 14  # 2.160 · 0.05 / √14 = 0.0289 < 0.03; at 13, 0.0302
    assert verdict(STRADDLING) == Verdict("undecided", "straddles", 14)
    assert verdict(replace(CLEAR, n=3), donors=3) == Verdict("undecided", "n", 5)
    assert verdict(replace(STRADDLING, n=3), donors=3) == Verdict("undecided", "n", 14)
    assert verdict(replace(CLEAR, n=8), donors=3) == Verdict("undecided", "donors")  # no number of replicates helps


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.021, 0.3, "better"),
        (-0.3, -0.021, "worse"),
        (-0.019, 0.019, "equivalent"),
        (-0.02, 0.019, "undecided"),
        (0.0, 0.02, "undecided"),
        (-0.1, 0.1, "undecided"),
    ],
)
def test_describe(low: float, high: float, word: str) -> None:
    assert describe(replace(CLEAR, low=low, high=high)) == word


def test_published_std_over_gap() -> None:
    """The four published donor losses: 0.088 by the population, 0.102 by the sample standard deviation."""
    published = interchangeable(np.array([[7.378, 7.362, 7.362, 7.299]]), np.array([7.693]))
    assert published.gap == pytest.approx(0.34275)
    assert published.std_over_gap == pytest.approx(0.088, abs=5e-4)
    assert published.std_over_gap * math.sqrt(4 / 3) == pytest.approx(0.102, abs=5e-4)
    assert not published.all_equivalent  # one replicate shows nothing


def test_equivalence_is_two_one_sided_t_tests() -> None:
    rng = numpy_stream(0, "test", "equivalence")
    random = 7.7 + 0.03 * rng.standard_normal(5)
    donors = 7.35 + np.array([0.0, 0.01, 0.08]) + 0.02 * rng.standard_normal((5, 3))
    result = interchangeable(donors, random)
    assert [pair.donors for pair in result.pairs] == list(combinations(range(3), 2))
    for pair in result.pairs:
        i, j = pair.donors
        quarter = 0.25 * (random - 0.5 * (donors[:, i] + donors[:, j]))
        tests = [
            stats.ttest_1samp(quarter + sign * (donors[:, i] - donors[:, j]), 0, alternative="greater")
            for sign in (1, -1)
        ]
        lows = [contrast.low for contrast in pair.contrasts]
        assert lows == pytest.approx([test.confidence_interval(0.95).low for test in tests])
        assert pair.equivalent == (max(test.pvalue for test in tests) < 0.05)
    assert [pair.equivalent for pair in result.pairs] == [True, False, False]
    assert not result.all_equivalent


def equivalence(differences: list[float], replicates: int = 5, noise: float = 0.003) -> Equivalence:
    rng = numpy_stream(0, "test", "planted equivalence")
    donors = 7.35 + np.array(differences) + noise * rng.standard_normal((replicates, len(differences)))
    return interchangeable(donors, 7.75 + noise * rng.standard_normal(replicates))


def test_interchangeable_verdicts() -> None:
    supported = Verdict("supported")
    assert judge_interchangeable(equivalence([0.0, 0.01, -0.01]), Verdict("refuted")) == Verdict("undecided", "gap")
    assert judge_interchangeable(equivalence([0.0, 0.01, -0.01]), supported) == supported
    assert judge_interchangeable(equivalence([0.0, 0.0, 0.2]), supported) == Verdict("refuted")
    assert judge_interchangeable(equivalence([0.0, 0.0, 0.0], 3), supported) == Verdict("undecided", "n", 5)
    noisy = judge_interchangeable(equivalence([0.0, 0.0, 0.0], 5, noise=0.1), supported)
    assert (noisy.word, noisy.code) == ("undecided", "straddles")
    assert noisy.needed is not None
    assert noisy.needed > 5


def test_variance_component_of_one_stream_is_the_sample_variance() -> None:
    losses = np.array([[7.378, 7.362, 7.362, 7.299]])
    component = variance_component(losses)
    assert component.variance == pytest.approx(losses.var(ddof=1))
    low, high = 3 * losses.var(ddof=1) / stats.chi2.ppf([0.975, 0.025], 3)
    assert (component.low, component.high) == pytest.approx((low, high))
    assert (component.units, component.streams) == (4, 1)


def test_variance_component_of_several_streams_is_anova() -> None:
    """Against the sums of squares written out, and unbiased over 1,000 draws."""
    rng = numpy_stream(0, "test", "anova")
    losses = rng.standard_normal((3, 4))
    grand, rows, columns = losses.mean(), losses.mean(axis=1), losses.mean(axis=0)
    between = 3 * sum((column - grand) ** 2 for column in columns) / 3
    within = sum((losses[r, u] - rows[r] - columns[u] + grand) ** 2 for r in range(3) for u in range(4)) / 6
    assert variance_component(losses).variance == pytest.approx((between - within) / 3)
    units, noise = 0.5 * rng.standard_normal((1000, 1, 6)), rng.standard_normal((1000, 4, 6))
    shift = 3 * rng.standard_normal((1000, 4, 1))  # the streams' own effect, which must not count
    components = [variance_component(draw) for draw in units + noise + shift]
    assert np.mean([c.variance for c in components]) == pytest.approx(0.25, abs=0.025)
    assert np.mean([c.low <= 0.25 <= c.high for c in components]) >= 0.93


def test_donors_closer_than_draws() -> None:
    rng = numpy_stream(0, "test", "closer")
    draws = rng.standard_normal((1000, 1, 5))
    donors = rng.standard_normal((1000, 1, 5))
    null = [variance_components(a, b).p_closer for a, b in zip(donors, draws, strict=True)]
    assert np.mean(np.array(null) < 0.05) == pytest.approx(0.05, abs=0.02)
    assert variance_components(0.05 * donors[0], draws[0]).p_closer < 0.01
    with pytest.raises(InputError, match="at least 2"):
        variance_component(np.zeros((3, 1)))


def test_share_of_units_in_closed_form() -> None:
    """Losses u + s without interaction: the share is var(u) / (var(u) + var(s))."""
    units, streams = np.array([1.0, 2, 3, 4, 5]), np.array([0.0, 2, 4, 6])
    found = variance_share(streams[:, None] + units)
    assert found.mean == pytest.approx(units.var(ddof=1) / (units.var(ddof=1) + streams.var(ddof=1)))
    assert 0 < found.low < found.mean < found.high < 1
    other = variance_share(10 * (streams[:, None] + units) + 3)
    assert (other.low, other.high) == pytest.approx((found.low, found.high)), "of a share, whatever the unit"
    with pytest.raises(InputError, match="at least 2"):
        variance_share(np.zeros((1, 3)))


@pytest.mark.parametrize("units", [5, 8])
@pytest.mark.parametrize("common", [0.1, 0.9])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_interval_of_a_share_covers_it(units: int, share: float, common: float) -> None:
    """Mean squares of normal effects of units, of four streams (``common`` of the rest) and of the residual."""
    rng, streams = numpy_stream(0, "test", "share", units, f"{share} {common}"), 4
    of_streams, residual = (1 - share) * common, (1 - share) * (1 - common)
    expected = {units - 1: residual + streams * share, streams - 1: residual + units * of_streams}
    expected[(units - 1) * (streams - 1)] = residual
    squares = np.stack([square * rng.chisquare(df, 1000) / df for df, square in expected.items()])
    low, high = share_bounds(squares, streams, units, draws=2000)
    assert np.mean((low <= share) & (share <= high)) >= 0.93


FACTORS = frozenset({"layer identity", "frame", "internal sides"})


def planted_cells(seed: int, replicates: int = 6) -> tuple[dict[frozenset[str], np.ndarray], np.ndarray]:
    rng = numpy_stream(seed, "test", "attribution")
    return {s: -7 + rng.standard_normal(replicates) for s in subsets(FACTORS)}, -8 + rng.standard_normal(replicates)


@given(st.integers(0, 10_000))
def test_shapley_efficiency_and_harsanyi_dividends(seed: int) -> None:
    cells, random = planted_cells(seed)
    result = attribution(cells, random)
    assert result.total.mean == pytest.approx(np.mean(cells[FACTORS] - random))
    assert result.coherence.mean == pytest.approx(np.mean(cells[frozenset()] - random))
    parts = result.coherence.mean + sum(part.mean for part in result.shapley.values())
    assert parts == pytest.approx(result.total.mean, abs=1e-12)
    with_interactions = result.coherence.mean + sum(part.mean for part in result.interactions.values())
    assert with_interactions == pytest.approx(result.total.mean, abs=1e-12)
    assert len(result.interactions) == 7


@given(st.integers(0, 10_000))
def test_shapley_values_are_mean_marginals_over_orders(seed: int) -> None:
    cells, random = planted_cells(seed)
    result = attribution(cells, random)
    for factor in FACTORS:
        marginals = []
        for order in permutations(sorted(FACTORS)):
            before = frozenset(order[: order.index(factor)])
            marginals.append(cells[before | {factor}] - cells[before])
        contrast = np.mean(marginals, axis=0)  # one linear contrast a replicate
        expected = student_interval(contrast)
        assert result.shapley[factor].mean == pytest.approx(expected.mean, abs=1e-12)
        assert result.shapley[factor].low == pytest.approx(expected.low, abs=1e-9)


def test_additive_effects_have_no_interactions() -> None:
    """v(S) = Σ of the factors' effects: φ is the effect, a factor without one gets 0, interactions vanish."""
    effects = {"layer identity": 0.3, "frame": 0.1, "internal sides": 0.0}
    noise = numpy_stream(0, "test", "additive").standard_normal(5)
    cells = {s: noise - 7 + sum(effects[f] for f in s) for s in subsets(FACTORS)}
    result = attribution(cells, noise - 7.1)
    assert {f: part.mean for f, part in result.shapley.items()} == pytest.approx(effects)
    assert all(abs(part.mean) < 1e-12 for s, part in result.interactions.items() if len(s) > 1)
    assert result.percentages == pytest.approx(
        {"layer identity": 60, "frame": 20, "internal sides": 0, "coherence": 20}, abs=1e-9
    )


def test_no_percentages_of_an_unsupported_total() -> None:
    cells, random = planted_cells(3)
    close = dict.fromkeys(cells, random + 0.01)
    assert attribution(close, random).percentages is None


def test_attribution_needs_every_cell() -> None:
    cells, random = planted_cells(0)
    del cells[frozenset({"frame"})]
    with pytest.raises(InputError, match="missing \\[\\['frame'\\]\\]"):
        attribution(cells, random)
