"""The judge is tested on planted data: 2,000 draws of known effects, n 5 unless said, and how often each word falls.

False words are allowed in 6.2 % of draws: the 5 % the rule promises and 2.5 standard errors of 2,000 draws.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

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
SDS = [0.25 * DELTA, DELTA, 4 * DELTA]
EFFECTS = {"-δ-2sd": (-1, -2.0), "0": (0, 0.0), "δ": (1, 0.0), "δ+1.7sd": (1, 1.7), "δ+4sd": (1, 4.0)}


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


@pytest.mark.parametrize("sd", SDS)
@pytest.mark.parametrize("name", EFFECTS)
def test_false_verdicts_are_rare(name: str, sd: float) -> None:
    deltas, sds = EFFECTS[name]
    effect = deltas * DELTA + sds * sd
    found = rates(word(draw[0]) for draw in planted(effect, sd, name, str(sd)))
    if effect <= DELTA:
        assert found["supported"] <= ALLOWED
    if effect >= DELTA:
        assert found["refuted"] <= ALLOWED
    if name in ("δ+1.7sd", "δ+4sd"):
        assert found["supported"] >= 0.80
    if name == "-δ-2sd":
        assert found["refuted"] >= 0.80


@pytest.mark.parametrize(("sd", "least"), [(0.25 * DELTA, 0.99), (DELTA, 0.37), (4 * DELTA, 0.0)])
def test_no_effect_is_refuted_only_where_sd_is_small(sd: float, least: float) -> None:
    """At effect 0 the distance to delta is delta itself: five replicates refute nothing whose sd is delta or more."""
    found = rates(word(draw[0]) for draw in planted(0.0, sd, "null", str(sd)))
    assert found["refuted"] >= least
    assert found["refuted"] + found["undecided"] >= 1 - ALLOWED


@pytest.mark.parametrize("effect", [0.0, DELTA])
def test_six_contrasts_together_are_rarely_false(effect: float) -> None:
    """Any of six at the simultaneous level, independent, which is the worst case for the bound."""
    level = simultaneous_level(6)
    draws = planted(effect, DELTA, "family", contrasts=6)
    words = [{word(contrast, level) for contrast in draw} for draw in draws]
    assert np.mean(["supported" in found for found in words]) <= ALLOWED
    if effect == DELTA:
        assert np.mean(["refuted" in found for found in words]) <= ALLOWED


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


@pytest.mark.parametrize(("sd", "donors"), [(0.02, 2), (0.02, 4), (0.1, 2)])
def test_donors_at_the_margin_are_rarely_called_either(sd: float, donors: int) -> None:
    found = equivalence_rates(0.34 / 4, sd, donors)
    assert found["supported"] <= ALLOWED
    assert found["refuted"] <= ALLOWED


def test_equal_donors_are_called_interchangeable() -> None:
    found = equivalence_rates(0.0, 0.02, 4)
    assert found["supported"] >= 0.80
    assert found["refuted"] <= ALLOWED


def test_donors_far_apart_are_refuted() -> None:
    found = equivalence_rates(0.34 / 2, 0.02, 4)
    assert found["refuted"] >= 0.80
    assert found["supported"] <= ALLOWED
