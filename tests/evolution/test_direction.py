"""Where a generation moves: properties that hold at any seed."""

import numpy as np
import pytest

from ontogeny.evolution.direction import alignment, step_sizes
from ontogeny.evolution.population import Selection


@pytest.mark.parametrize(("landscape", "size"), [("quadratic", 24), ("network", 3)])
@pytest.mark.parametrize("rule", ["proportional", "standardised", "truncation"])
def test_many_small_mutations_follow_the_gradient(landscape: str, size: int, rule: Selection) -> None:
    found = alignment(landscape, size, 1000, 0.01, rule, seed=1)
    assert found["expected"] > 0.99
    assert found["dealt"] < 3 * found["chance"]
    assert found["preconditioned"] == found["expected"]  # nothing is turned


def test_few_offspring_small_and_large_mutations_lose_it() -> None:
    few, many = (alignment("network", 4, n, 0.1, "proportional", seed=1)["cosine"] for n in (8, 512))
    small, large = (alignment("network", 4, 512, s, "proportional", seed=1)["cosine"] for s in (0.001, 30.0))
    assert max(few, small, large) < many


@pytest.mark.parametrize(("offspring", "sigma"), [(64, 0.1), (512, 0.1), (512, 0.03)])
def test_one_generations_cosine_has_its_closed_form(offspring: int, sigma: float) -> None:
    found = [alignment("quadratic", 24, offspring, sigma, "proportional", seed) for seed in range(10)]
    cosine, drift = (np.mean([one[name] for one in found]) for name in ("cosine", "drift"))
    assert cosine == pytest.approx(drift, abs=0.03)


def test_anisotropic_mutations_follow_the_preconditioned_gradient() -> None:
    found = alignment("quadratic", 12, 2000, 0.01, "proportional", seed=2, anisotropic=True)
    assert found["preconditioned"] > 0.97 > max(found["expected"], found["foreign"])


def test_recombination_halves_what_is_off_the_diagonal() -> None:
    turned = alignment("quadratic", 12, 4000, 0.01, "proportional", 2, anisotropic=True, recombination=True)
    assert turned["preconditioned"] > 0.97
    assert alignment("quadratic", 12, 4000, 0.01, "proportional", 2, recombination=True)["expected"] > 0.97


def test_a_step_grows_with_the_gradient_only_where_fitness_is_proportional() -> None:
    sizes = {rule: step_sizes("quadratic", 4, 2000, 0.01, rule, seed=1) for rule in ("proportional", "truncation")}
    assert sizes["proportional"]["monotone"] > 0.95
    assert sizes["proportional"]["exponent"] == pytest.approx(1, abs=0.1)
    assert abs(sizes["truncation"]["exponent"]) < 0.2
