"""From paired losses to a verdict: intervals, the rule, equivalence of donors, variance components, attribution.

Everything here is a pure function of numbers. A difference is oriented so that positive favours the published
direction: ``test loss(control) - test loss(donor)``, nats a token, one value a replicate.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
from jaxtyping import Float
from scipy import special

from ontogeny.errors import InputError
from ontogeny.streams import numpy_stream

DELTA = 0.02  # nats a token: the smallest difference that counts (1 point of accuracy)
MINIMUM_REPLICATES = 5  # of replicates, and of donors where the statement is about donors in general
BOOTSTRAP_FROM = 20  # replicates; below it the bootstrap's intervals are too short
PRIMARY_CONTRASTS = 6  # at most so many in an experiment and mode
LARGEST_SEARCH = 10_000  # replicates; beyond it no number of runs is said to decide

PerReplicate = Float[np.ndarray, " replicates"]
PerDonor = Float[np.ndarray, "replicates donors"]
Crossed = Float[np.ndarray, "streams units"]


@dataclass(frozen=True)
class Interval:
    """Two-sided interval of a mean. ``sd`` is the sample standard deviation; both are nan or infinite where n is 1."""

    mean: float
    sd: float
    low: float
    high: float
    level: float
    n: int


@dataclass(frozen=True)
class Verdict:
    """``word`` is supported, refuted or undecided; ``code`` says why undecided; ``needed`` replicates would decide.

    An uninformative contrast (an arm not past its bigram) is ``undecided`` with code ``gate``.
    """

    word: str
    code: str = ""
    needed: int | None = None


def simultaneous_level(contrasts: int) -> float:
    """Level 1 - 0.05/m of each of m primary contrasts (Bonferroni). Raises InputError above six."""
    if not 1 <= contrasts <= PRIMARY_CONTRASTS:
        raise InputError(f"expected 1 to {PRIMARY_CONTRASTS} primary contrasts, found {contrasts}: declare fewer")
    return 1 - 0.05 / contrasts


def student_interval(differences: Sequence[float] | PerReplicate, level: float = 0.95) -> Interval:
    """Student's t interval of the mean; with one value the bounds are infinite.

    Raises InputError where there is no value or one is not finite.
    """
    values = np.asarray(differences, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise InputError(f"expected finite differences, at least one; found {values.tolist()}: leave failed runs out")
    n, mean = values.size, float(values.mean())
    if n == 1:
        return Interval(mean, math.nan, -math.inf, math.inf, level, n)
    sd = float(values.std(ddof=1))
    half_width = _half_width(sd, n, level)
    return Interval(mean, sd, mean - half_width, mean + half_width, level, n)


def paired_interval(differences: Sequence[float] | PerReplicate, level: float = 0.95) -> Interval:
    """Interval of the mean paired difference: Student's t, and the BCa bootstrap (Efron 1987) from 20 replicates.

    The bootstrap's draws come from one fixed stream, so the same values always give the same interval.
    """
    interval = student_interval(differences, level)
    values = np.asarray(differences, dtype=float)
    if interval.n < BOOTSTRAP_FROM or np.ptp(values) == 0:
        return interval
    rng = numpy_stream(0, "statistics", "bootstrap")
    from scipy import stats  # slow to import, and asked for many replicates alone

    bounds = stats.bootstrap((values,), np.mean, confidence_level=level, method="BCa", rng=rng).confidence_interval
    return Interval(interval.mean, interval.sd, float(bounds.low), float(bounds.high), level, interval.n)


def _half_width(sd: float, n: int, level: float) -> float:
    return float(special.stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)


def replicates_needed(mean: float, sd: float, level: float, delta: float = DELTA) -> int | None:
    """Smallest n whose t interval with this mean and sd excludes ``delta`` on either side.

    None where no n up to 10,000 does (the mean is within about 0.02 sd of delta) or sd is unknown (nan).
    """
    distance = abs(mean - delta)
    sizes = range(2, LARGEST_SEARCH + 1)  # the half-width falls with n
    index = bisect.bisect_left(sizes, True, key=lambda n: _half_width(sd, n, level) < distance)
    return sizes[index] if index < len(sizes) else None


def unmet(n: int, donors: int, gates_passed: bool, rates_resolved: bool, decisive_scale: bool) -> Verdict | None:
    """*Undecided* with the first condition of every rule that failed: scale, gate, rate unresolved, n, donors."""
    conditions = {"scale": decisive_scale, "gate": gates_passed, "rate unresolved": rates_resolved}
    conditions |= {"n": n >= MINIMUM_REPLICATES, "donors": donors >= MINIMUM_REPLICATES}
    code = next((code for code, held in conditions.items() if not held), None)
    return None if code is None else Verdict("undecided", code, MINIMUM_REPLICATES if code == "n" else None)


def judge(
    interval: Interval,
    *,
    donors: int,
    single_checkpoint: bool = False,
    gates_passed: bool,
    rates_resolved: bool,
    second_best_gap: float | None,
    decisive_scale: bool,
    delta: float = DELTA,
) -> Verdict:
    """The rule for one primary contrast whose published direction is positive.

    Supported: lower bound > delta, at least 5 replicates over at least 5 donors (``single_checkpoint``: a statement
    for this checkpoint, any number of donors), gates passed, rates resolved, and the mean difference at the arms'
    second-best rates, ``second_best_gap``, positive too (None: not measured, so not supported). Refuted: upper bound
    < delta under the same conditions but the last, which the rule asks of *supported* alone. Everything else is
    undecided, and the code names the first condition that failed; ``needed`` is given where more replicates would
    decide, None where they would not or sd is unknown.
    """
    conditions = {"scale": decisive_scale, "gate": gates_passed, "rate unresolved": rates_resolved}
    for code, held in conditions.items():
        if not held:
            return Verdict("undecided", code)
    if interval.n < MINIMUM_REPLICATES:
        return Verdict("undecided", "n", _needed(interval, MINIMUM_REPLICATES, delta))
    if not single_checkpoint and donors < MINIMUM_REPLICATES:
        return Verdict("undecided", "donors")  # more replicates of the same donors would not decide
    if interval.high < delta:
        return Verdict("refuted")
    if interval.low <= delta:
        return Verdict("undecided", "straddles", _needed(interval, interval.n + 1, delta))
    if second_best_gap is None or second_best_gap <= 0:
        return Verdict("undecided", "sign at second-best rate")
    return Verdict("supported")


def _needed(interval: Interval, at_least: int, delta: float) -> int | None:
    needed = replicates_needed(interval.mean, interval.sd, interval.level, delta)
    return None if needed is None else max(needed, at_least)


def describe(interval: Interval, delta: float = DELTA) -> str:
    """One word for the headline of gap = control - donor: better, worse, equivalent (within ±delta) or undecided."""
    if interval.low > delta:
        return "better"
    if interval.high < -delta:
        return "worse"
    return "equivalent" if -delta < interval.low and interval.high < delta else "undecided"


@dataclass(frozen=True)
class Pair:
    """Two donors and their two contrasts ¼·gap ± (L_i - L_j), as 90 % intervals: one-sided 0.05 at each end."""

    donors: tuple[int, int]
    contrasts: tuple[Interval, Interval]

    @property
    def equivalent(self) -> bool:
        """Both contrasts exceed 0 at one-sided 0.05, so |L_i - L_j| is below a quarter of the gap to random."""
        return min(contrast.low for contrast in self.contrasts) > 0


@dataclass(frozen=True)
class Equivalence:
    """Every pair's tests, with the spread of the donors' mean losses beside their mean gap to random (nats)."""

    pairs: tuple[Pair, ...]
    std: float
    gap: float

    @property
    def all_equivalent(self) -> bool:
        """An intersection-union test: every pair passes at 0.05, so no correction is due (Berger 1982)."""
        return all(pair.equivalent for pair in self.pairs)

    @property
    def std_over_gap(self) -> float:
        """The published ratio: population sd of the donors' mean losses ÷ mean gap to random."""
        return self.std / self.gap


def interchangeable(donor_losses: PerDonor, random_losses: PerReplicate) -> Equivalence:
    """Equivalence tests of every pair of donors against a quarter of the gap to random.

    Row r of both holds the losses (nats) of replicate r. For donors i, j both linear contrasts
    ¼·(L_random - ½(L_i + L_j)) ± (L_i - L_j) must exceed 0 by a one-sided t test at 0.05 (two one-sided tests,
    Schuirmann 1987, with the margin inside the contrast so that no ratio is tested). Raises InputError below 2 donors.
    """
    if donor_losses.shape[1] < 2:
        raise InputError("expected the losses of at least 2 donors, found 1: a donor is compared with another")
    pairs = tuple(_pair(donor_losses, random_losses, i, j) for i, j in combinations(range(donor_losses.shape[1]), 2))
    means = donor_losses.mean(axis=0)
    return Equivalence(pairs, float(means.std()), float(random_losses.mean() - means.mean()))


def _pair(donor_losses: PerDonor, random_losses: PerReplicate, i: int, j: int) -> Pair:
    first, second = donor_losses[:, i], donor_losses[:, j]
    quarter = (random_losses - (first + second) / 2) / 4
    difference = first - second
    return Pair((i, j), (student_interval(quarter + difference, 0.90), student_interval(quarter - difference, 0.90)))


def judge_interchangeable(equivalence: Equivalence, gap: Verdict) -> Verdict:
    """Verdict on "the donors are interchangeable", asked only once the verdict on their gap to random is supported.

    Supported: every pair passes, over at least 5 replicates. Refuted, as elsewhere by a bound on the far side of the
    margin: some contrast lies below 0 at one-sided 0.05 after Bonferroni over all contrasts, since one of many is
    enough. A statement about these donors, so it needs no five of them. Without a supported gap: undecided, code
    ``gap``.
    """
    if gap.word != "supported":
        return Verdict("undecided", "gap")
    contrasts = list(chain.from_iterable(pair.contrasts for pair in equivalence.pairs))
    n, any_level = contrasts[0].n, 1 - 2 * 0.05 / len(contrasts)
    if n < MINIMUM_REPLICATES:
        return Verdict("undecided", "n", _needed_for_equivalence(contrasts, any_level, MINIMUM_REPLICATES))
    if equivalence.all_equivalent:
        return Verdict("supported")
    if any(contrast.mean + _half_width(contrast.sd, n, any_level) < 0 for contrast in contrasts):
        return Verdict("refuted")
    return Verdict("undecided", "straddles", _needed_for_equivalence(contrasts, any_level, n + 1))


def _needed_for_equivalence(contrasts: Sequence[Interval], any_level: float, at_least: int) -> int | None:
    """Replicates until all contrasts clear 0, or, where a mean is negative, until one is below 0 for certain."""
    negative = [contrast for contrast in contrasts if contrast.mean < 0]
    if negative:
        counts = [n for c in negative if (n := replicates_needed(c.mean, c.sd, any_level, 0.0)) is not None]
        return max(at_least, min(counts)) if counts else None
    needed = [replicates_needed(c.mean, c.sd, c.level, 0.0) for c in contrasts]
    return None if None in needed else max(at_least, *(n for n in needed if n is not None))


@dataclass(frozen=True)
class VarianceComponent:
    """Variance (nats²) between units, with its interval; the estimate is unbiased, so it may be below 0."""

    variance: float
    low: float
    high: float
    mean_square: float
    units: int
    streams: int


@dataclass(frozen=True)
class VarianceComponents:
    """Between donors beside between random draws. ``p_closer`` is small where donors are closer than draws are."""

    donors: VarianceComponent
    draws: VarianceComponent
    p_closer: float


def variance_component(losses: Crossed, level: float = 0.95) -> VarianceComponent:
    """ANOVA estimate of the variance between units (columns) that share initialisation and data order (rows).

    One common stream: the sample variance, with its χ² interval; it conditions on that stream. Several: the two-way
    random model without repetition, (MS_units - MS_residual) / streams, with the Williams-Tukey interval (Williams
    1962), of which the first is the case MS_residual = 0; bounds are clipped at 0. Raises InputError below 2 units.
    """
    streams, units = losses.shape
    if units < 2:
        raise InputError(f"expected the losses of at least 2 donors or draws, found {units}: run more")
    unit_means = losses.mean(axis=0)
    mean_square = streams * float(unit_means.var(ddof=1))
    residual = losses - unit_means - losses.mean(axis=1, keepdims=True) + losses.mean()
    error_df = (units - 1) * (streams - 1)
    error = float((residual**2).sum()) / error_df if error_df else 0.0
    low, high = (_williams_tukey(mean_square, error, units - 1, error_df, streams, p) for p in _tails(level))
    return VarianceComponent((mean_square - error) / streams, low, high, mean_square, units, streams)


def _tails(level: float) -> tuple[float, float]:
    return (1 + level) / 2, (1 - level) / 2


def _williams_tukey(mean_square: float, error: float, df: int, error_df: int, streams: int, p: float) -> float:
    excess = error * float(special.fdtri(df, error_df, p)) if error_df else 0.0
    return max(0.0, df * (mean_square - excess) / (streams * float(special.chdtri(df, 1 - p))))


def variance_share(losses: Crossed, level: float = 0.95) -> Interval:
    """The units' (columns') share of the variance of losses: units / (units + streams + residual).

    Two-way random model without repetition. Estimate: of the ANOVA components, negative ones as 0. Raises InputError
    below 2 units or streams.
    """
    streams, units = losses.shape
    between, common = variance_component(losses), variance_component(losses.T)
    residual = max(0.0, between.mean_square - streams * between.variance)
    squares = np.array([[between.mean_square], [common.mean_square], [residual]])
    low, high = share_bounds(squares, streams, units, level)[:, 0]
    share = float(_share(squares[:, :, None], streams, units)[0, 0])
    return Interval(share, math.nan, float(low), float(high), level, units)


def share_bounds(
    squares: Float[np.ndarray, "3 n"], streams: int, units: int, level: float = 0.95, draws: int = 20_000
) -> Float[np.ndarray, "2 n"]:
    """Generalised interval (Weerahandi 1993) of the units' share from the mean squares of units, streams and residual.

    Quantiles of the share with every mean square over a χ²/df of its own, so that all three components vary. The χ²
    come from one fixed stream. With few levels it still covers about its level (Ionan et al. 2014, BMC Med. Res.
    Methodol. 14:121), as effects are normal.
    """
    rng = numpy_stream(0, "statistics", "pivots")
    degrees = (units - 1, streams - 1, (units - 1) * (streams - 1))
    pivots = np.stack([rng.chisquare(df, draws) / df for df in degrees])
    found: Float[np.ndarray, "2 n"] = np.quantile(
        _share(squares[:, :, None] / pivots[:, None], streams, units), sorted(_tails(level)), axis=-1
    )
    return found


def _share(squares: Float[np.ndarray, "3 n draws"], streams: int, units: int) -> Float[np.ndarray, "n draws"]:
    of_units = np.maximum(0, squares[0] - squares[2]) / streams
    of_streams = np.maximum(0, squares[1] - squares[2]) / units
    found: Float[np.ndarray, "n draws"] = of_units / (of_units + of_streams + squares[2])
    return found


def variance_components(
    donor_losses: Float[np.ndarray, "streams donors"], draw_losses: Float[np.ndarray, "streams draws"]
) -> VarianceComponents:
    """The between-donor variance beside that between random draws, both run on the same common streams.

    ``p_closer`` is the one-sided F test on the ratio of the two mean squares, exact for normal losses when the
    residual variances agree (always so with one stream): convergence needs donors closer than draws are.
    """
    donors, draws = variance_component(donor_losses), variance_component(draw_losses)
    p_closer = float(special.fdtr(donors.units - 1, draws.units - 1, donors.mean_square / draws.mean_square))
    return VarianceComponents(donors, draws, p_closer)


@dataclass(frozen=True)
class Attribution:
    """donor - random in nats: coherence + the Shapley values, or coherence + all interactions, is the total.

    ``percentages`` of the total (keys: the factors and "coherence") only where its lower bound exceeds delta.
    """

    shapley: Mapping[str, Interval]
    coherence: Interval
    total: Interval
    interactions: Mapping[frozenset[str], Interval]
    percentages: Mapping[str, float] | None


def subsets(factors: frozenset[str]) -> list[frozenset[str]]:
    """All subsets, smallest first, in a fixed order."""
    ordered = sorted(factors)
    return [frozenset(c) for size in range(len(ordered) + 1) for c in combinations(ordered, size)]


def attribution(cells: Mapping[frozenset[str], PerReplicate], random: PerReplicate, level: float = 0.95) -> Attribution:
    """Attribute donor - random to what the donor keeps: layer identity, frame, internal sides.

    ``cells[S]`` is v = -loss per replicate of the arm that keeps the donor's factors S and destroys the others; all 2^m
    cells are needed, the full set being the donor. ``random`` is v of the random arm. Interactions are the Harsanyi
    dividends m(S) = Σ_{T ⊆ S} (-1)^|S - T| v(T) over non-empty S (of one factor: its effect alone), and the Shapley
    value of a factor is Σ_{S ∋ f} m(S) / |S| (Shapley 1953; Harsanyi 1959). Each is a linear contrast per replicate
    with its interval. Raises InputError where a cell is missing.
    """
    factors = frozenset(chain.from_iterable(cells))
    if missing := [sorted(s) for s in subsets(factors) if s not in cells]:
        raise InputError(f"expected all {2 ** len(factors)} cells of {sorted(factors)}, missing {missing}: run them")
    dividends = {s: _dividend(cells, s) for s in subsets(factors) if s}
    shapley = {f: np.sum([d / len(s) for s, d in dividends.items() if f in s], axis=0) for f in sorted(factors)}
    parts = {f: paired_interval(values, level) for f, values in shapley.items()}
    coherence = paired_interval(cells[frozenset()] - random, level)
    total = paired_interval(cells[factors] - random, level)
    interactions = {s: paired_interval(d, level) for s, d in dividends.items()}
    named = parts | {"coherence": coherence}
    shares = {name: 100 * part.mean / total.mean for name, part in named.items()} if total.low > DELTA else None
    return Attribution(parts, coherence, total, interactions, shares)


def _dividend(cells: Mapping[frozenset[str], PerReplicate], members: frozenset[str]) -> PerReplicate:
    return np.asarray(np.sum([(-1) ** len(members - kept) * cells[kept] for kept in subsets(members)], axis=0))
