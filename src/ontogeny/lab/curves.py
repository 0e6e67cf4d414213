"""Curves of a gap: its floor over training (E9), its form over sparsity (E2), its slope over width (E11, E22).

Pure functions of numbers. A gap is ``test loss(control) - test loss(donor)``, nats a token; row r of every array of
gaps is replicate r, whose arms share their streams at all points of the curve, so whole replicates are what varies.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
from jaxtyping import Float
from scipy import special

from ontogeny.errors import InputError
from ontogeny.lab.statistics import (
    DELTA,
    MINIMUM_REPLICATES,
    Interval,
    PerReplicate,
    Verdict,
    paired_interval,
    replicates_needed,
    student_interval,
    unmet,
)
from ontogeny.streams import numpy_stream

LEVEL = 0.95
WIDEST_UNDECIDED_SPAN = 16  # last horizon ÷ first: up to here a floor of 0.1 nats is found only half of the time
MISFIT = 0.01  # a curve whose residuals are this improbable does not describe the gaps, so its floor is no evidence
EXPONENTS = np.geomspace(0.1, 4, 100)  # t^-0.1 takes 10^7 times the steps to fall to a fifth: as good as a floor
RATES = np.geomspace(0.01, 20, 100)  # of a form over sparsity, times the range of its x: from flat to a step
WINS_BY = 6.0  # AICc
ENUMERATED = 7  # replicates: up to here all distinct resamples are used (1,716 of 7), beyond it 2,000 random ones
RESAMPLES = 2000

RULES = {
    "E9": "gap = floor + a·t^(−b), 0.1 ≤ b ≤ 4, least squares on replicate means over horizons that span more than "
    "16 ×; interval of the floor from resampled whole replicates, its percentiles widened for n as Student's t is; "
    "supported: lower 95 % bound > 0.02 nats, ≥ 5 replicates over ≥ 5 donors, gates passed, rates interior, residuals "
    "that fit (p ≥ 0.01); refuted: upper bound < 0.02, same conditions; else undecided",
    "E2": "a·exp(b·sparsity) against a·density^(−b), b ≥ 0, both fitted on the linear scale with weights 1/SE² to the "
    "replicate means; a winner has the smaller AICc by ≥ 6, residuals that fit (p ≥ 0.01) and, where the gap at a "
    "held-out sparsity is known, predicts it (95 % t interval); supported: the exponential wins and the gap at the "
    "largest sparsity has its lower 95 % bound > 0.02 nats, ≥ 5 replicates over ≥ 5 donors (or for one given "
    "checkpoint), gates passed, rates interior, the sign the same at second-best rates; refuted: the power law wins, "
    "or that gap's upper bound < 0.02, the first conditions the same; else undecided",
}

Gaps = Float[np.ndarray, "replicates points"]
Points = Float[np.ndarray, " points"]
PerResample = Float[np.ndarray, " resamples"]
FORMS: dict[str, Callable[[Points], Points]] = {"exponential": lambda d: 1 - d, "power": lambda d: -np.log(d)}


def aicc(deviance: float, parameters: int, points: int) -> float:
    """Deviance + 2k + 2k(k+1)/(n - k - 1), k parameters, n points (Hurvich & Tsai 1989); infinite below n = k + 2."""
    spare = points - parameters - 1
    return deviance + 2 * parameters + 2 * parameters * (parameters + 1) / spare if spare > 0 else math.inf


def _least_squares(
    x: Points, rows: Gaps, rates: Float[np.ndarray, " rates"], weights: Points, constant: bool
) -> Float[np.ndarray, "3 replicates"]:
    """Constant (0 unless asked for), amplitude and rate of ``constant + amplitude·exp(rate·x)`` for each of the rows.

    Variable projection (Golub & Pereyra 1973): constant and amplitude are linear and drop out, so one searches the
    rate alone: the best of a geometric grid, then steps to the vertex of a parabola through three ever closer rates.
    """
    root, logs = np.sqrt(weights), np.log(rates)
    target, grid = _project(rows, root, constant), _project(np.exp(np.multiply.outer(rates, x)), root, constant)
    best = logs[np.argmax((target @ grid.T) ** 2 / np.vecdot(grid, grid), axis=1)]
    for step in (logs[1] - logs[0]) / 16.0 ** np.arange(3):
        near = np.exp(best + step * np.array([[-1], [0], [1]]))
        basis = _project(np.exp(near[..., None] * x), root, constant)
        left, middle, right = np.vecdot(target, basis) ** 2 / np.vecdot(basis, basis)
        bend = left - 2 * middle + right
        vertex = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend < 0)
        best = np.clip(best + step * np.clip(vertex, -1, 1), logs[0], logs[-1])
    curve = np.exp(np.exp(best)[:, None] * x)
    basis = _project(curve, root, constant)
    amplitude = np.vecdot(target, basis) / np.vecdot(basis, basis)
    rest = (rows - amplitude[:, None] * curve) @ weights / weights.sum()
    return np.stack([rest * constant, amplitude, np.exp(best)])


def _project(values: np.ndarray, root: Points, constant: bool) -> np.ndarray:
    """Weighted, and free of what a constant explains where there is one."""
    scaled = root * values
    return np.asarray(scaled - (scaled @ root / (root @ root))[..., None] * root if constant else scaled)


def _checked(values: Sequence[float] | Sequence[int], gaps: Gaps, least: int, name: str) -> Points:
    points = np.asarray(values, dtype=float)
    if points.size < least or np.unique(points).size < points.size or not (points > 0).all():
        raise InputError(f"expected at least {least} different positive {name}, found {list(values)}: measure more")
    if gaps.shape[1] != points.size or not len(gaps) or not np.isfinite(gaps).all():
        raise InputError(
            f"expected a finite gap for every replicate at each of {points.size} {name}, found {gaps.tolist()}: leave "
            "out replicates with a failed run"
        )
    return points


@dataclass(frozen=True)
class Curve:
    """``constant + amplitude·exp(rate·x)`` in nats; ``squares``: the weighted sum of squared residuals."""

    constant: float
    amplitude: float
    rate: float
    squares: float
    aicc: float


@dataclass(frozen=True)
class FloorFit:
    """Curves in x = -ln(t / first horizon), so ``constant`` is the floor and ``rate`` the exponent; floor's interval.

    ``span``: last ÷ first horizon. ``misfit``: p of an F test of the residuals against the replicates' scatter, nan
    where there is neither.
    """

    with_floor: Curve
    without_floor: Curve
    interval: Interval
    span: float
    misfit: float


def fit_floor(horizons: Sequence[int], gaps: Gaps) -> FloorFit:
    """The floor of a gap over training: ``c + a·t^(-b)`` and ``a·t^(-b)`` by least squares on replicate means.

    ``horizons`` are steps, at least 3; a and c have any sign. The interval of c refits resampled whole replicates,
    which needs no model of how a replicate's points hang together and keeps the skewness of c. A plain percentile
    interval is too short at n 5, so its tails are widened to Φ(-√(n/(n-1))·t), Student's t at n - 1 (Hesterberg 2015,
    "What teachers should know about the bootstrap"), and interpolated towards the extremes. Below 5 replicates
    resamples don't reach far enough: the bounds are infinite. ``interval.sd`` is √(n²/(n-1)) times the bootstrap's
    standard error, which of a mean is the sample's. Raises InputError.

    Measured at a floor of δ, n 5, 7 horizons over 64 ×, points independent or correlated, exponents 0.2 to 1.5: each
    end is wrong in 2-5 % of draws, and in up to 6.5 % where the decay is no larger than twice the noise (percentiles
    up to 15 %, t with the bootstrap's or the jackknife's standard error up to 8 and 21 %). A decay as slow as t^-0.12
    and as small as the noise is taken for a floor in 10 %.
    """
    steps = _checked(horizons, gaps, 3, "horizons")
    x, means, even = -np.log(steps / steps.min()), gaps.mean(axis=0), np.ones_like(steps)
    shares, chances = _resamples(len(gaps))
    bare = _least_squares(x, means[None], EXPONENTS, even, constant=False)
    free = _least_squares(x, np.vstack([means, shares @ gaps]), EXPONENTS, even, constant=True)
    with_floor, without_floor = _power_law(x, means, free[:, 0], 4), _power_law(x, means, bare[:, 0], 3)
    interval = _widened(with_floor.constant, free[0, 1:], chances, len(gaps))
    span = float(steps.max() / steps.min())
    return FloorFit(with_floor, without_floor, interval, span, _misfit(x, gaps, with_floor))


def _power_law(x: Points, means: Points, fitted: Float[np.ndarray, " 3"], parameters: int) -> Curve:
    """Fitted without weights, so the error's variance is the last parameter counted."""
    constant, amplitude, exponent = map(float, fitted)
    squares = float(((means - constant - amplitude * np.exp(exponent * x)) ** 2).sum())
    deviance = x.size * math.log(max(squares / x.size, np.finfo(float).tiny))
    return Curve(constant, amplitude, exponent, squares, aicc(deviance, parameters, x.size))


def _widened(floor: float, floors: PerResample, chances: PerResample, n: int) -> Interval:
    """Interval of the floor from those of the resamples and their probabilities."""
    if n == 1:
        return Interval(floor, math.nan, -math.inf, math.inf, LEVEL, n)
    sd = math.sqrt(np.cov(floors, aweights=chances, ddof=0) * n**2 / (n - 1))
    if n < MINIMUM_REPLICATES:
        return Interval(floor, sd, -math.inf, math.inf, LEVEL, n)
    tail = float(special.ndtr(-math.sqrt(n / (n - 1)) * special.stdtrit(n - 1, (1 + LEVEL) / 2)))
    return Interval(floor, sd, _percentile(floors, chances, tail), -_percentile(-floors, chances, tail), LEVEL, n)


@lru_cache
def _resamples(n: int) -> tuple[Float[np.ndarray, "resamples replicates"], PerResample]:
    """Shares of n replicates in resamples with replacement, and the resamples' probabilities."""
    if n > ENUMERATED:
        counts = numpy_stream(0, "curves", "bootstrap").multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        return counts / n, np.full(RESAMPLES, 1 / RESAMPLES)
    counts = np.array([np.bincount(drawn, minlength=n) for drawn in combinations_with_replacement(range(n), n)])
    return counts / n, math.factorial(n) / special.factorial(counts).prod(axis=1) / n**n


def _percentile(values: PerResample, chances: PerResample, tail: float) -> float:
    order = np.argsort(values)
    return float(np.interp(tail, np.cumsum(chances[order]), values[order]))


def _tangent(rate: float, x: Points) -> Float[np.ndarray, "points 2"]:
    """How a curve moves with its amplitude and its rate, up to a factor."""
    return np.stack([np.exp(rate * x), x * np.exp(rate * x)], axis=1)


def _misfit(x: Points, gaps: Gaps, fit: Curve) -> float:
    absorbed = np.linalg.qr(np.column_stack([np.ones_like(x), _tangent(fit.rate, x)]))[0]
    scatter = gaps - gaps.mean(axis=0)
    scatter -= scatter @ absorbed @ absorbed.T
    spare, replicates, squares = x.size - 3, len(gaps), float((scatter**2).sum())
    if not spare or not squares:
        return math.nan
    ratio = replicates * fit.squares * (replicates - 1) / squares
    return float(special.fdtrc(spare, spare * (replicates - 1), ratio))


def judge_floor(
    fit: FloorFit, *, donors: int, gates_passed: bool, rates_resolved: bool, decisive_scale: bool
) -> Verdict:
    """The rule for "the gap never closes", ``RULES["E9"]``.

    Undecided codes, of which the first that holds is given: scale, gate, rate unresolved, n, donors, span (at most
    16 ×), misfit, straddles.
    """
    if undecided := unmet(fit.interval.n, donors, gates_passed, rates_resolved, decisive_scale):
        return undecided
    if fit.span <= WIDEST_UNDECIDED_SPAN:
        return Verdict("undecided", "span")
    if fit.misfit < MISFIT:
        return Verdict("undecided", "misfit")
    if fit.interval.high < DELTA:
        return Verdict("refuted")
    return Verdict("supported") if fit.interval.low > DELTA else _straddles(fit.interval)


def _straddles(interval: Interval) -> Verdict:
    needed = replicates_needed(interval.mean, interval.sd, interval.level)
    return Verdict("undecided", "straddles", None if needed is None else max(needed, interval.n + 1))


@dataclass(frozen=True)
class ValueCurve:
    """Both ``FORMS``, exponential in x = 1 - d and power in x = -ln d; their ``squares`` are χ².

    ``winner``: the one whose AICc is smaller by at least 6, if any, and if it rises. ``held_out``: interval of the
    measured minus the winner's predicted gap. ``largest``: of the gap at the largest sparsity measured.
    ``misfit``: p of an F test of the better form's residuals against the replicates' scatter.
    """

    forms: Mapping[str, Curve]
    winner: str | None
    held_out: Interval | None
    largest: Interval
    misfit: float

    @property
    def akaike_weight(self) -> float:
        """Of the exponential; the power law's is the rest."""
        return float(special.expit((self.forms["power"].aicc - self.forms["exponential"].aicc) / 2))


def fit_value_curve(
    densities: Sequence[float], gaps: Gaps, held_out: tuple[float, PerReplicate] | None = None
) -> ValueCurve:
    """Gap against density kept d, or sparsity s = 1 - d: ``a·exp(b·s)`` and ``a·d^(-b)``, b ≥ 0.

    Least squares on the linear scale with weights 1/SE² to the replicate means. The weights make the error's variance
    known, so each form has k = 2 and AICc = χ² + 2k + 2k(k+1)/(n - k - 1) exists from 4 densities; in the difference
    it cancels, which leaves χ². SE from 5 replicates makes χ² heavy-tailed: under either form the other wins by 6 in
    at most 4 % of planted draws. ``held_out`` is a density outside the fit with its gaps by replicate. Raises
    InputError below 4 densities in (0, 1), below 2 replicates and where all replicates agree at a density (no SE).
    """
    kept, n = _checked(densities, gaps, 4, "densities"), len(gaps)
    errors = gaps.std(axis=0) / math.sqrt(max(n - 1, 1))
    if max(*densities, held_out[0] if held_out else 0) >= 1 or not errors.all():
        raise InputError(
            f"expected densities below 1, at least 2 replicates and some that differ at each, found {kept.tolist()} "
            f"with standard errors {errors.tolist()}: run more replicates, each on its own streams"
        )
    forms = {name: _form(axis(kept), gaps, errors) for name, axis in FORMS.items()}
    best, other = sorted(forms, key=lambda name: forms[name].aicc)
    wins = forms[other].aicc - forms[best].aicc >= WINS_BY and forms[best].amplitude > 0
    largest, outside = gaps[:, kept.argmin()], None
    if held_out:
        every = _checked([*densities, held_out[0]], np.column_stack([gaps, held_out[1]]), 5, "densities")
        largest = held_out[1] if every.argmin() == kept.size else largest
        *_, at = FORMS[best](every)
        outside = _held_out(forms[best], FORMS[best](kept), gaps, errors, at, held_out[1]) if wins else None
    spare = kept.size - 2
    misfit = float(special.fdtrc(spare, n - 1, forms[best].squares / spare))
    return ValueCurve(forms, best if wins else None, outside, student_interval(largest), misfit)


def _form(x: Points, gaps: Gaps, errors: Points) -> Curve:
    means = gaps.mean(axis=0)
    _, amplitude, rate = _least_squares(x, means[None], RATES / np.ptp(x), errors**-2, constant=False)[:, 0]
    chi_square = float((((means - amplitude * np.exp(rate * x)) / errors) ** 2).sum())
    return Curve(0.0, float(amplitude), float(rate), chi_square, aicc(chi_square, 2, x.size))


def _held_out(fit: Curve, x: Points, gaps: Gaps, errors: Points, at: float, measured: PerReplicate) -> Interval:
    """The prediction moves with each replicate (linearised), so that Student's t knows of the pairing."""
    influence = _tangent(fit.rate, np.array([at])) @ np.linalg.pinv(_tangent(fit.rate, x) / errors[:, None]) / errors
    predicted = fit.amplitude * math.exp(fit.rate * at) + (gaps - gaps.mean(axis=0)) @ influence[0]
    return student_interval(measured - predicted)


def judge_value_curve(
    curve: ValueCurve, *, donors: int, gates_passed: bool, rates_resolved: bool, decisive_scale: bool
) -> Verdict:
    """The rule for "the value of the pattern grows exponentially with sparsity", ``RULES["E2"]``.

    Undecided codes, of which the first that holds is given: scale, gate, rate unresolved, n, donors, no winner, misfit,
    out of sample, straddles.
    """
    if undecided := unmet(curve.largest.n, donors, gates_passed, rates_resolved, decisive_scale):
        return undecided
    if curve.largest.high < DELTA:
        return Verdict("refuted")  # nothing grows
    if curve.winner is None:
        return Verdict("undecided", "no winner")
    if curve.misfit < MISFIT:
        return Verdict("undecided", "misfit")
    if curve.held_out and not curve.held_out.low <= 0 <= curve.held_out.high:
        return Verdict("undecided", "out of sample")
    if curve.winner == "power":
        return Verdict("refuted")
    return Verdict("supported") if curve.largest.low > DELTA else _straddles(curve.largest)


def trend(widths: Sequence[int], gaps: Gaps) -> Interval:
    """Slope of the gap on log2(width), nats a doubling, fitted in each replicate; interval over replicates.

    Above 0: the effect grows with dimension. Raises InputError below 2 different widths.
    """
    x = np.log2(_checked(widths, gaps, 2, "widths"))
    x -= x.mean()
    return paired_interval(gaps @ x / (x @ x))
