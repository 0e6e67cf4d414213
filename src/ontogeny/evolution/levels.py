"""Memories of different update rates in a world of planted time scales: how many of them pay, and what each encodes.

A level is a moving average that goes a share, its rate, towards what it sees at every step (Smith, Ghazizadeh &
Shadmehr 2006; Körding, Tenenbaum & Shadmehr 2007).
"""

from collections.abc import Callable
from functools import partial
from itertools import combinations, product

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg, signal, special

from ontogeny.streams import numpy_stream

Scales = Float[np.ndarray, " processes"]
Series = Float[np.ndarray, "episodes steps"]
Moments = Float[np.ndarray, "episodes series series"]
Held = Float[np.ndarray, "levels episodes steps"]
Chosen = Int[np.ndarray, " levels"]

OCTAVES = np.concatenate([np.arange(0.25, 3, 1 / 16), np.arange(3, 6, 1 / 8), np.arange(6, 11.1, 1 / 4)])
RATES = 2.0**-OCTAVES  # shares a step, 0.84 to 1/2048, finer where more data tell them apart: what a level chooses from
COARSE = np.searchsorted(OCTAVES, np.arange(0.5, 11.1, 0.5))  # every half octave, of which all combinations are tried
OCTAVE = COARSE[1::2]  # every octave: what levels of one rate choose from
FASTEST = 4.0  # steps: correlation time of the fastest process, but for the replicate's jitter
HORIZONS = (1, 4, 16, 64, 256, 1024)  # steps ahead that are foretold, whatever is planted
EPISODES = 32  # that rates and weights are learnt on, and as many others that they are tested on
FEWER = EPISODES // 4  # of them, to see whether more data show more levels
UNSCORED = 0.25  # of an episode: averages start at 0
ONE_SIDED = 0.95


def time_scales(count: int, separation: float, seed: int) -> Scales:
    """Planted correlation times in steps, slowest first: each ``separation`` times the next, but for a jitter."""
    jitter = numpy_stream(seed, "time scales").uniform(-0.25, 0.25, 16)[:count]
    return np.asarray(FASTEST * separation ** (np.arange(count) + jitter))[::-1]


def world(
    scales: Scales, noise: float, episodes: int, steps: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "processes episodes steps"], Series]:
    """Stationary AR(1) processes of these correlation times, variance 1 each; and their sum with noise."""
    seen = noise**0.5 * rng.normal(size=(episodes, steps))
    processes = rng.normal(size=(len(scales), episodes, steps))
    for process, keep in zip(processes, np.exp(-1 / scales), strict=True):
        process[:, 1:] *= (1 - keep**2) ** 0.5
        process[:] = signal.lfilter([1.0], [1.0, -keep], process, axis=-1)
    return processes, processes.sum(0) + seen


def optimum(scales: Scales, noise: float) -> tuple[float, Float[np.ndarray, " processes"]]:
    """The least mean squared error over ``HORIZONS``, and the update rates that reach it, slowest first.

    The steady-state Kalman filter's errors and 1 − its poles. A spectrum that is a sum of Lorentzians has one zero
    between any two of its poles: the rate of a level lies between its process's 1/time scale and the next one's.
    """
    keep, ones = np.exp(-1 / scales), np.ones((len(scales), 1))
    covariance = linalg.solve_discrete_are(np.diag(keep), ones, np.diag(1 - keep**2), np.array([[noise]]))
    gain = covariance.sum(1) / (covariance.sum() + noise)
    poles = np.linalg.eigvals(np.diag(keep) - np.outer(keep * gain, ones))
    errors = []
    for horizon in HORIZONS:
        ahead = keep ** (horizon - 1)
        errors.append(ahead @ covariance @ ahead + (1 - ahead**2).sum() + noise)
    return float(np.mean(errors)), np.sort(1 - poles.real)


def average(series: Series, rate: float) -> Series:
    """What a level of this rate holds before each step: a moving average of the steps before."""
    return np.asarray(signal.lfilter([0.0, rate], [1.0, rate - 1], series, axis=-1))


def moments(series: Series, hold: Callable[[Series], Held]) -> Moments:
    """Every episode's second moments of what is to be foretold, one series a horizon, and then of what levels hold.

    ``hold``: what levels hold of an episode; one at a time, so that they stay in the cache.
    """
    steps, found = series.shape[1], []
    first, last = int(UNSCORED * steps), steps - max(HORIZONS) + 1
    for episode in series:
        ahead = [episode[first + h - 1 : last + h - 1] for h in HORIZONS]
        every = np.concatenate([np.stack(ahead), hold(episode[None])[:, 0, first:last]])
        found.append(every @ every.T / (last - first))
    return np.stack(found)


def side_by_side(series: Series, rates: Float[np.ndarray, " rates"]) -> Moments:
    """Moments of levels of these rates that all see the series."""
    return moments(series, lambda episode: np.stack([average(episode, rate) for rate in rates.tolist()]))


def weigh(mean: Float[np.ndarray, "series series"], sets: Int[np.ndarray, "sets levels"]) -> tuple[np.ndarray, ...]:
    """The least error over horizons that each set of levels allows (sets), and weights (sets, levels, horizons)."""
    ends = np.arange(len(HORIZONS))
    rows = sets + len(HORIZONS)
    gram = mean[rows[:, :, None], rows[:, None, :]] + 1e-12 * np.eye(sets.shape[1])
    cross = mean[rows[:, :, None], ends]
    weights = np.linalg.solve(gram, cross)
    return mean[ends, ends].mean() - (weights * cross).sum((1, 2)) / len(ends), weights


def choose(mean: Float[np.ndarray, "series series"], levels: int) -> Chosen:
    """The rates of least error for this number of levels, as places in ``RATES``, slowest first.

    The best of all combinations of coarse rates; then all rates move by a step of the grid or stay, whichever
    combination is best, until none is better.
    """
    coarse = np.array(list(combinations(COARSE, levels)), dtype=int)
    best = coarse[weigh(mean, coarse)[0].argmin()]
    moves = np.array(list(product((0, -1, 1), repeat=levels)), dtype=int)
    while True:
        sets = best + moves
        sets = sets[((sets >= 0) & (sets < len(RATES))).all(1) & (np.diff(sets, axis=1) > 0).all(1)]
        losses = weigh(mean, sets)[0]
        if losses.min() >= losses[0] - 1e-12:
            return np.asarray(best[::-1])
        best = sets[losses.argmin()]


def out_of_sample(learnt: Moments, tested: Moments, chosen: Chosen) -> Float[np.ndarray, " episodes"]:
    """Each tested episode's mean squared error at the weights that the learnt ones give."""
    _, weights = weigh(learnt.mean(0), chosen[None])
    ends = len(HORIZONS)
    whole = np.concatenate([np.eye(ends), -weights[0]])
    rows = np.concatenate([np.arange(ends), chosen + ends])
    return np.asarray(np.einsum("ih,eij,jh->eh", whole, tested[:, rows[:, None], rows], whole, optimize=True).mean(1))


def by_levels(
    learnt: Moments, tested: Moments, most: int
) -> tuple[Float[np.ndarray, "sets episodes"], list[np.ndarray]]:
    """Losses out of sample with no level, with the best one, and so on; and which those are."""
    sets = [choose(learnt.mean(0), levels) for levels in range(most + 1)]
    return np.stack([out_of_sample(learnt, tested, chosen) for chosen in sets]), sets


def count_levels(losses: Float[np.ndarray, "levels episodes"]) -> int:
    """The fewest levels, from none on, of which one more doesn't lower the loss: paired t over episodes, at 5 %."""
    gains = losses[:-1] - losses[1:]
    episodes = gains.shape[1]
    bound = float(special.stdtrit(episodes - 1, ONE_SIDED))
    helps = gains.mean(1) > bound * gains.std(1, ddof=1) / episodes**0.5
    return len(gains) if helps.all() else int(helps.argmin())


def nested(series: Series, rates: Float[np.ndarray, " levels"]) -> Held:
    """What levels hold of which each learns what the slower ones leave, slowest first.

    Their sums reach the same predictions as the same rates side by side.
    """
    held, rest = [], series
    for rate in rates:
        held.append(average(rest, float(rate)))
        rest = rest - held[-1]
    return np.stack(held)


def encoded(processes: Float[np.ndarray, "processes episodes steps"], held: Held) -> Int[np.ndarray, " levels"]:
    """The process that each level's state correlates with most, in absolute value."""
    first = int(UNSCORED * held.shape[2])
    states, causes = (part[:, :, first:].reshape(len(part), -1) for part in (held, processes))
    return np.asarray(np.abs(np.corrcoef(states, causes)[: len(held), len(held) :]).argmax(1))


def equal_rates(learnt: Series, tested: Series, levels: int) -> float:
    """The loss out of sample of as many nested levels of one rate, the best on what is learnt."""
    found, every = [], np.arange(levels)
    for rate in RATES[OCTAVE]:
        hold = partial(nested, rates=np.full(levels, rate))
        own, other = (moments(series, hold) for series in (learnt, tested))
        found.append((float(weigh(own.mean(0), every[None])[0][0]), float(out_of_sample(own, other, every).mean())))
    return min(found)[1]


def recover(
    count: int, separation: float, noise: float, steps: int, levels: int, seed: int
) -> dict[str, float | list[float]]:
    """Whether the number of planted time scales is recovered, and what each of as many levels encodes.

    ``levels``: the fewest that are enough out of sample, ``of fewer`` where episodes are fewer; ``exact`` where they
    are as many as time scales; ``losses`` by number of levels from none on. With one level a time scale: ``least``,
    their loss in closed form; ``slower``, the share of levels whose process varies more slowly than they update, and
    what it is ``by chance``, of any process; ``lacking``, what as many levels of one rate lack, as a share of what
    levels of different rates gain over one level.
    """
    scales = time_scales(count, separation, seed)
    _, learnt = world(scales, noise, EPISODES, steps, numpy_stream(seed, "world", "learnt"))
    processes, tested = world(scales, noise, EPISODES, steps, numpy_stream(seed, "world", "tested"))
    own, other = (side_by_side(series, RATES) for series in (learnt, tested))

    fewer, _ = by_levels(own[:FEWER], other[:FEWER], levels)
    losses, sets = by_levels(own, other, levels)
    means, found = losses.mean(1), count_levels(losses)
    measured: dict[str, float | list[float]] = {
        "levels": float(found),
        "of fewer": float(count_levels(fewer)),
        "exact": float(found == count),
        "losses": means.tolist(),
    }
    if not count:
        return measured
    rates = RATES[sets[count]]
    slower = scales[:, None] * rates > 1  # (processes, levels)
    gain = float(means[1] - means[count])
    lacking = (equal_rates(learnt, tested, count) - float(means[count])) / gain if gain > 0 else 0.0
    return measured | {
        "least": optimum(scales, noise)[0],
        "slower": float(slower[encoded(processes, nested(tested, rates)), np.arange(count)].mean()),
        "by chance": float(slower.mean()),
        "lacking": lacking,
    }
