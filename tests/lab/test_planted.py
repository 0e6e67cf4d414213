"""The judge is tested on planted data: 2,000 draws of known effects, n 5 unless said, and how often each word falls.

False words are allowed in 6.2 % of draws: the 5 % the rule promises and 2.5 standard errors of 2,000 draws.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from scipy import stats

from ontogeny.lab.statistics import (
    DELTA,
    Verdict,
    describe,
    interchangeable,
    judge,
    judge_interchangeable,
    paired_interval,
    simultaneous_level,
)
from ontogeny.streams import numpy_stream

DRAWS, REPLICATES, ALLOWED = 2000, 5, 0.062
# (effect in delta, effect in sd, sd in delta): around delta only the ratio to sd matters, so one sd stands for all
EFFECTS = [(-1, -2.0, 1.0), (-1, -2.0, 4.0), (0, 0.0, 0.25), (0, 0.0, 1.0), (0, 0.0, 4.0)]
EFFECTS += [(1, 0.0, 1.0), (1, 1.7, 1.0), (1, 4.0, 1.0)]


def rates(words: Iterable[str]) -> dict[str, float]:
    counts = Counter(words)
    return {word: counts[word] / DRAWS for word in ("supported", "refuted", "undecided")}


def planted(effect: float, sd: float, *path: str, contrasts: int = 1) -> np.ndarray:
    """Paired differences (DRAWS, contrasts, REPLICATES), normal around ``effect``."""
    rng = numpy_stream(0, "test", "planted", *path)
    return effect + sd * rng.standard_normal((DRAWS, contrasts, REPLICATES))


def word(differences: np.ndarray, level: float = 0.95) -> str:
    """The verdict with every condition but the interval's met."""
    interval = paired_interval(differences, level)
    return judge(
        interval, donors=5, gates_passed=True, rates_resolved=True, second_best_gap=1.0, decisive_scale=True
    ).word


@pytest.mark.parametrize(("deltas", "sds", "scale"), EFFECTS)
def test_false_verdicts_are_rare(deltas: int, sds: float, scale: float) -> None:
    sd = scale * DELTA
    effect = deltas * DELTA + sds * sd
    found = rates(word(draw[0]) for draw in planted(effect, sd, str(deltas), str(sds), str(scale)))
    if effect <= DELTA:
        assert found["supported"] <= ALLOWED
    if effect >= DELTA:
        assert found["refuted"] <= ALLOWED
    if sds > 0:
        assert found["supported"] >= 0.80
    if sds < 0:
        assert found["refuted"] >= 0.80
    if effect == 0:  # the distance is delta itself: 1.00, 0.40, 0.064 are refuted where sd is ¼, 1, 4 delta
        power = stats.nct.sf(stats.t.ppf(0.975, 4), 4, REPLICATES**0.5 / scale)
        assert found["refuted"] == pytest.approx(power, abs=0.03)


def test_power_in_closed_form() -> None:
    """One contrast, n 5, effect δ + 1.7 sd: 0.808 by the noncentral t; with six contrasts it is 0.36."""
    shift = 1.7 * REPLICATES**0.5
    assert stats.nct.sf(stats.t.ppf(0.975, 4), 4, shift) == pytest.approx(0.808, abs=1e-3)
    assert stats.nct.sf(stats.t.ppf((1 + simultaneous_level(6)) / 2, 4), 4, shift) == pytest.approx(0.363, abs=1e-3)


def test_six_contrasts_together_are_rarely_false() -> None:
    """Any of six at the simultaneous level, independent and at delta, which is the worst case for the bound."""
    level = simultaneous_level(6)
    draws = planted(DELTA, DELTA, "family", contrasts=6)
    score = (draws.mean(axis=2) - DELTA) / draws.std(axis=2, ddof=1)  # any is supported only where the largest is
    best, worst = (draws[np.arange(DRAWS), index] for index in (score.argmax(axis=1), score.argmin(axis=1)))
    assert rates(word(contrast, level) for contrast in best)["supported"] <= ALLOWED
    assert rates(word(contrast, level) for contrast in worst)["refuted"] <= ALLOWED


@pytest.mark.parametrize("effect", [DELTA, -DELTA])
def test_the_headline_is_rarely_false_at_the_margin(effect: float) -> None:
    draws = planted(effect, 0.25 * DELTA, "headline", str(effect))
    words = Counter(describe(paired_interval(draw[0])) for draw in draws)
    assert (words["better"] + words["worse"]) / DRAWS <= ALLOWED
    assert words["equivalent"] / DRAWS <= ALLOWED


def test_the_headline_finds_equivalence_at_zero() -> None:
    words = Counter(describe(paired_interval(draw[0])) for draw in planted(0.0, 0.25 * DELTA, "headline", "zero"))
    assert words["equivalent"] / DRAWS >= 0.80
    assert (words["better"] + words["worse"]) / DRAWS <= ALLOWED


def equivalence_rates(offset: float, sd: float, donors: int) -> dict[str, float]:
    """Verdicts on ``donors`` donors, one ``offset`` above the others; gap to random 0.34 nats, as published."""
    rng = numpy_stream(0, "test", "planted", "equivalence", str(offset), str(sd), donors)
    losses = 7.35 + sd * rng.standard_normal((DRAWS, REPLICATES, donors))
    losses[:, :, 0] += offset
    random = 7.35 + offset / 2 + 0.34 + sd * rng.standard_normal((DRAWS, REPLICATES))  # 0.34 from the pair's mean
    pairs = zip(losses, random, strict=True)
    return rates(judge_interchangeable(interchangeable(a, b), Verdict("supported")).word for a, b in pairs)


@pytest.mark.parametrize(("sd", "donors"), [(0.02, 2), (0.02, 3)])
def test_donors_at_the_margin_are_rarely_called_either(sd: float, donors: int) -> None:
    found = equivalence_rates(0.34 / 4, sd, donors)
    assert found["supported"] <= ALLOWED
    assert found["refuted"] <= ALLOWED


def test_equal_donors_are_called_interchangeable() -> None:
    found = equivalence_rates(0.0, 0.02, 3)
    assert found["supported"] >= 0.80
    assert found["refuted"] <= ALLOWED


def test_donors_far_apart_are_refuted() -> None:
    found = equivalence_rates(0.34 / 2, 0.02, 2)
    assert found["refuted"] >= 0.80
    assert found["supported"] <= ALLOWED
