"""Small networks against closed forms: a product, sums of products, ambiguous sentences, and a simulator's records."""

import numpy as np
import pytest
import torch

from ontogeny.evolution import causes, multiplication, published_costs, sentences, sizes
from ontogeny.evolution.networks import RATES, best_rate, fit, he_normal, outputs, parameters, stack, tensor
from ontogeny.streams import numpy_stream


def test_stacked_networks_are_single_ones() -> None:
    rng = np.random.default_rng(0)
    layers = stack(he_normal([2, 5, 1], rng), 3)
    x = rng.normal(size=(7, 2))
    first, last = (layer[0][1].numpy() for layer in layers)
    hidden = x @ first
    expected = np.where(hidden > 0, hidden, 0.01 * hidden) @ last
    np.testing.assert_allclose(outputs(layers, tensor(x).expand(3, -1, -1))[1], expected, atol=1e-5)


def test_adams_first_step_is_each_networks_rate() -> None:
    layers = stack([np.ones((2, 1))], 2)
    x, y = torch.ones(2, 4, 2), torch.zeros(2, 4, 1)
    fit(parameters(layers), lambda _: (outputs(layers, x) - y).square().mean((1, 2)), torch.tensor([0.1, 0.01]), 1)
    np.testing.assert_allclose(layers[0][0][:, 0, 0], [0.9, 0.99], atol=1e-6)
    assert not layers[0][0].requires_grad


def test_the_best_of_rates_is_the_smallest_within_the_tolerance() -> None:
    losses = torch.tensor([float("nan"), 1.0, 0.5, 0.505, 2.0, 3.0, 4.0, 5.0])
    assert best_rate(losses) == RATES[2]
    assert best_rate(losses, 0.01) == RATES[3]


def test_a_wider_network_holds_the_narrower_one() -> None:
    narrow, wide = (multiplication.nested_weights(width, seed=3) for width in (16, 64))
    np.testing.assert_array_equal(wide[0][:, :16], narrow[0])
    np.testing.assert_allclose(wide[1][:16], narrow[1] / 2)  # √(2/64) ÷ √(2/16)
    np.testing.assert_array_equal(wide[2], narrow[2])


def test_the_best_line_costs_what_the_moments_say() -> None:
    x = multiplication.pairs(0, "many", (1.0, 10.0), 400_000)
    y = x.prod(1, keepdims=True)
    mean, square = 5.5, 37.0  # E[m] and E[m²]
    line = square**2 - (2 * square * mean) ** 2 / (2 * square + 2 * mean**2)
    assert line == pytest.approx(137.4, abs=0.05)
    assert multiplication.line_cost(x, y) == pytest.approx(line, rel=0.01)
    assert np.square(y).mean() == pytest.approx(square**2, rel=0.01)


def test_published_training_is_gradient_descent_on_the_cost() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(1, 10, (5, 2))
    y = x.prod(1, keepdims=True)
    weights = [np.full((2, 1), 0.5), np.ones((1, 1))]
    layers, _ = multiplication.descend(weights, x, y, 1)
    error = x.sum(1) * 0.5 - y[:, 0]
    expected = 0.5 - 1e-5 * 2 * (error[:, None] * x).mean(0)
    np.testing.assert_allclose(layers[0][0][0, :, 0], expected, rtol=1e-6)
    layers, _ = multiplication.descend(weights, x, y, 1, factor=1.0)
    np.testing.assert_allclose(layers[0][0][0, :, 0], (expected + 0.5) / 2, rtol=1e-6)


def test_a_leaky_output_can_be_stuck_at_nothing() -> None:
    """With a negative output the gradient is a hundredth: the two groups of costs, like the published ones."""
    options = ("normal", "lecun", 2, "leaky", *_first())
    cost, line, nothing = published_costs.cost_of(1, 64, 150, *options)
    assert cost == pytest.approx(line, rel=0.1)
    cost, line, nothing = published_costs.cost_of(1, 128, 150, *options)
    assert cost == pytest.approx(nothing, rel=0.1)
    unstuck, line, _ = published_costs.cost_of(1, 128, 150, "normal", "lecun", 2, "linear", *_first())
    assert unstuck == pytest.approx(line, rel=0.1)


def test_a_variants_draws_are_those_of_one_twister() -> None:
    found = published_costs.variant("normal", "he", 2, "linear", (4,), (64,), 1, 2**32 + 1)
    again = found["seed 1, weights first, inputs × outputs"]
    assert found["costs"] == [published_costs.cost_of(1, 4, 1, "normal", "he", 2, "linear", *_first())[0]]
    assert again == [published_costs.cost_of(1, 64, 1, "normal", "he", 2, "linear", *_first())[0]]


def _first() -> tuple[str, str]:
    return published_costs.ORDERS[0][0], published_costs.ORDERS[1][0]


def test_addition_is_extrapolated_by_a_network_that_learns_it() -> None:
    found = multiplication.learn("addition", 16, 600, 1, seed=5)
    product = multiplication.learn("multiplication", 16, 600, 1, seed=5)
    assert found["outside"] < 0.1 < product["outside"] < product["far"]


def test_sums_of_products_have_variance_one_and_more_data_help() -> None:
    x, y = sizes.sums_of_products(0, "many", 200_000)
    assert y.var() == pytest.approx(1, rel=0.02)
    np.testing.assert_allclose(y[:3, 0], 3**0.5 * (x[:3, 0] * x[:3, 1] + x[:3, 2] * x[:3, 3] + x[:3, 4] * x[:3, 5]))
    found = sizes.surface(16, 2, (16, 512), 200, seed=1)
    assert found["loss 512"] < found["loss 16"]
    assert found["parameters"] == 6 * 8 + 8 + 8 * 8 + 8 + 8 + 1
    with pytest.raises(ValueError, match="multiple of 3"):
        sizes.surface(16, 3, (16,), 1, seed=1)


def test_sentences_say_what_they_are_asked_to() -> None:
    rng = numpy_stream(0, "sentences")
    made = sentences.corpus(rng, 200, ("subject",), 0.0, True)
    for sentence, main in zip(made.sentences.tolist(), made.main.tolist(), strict=True):
        first, second = (word - sentences.AUXILIARIES[0] for word in sentence if word in sentences.AUXILIARIES)
        assert (first, second) == (1 - main, main)  # the relative clause's comes first, and is the other one
        subject = next(word for word in sentence if word in sentences.NOUNS)
        assert subject % 2 == 1 - main
    plain = sentences.corpus(rng, 200, ("none", "object"), 1.0, False)
    for sentence, main in zip(plain.sentences.tolist(), plain.main.tolist(), strict=True):
        assert next(word for word in sentence if word in sentences.AUXILIARIES) - sentences.AUXILIARIES[0] == main
        assert next(word for word in sentence if word in sentences.NOUNS) % 2 == main


def test_what_is_learnt_of_ambiguous_sentences() -> None:
    found = sentences.rule_and_surface(128, 60, seed=2)
    assert found["donor"] > 0.95
    assert found["learnt copied"] > 0.9
    for test in ("structure", "words"):
        assert all(0 <= found[f"{test} {arm}"] <= 1 for arm in sentences.ARMS)
    left, right = sentences._frames(np.diag(np.arange(32.0)), 0, "grown", 0)
    np.testing.assert_allclose(np.abs(left[-8:, ::-1]), np.eye(8), atol=1e-9)  # the largest values' directions
    np.testing.assert_allclose(left.T @ right, np.eye(8), atol=1e-9)


def chain(flip_free: bool = True) -> causes.Simulator:
    """Hidden cause -> first; second copies the first; third copies the hidden cause; fourth is the third's opposite."""
    first, second = np.array([0, 1]), np.array([0, 0, 1, 1])
    index = np.arange(16)
    return causes.Simulator((first, second, index[:8] & 1, 1 - (index >> 3 & 1)))


def test_a_simulators_truth_is_what_its_tables_say() -> None:
    true = causes.truth(chain())
    keep = 1 - causes.FLIP
    assert true.likely.sum() == pytest.approx(1)
    np.testing.assert_allclose(true.intervention[0, 1, 1], keep)  # the second follows the first when it is set
    np.testing.assert_allclose(true.intervention[1, :, 0], 0.5)  # the first doesn't follow the second
    assert true.association[1, 1, 0] == pytest.approx(keep)
    np.testing.assert_allclose(true.intervention[0, :, 2], 0.5)  # common cause alone: association without effect
    assert true.association[0, 1, 2] == pytest.approx(keep**2 + causes.FLIP**2)


def test_a_counterfactual_keeps_the_noise() -> None:
    world, (states, _) = chain(), causes.all_states()
    true, seen = causes.truth(world), chain().run(states)
    for row in range(len(states)):
        # had the first been the other, the second would have been too: its own noise is known from the record
        assert true.counterfactual[row, 0, 1] == pytest.approx(1 - seen[row, 1])
        # nothing else depends on it
        np.testing.assert_allclose(true.counterfactual[row, 0, 2:], seen[row, 2:])
    with_own = world.run(states, 0, seen[:, 0])
    np.testing.assert_array_equal(with_own, seen)


def test_shuffled_states_are_anothers() -> None:
    world = causes.simulator(0)
    own, other = (causes.records(world, arm, 400, np.random.default_rng(0)) for arm in list(causes.ARMS)[3:])
    np.testing.assert_array_equal(own[0], other[0])
    np.testing.assert_array_equal(np.sort(own[2], 0), np.sort(other[2], 0))
    assert (own[2] != other[2]).any(1).mean() > 0.5
    assert not causes.records(world, "text", 8, np.random.default_rng(0))[2].any()
    assert (own[1][0::2] == -1).all()
    assert set(own[1][1::2]) == {0, 1, 2, 3}


def test_text_learns_association() -> None:
    found = causes.adjacency_and_causes(1000, 120, seed=1)
    assert found["text association"] < 0.1
    assert found["perfect association intervention"] > 0
    again = causes.adjacency_and_causes(1000, 120, seed=1)
    assert again == found
