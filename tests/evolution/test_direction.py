"""Where a generation moves: properties that hold at any seed."""

import pytest

from ontogeny.evolution.direction import alignment, step_sizes
from ontogeny.evolution.population import Selection


@pytest.mark.parametrize(("landscape", "size"), [("quadratic", 24), ("network", 3)])
@pytest.mark.parametrize("rule", ["proportional", "standardised", "truncation"])
def test_many_small_mutations_follow_the_gradient(landscape: str, size: int, rule: Selection) -> None:
    found = alignment(landscape, size, 2000, 0.01, rule, seed=1)
    assert found["cosine"] > 0.95
    assert found["shuffled"] < 0.3


def test_a_fair_shuffle_and_large_mutations_lose_it() -> None:
    few, many = (alignment("network", 4, n, 0.01, "standardised", seed=1)["cosine"] for n in (8, 512))
    large = alignment("network", 4, 512, 30.0, "standardised", seed=1)["cosine"]
    assert few < many
    assert large < many


def test_anisotropic_mutations_follow_the_preconditioned_gradient() -> None:
    found = alignment("quadratic", 6, 4000, 0.01, "proportional", seed=2, anisotropic=True)
    assert found["preconditioned"] > 0.97 > found["cosine"]


def test_a_step_grows_with_the_gradient_only_where_fitness_is_proportional() -> None:
    sizes = {rule: step_sizes("quadratic", 4, 2000, 0.01, rule, seed=1) for rule in ("proportional", "truncation")}
    assert sizes["proportional"]["monotone"] > 0.95
    assert sizes["proportional"]["exponent"] == pytest.approx(1, abs=0.1)
    assert abs(sizes["truncation"]["exponent"]) < 0.2
