"""The judges of curves are tested on planted data: 2,000 draws of known floors and forms, n 5.

False words are allowed in 6.2 % of draws: the 5 % the rule promises and 2.5 standard errors of 2,000 draws.
"""

import numpy as np
import pytest
from test_planted import ALLOWED, DRAWS, REPLICATES, rates

from ontogeny.lab.curves import fit_floor, fit_value_curve, judge_floor, judge_value_curve
from ontogeny.lab.statistics import DELTA
from ontogeny.streams import numpy_stream

HORIZONS = [100 * 2**j for j in range(7)]
DENSITIES, HELD_OUT = [0.5, 0.25, 0.1, 0.05], 0.02
SD = 0.012  # nats, of one replicate's gap


def planted(curve: np.ndarray, correlation: float, *path: str | float) -> np.ndarray:
    """Gaps (DRAWS, REPLICATES, points) around ``curve``; a replicate's points share a part of their noise."""
    rng = numpy_stream(0, "test", "planted curves", *map(str, path))
    own = rng.standard_normal((DRAWS, REPLICATES, curve.size))
    shared = rng.standard_normal((DRAWS, REPLICATES, 1))
    return np.asarray(curve + SD * (np.sqrt(1 - correlation) * own + np.sqrt(correlation) * shared))


def floor_rates(floor: float, amplitude: float, exponent: float, correlation: float = 0.0) -> dict[str, float]:
    curve = floor + amplitude * (np.array(HORIZONS) / HORIZONS[0]) ** -exponent
    draws = planted(curve, correlation, "floor", floor, amplitude, exponent, correlation)
    fits = (fit_floor(HORIZONS, draw) for draw in draws)
    met = {"gates_passed": True, "rates_resolved": True, "decisive_scale": True}
    return rates(judge_floor(fit, donors=5, **met).word for fit in fits)


@pytest.mark.parametrize(("amplitude", "exponent", "correlation"), [(0.2, 0.5, 0.0), (0.3, 0.34, 0.8)])
def test_a_floor_at_the_margin_is_rarely_called_either(amplitude: float, exponent: float, correlation: float) -> None:
    found = floor_rates(DELTA, amplitude, exponent, correlation)
    assert found["supported"] <= ALLOWED
    assert found["refuted"] <= ALLOWED


def test_no_floor_is_rarely_called_a_floor() -> None:
    found = floor_rates(0.0, 0.2, 0.5)
    assert found["supported"] <= ALLOWED
    assert found["refuted"] >= 0.4  # a slow decay to nothing is hard to tell from one to 0.02


def test_a_floor_of_a_tenth_is_found() -> None:
    found = floor_rates(0.1, 0.2, 0.5)
    assert found["supported"] >= 0.80
    assert found["refuted"] <= ALLOWED


def value_rates(form: str, at_ninety: float, rate: float, held_out: bool = False) -> dict[str, float]:
    """Verdicts on a mask worth ``at_ninety`` nats at 90 % sparsity."""
    kept = np.array([*DENSITIES, HELD_OUT])
    shape = np.exp(rate * (0.1 - kept)) if form == "exponential" else (kept / 0.1) ** -rate
    draws = planted(at_ninety * shape, 0.0, form, at_ninety, rate)
    curves = (fit_value_curve(DENSITIES, d[:, :4], (HELD_OUT, d[:, 4]) if held_out else None) for d in draws)
    met = {"gates_passed": True, "rates_resolved": True, "decisive_scale": True}
    return rates(judge_value_curve(curve, donors=5, **met).word for curve in curves)


def test_exponential_value_is_found() -> None:
    found = value_rates("exponential", 0.2, 8.0, held_out=True)
    assert found["supported"] >= 0.80
    assert found["refuted"] <= ALLOWED


def test_a_power_of_density_refutes_the_exponential() -> None:
    found = value_rates("power", 0.2, 1.3, held_out=True)
    assert found["refuted"] >= 0.80
    assert found["supported"] <= ALLOWED


@pytest.mark.parametrize(("form", "rate", "false"), [("exponential", 8.0, "refuted"), ("power", 0.5, "supported")])
def test_forms_that_hardly_differ_are_rarely_confused(form: str, rate: float, false: str) -> None:
    """A value of 0.05 at 90 %: the forms lie two or three standard errors apart, where a false win is likeliest."""
    assert value_rates(form, 0.05, rate)[false] <= ALLOWED


def test_a_mask_without_an_effect_has_no_growing_value() -> None:
    found = value_rates("power", 0.0, 1.3)
    assert found["supported"] <= ALLOWED / 10
    assert found["refuted"] >= 0.70
