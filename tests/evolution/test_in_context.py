"""Learning in context: shares of variance, learners, the transformer's masks, and what twins keep."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ontogeny.evolution.factors import total_share, variance_shares
from ontogeny.evolution.in_context import CONTEXTS, FACTORS, compared, crossed, in_context
from ontogeny.evolution.regressions import (
    LEARNERS,
    LOOKUPS,
    NOISE,
    Tasks,
    draw,
    gradient_steps,
    kernel,
    neighbours,
    ridge,
    rivals,
)
from ontogeny.evolution.transformer import (
    answers,
    forward,
    fresh,
    genome,
    grown,
    lesson,
    recall,
    seen,
    shapes,
    sprout,
    tokens,
    train,
)

SHAPES = shapes(3, 8, 2)


def new(tasks: int = 40, pairs: int = 6, queries: int = 7, seed: int = 0) -> Tasks:
    return draw(np.random.default_rng(seed), tasks, pairs, queries, 3)


# Shares of variance -------------------------------------------------------------------------------------------


def test_shares_are_of_the_effects_that_were_put_in() -> None:
    a, b = np.array([-1.0, 1.0]), np.array([-1.0, 0.0, 1.0])
    added = np.broadcast_to((3 * a[:, None] + b)[..., None, None], (2, 3, 4, 5))
    shares = variance_shares(added, ("a", "b", "c"))
    assert shares["a"] == pytest.approx(9 / (9 + 2 / 3))
    assert shares["b"] == pytest.approx(2 / 3 / (9 + 2 / 3))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["a × b"] == pytest.approx(0, abs=1e-12)


def test_a_product_is_all_interaction_and_total_shares_see_it() -> None:
    a, b = np.array([-1.0, 1.0]), np.array([-1.0, 0.0, 1.0])
    shares = variance_shares((a[:, None] * b)[:, :, None], ("a", "b"))
    assert shares["a × b"] == pytest.approx(1)
    assert total_share(shares, "a") == pytest.approx(1)


def test_noise_is_shared_by_degrees_of_freedom_and_nothing_is_nobodys() -> None:
    noise = np.random.default_rng(0).normal(size=(4, 3, 2, 20_000))
    shares = variance_shares(noise, ("a", "b", "c"))
    assert shares["a"] == pytest.approx(3 / 23, abs=0.005)
    assert shares["a × b × c"] == pytest.approx(6 / 23, abs=0.005)
    assert set(variance_shares(np.ones((2, 2)), ("a", "b")).values()) == {0.0}


# Learners and lookups -----------------------------------------------------------------------------------------


def test_ridge_is_the_posterior_mean_and_nobody_is_better() -> None:
    tasks = new(4000)
    inputs, labels = tasks.inputs[0], tasks.labels[0]
    weights = inputs.T @ np.linalg.solve(inputs @ inputs.T + 3 * NOISE**2 * np.eye(6), labels)  # as a Gaussian process
    said = ridge(tasks.inputs, tasks.labels, tasks.queries[:, -1])
    assert said[0] == pytest.approx(tasks.queries[0, -1] @ weights)
    found = compared(np.zeros((4000, 7)), tasks, new(1000, seed=1))
    assert set(found) == {*(f"{n} {w}" for n in (*LEARNERS, *LOOKUPS) for w in ("errors", "distance")), "nearer"}
    for name in (*LEARNERS, *LOOKUPS):
        assert np.all(np.array(found["ridge errors"]) <= np.array(found[f"{name} errors"]) + 0.02), name


def test_what_is_a_learners_is_nearer_to_learners() -> None:
    tasks, tuning = new(200), new(200, seed=1)
    said = rivals(tasks, tuning)
    for name, sign in (("ridge", 1), ("2 steps", 1), ("k-NN", -1), ("kernel", -1)):
        own = np.concatenate([np.zeros((200, 1)), said[name]], axis=1)
        found = compared(own, tasks, tuning)
        assert found[f"{name} distance"] == 0
        assert np.sign(found["nearer"]) == sign


def test_many_gradient_steps_end_in_least_squares_and_lookups_at_a_pair_say_its_label() -> None:
    tasks = new(5, pairs=20)
    x, y, q = tasks.inputs, tasks.labels, tasks.queries[:, 0]
    exact = [np.linalg.lstsq(a, b, rcond=None)[0] @ c for a, b, c in zip(x, y, q, strict=True)]
    np.testing.assert_allclose(gradient_steps(2000)(x, y, q, 0.3), exact, atol=1e-6)
    np.testing.assert_allclose(neighbours(x, y, x[:, 3], 1.0), y[:, 3])
    np.testing.assert_allclose(kernel(x, y, x[:, 3], 0.01), y[:, 3])


def test_rolled_labels_are_the_same_ones_elsewhere() -> None:
    tasks = new()
    np.testing.assert_array_equal(np.sort(tasks.rolled().labels), np.sort(tasks.labels))
    assert not np.any(tasks.rolled().labels == tasks.labels)


# The transformer ----------------------------------------------------------------------------------------------


def test_a_query_sees_its_pairs_and_no_other_query() -> None:
    network, tasks = fresh(SHAPES, 0), new()
    grows = answers(network, tasks, growing=True)
    for pairs in (0, 2, 6):
        cut = replace(tasks, inputs=tasks.inputs[:, :pairs], labels=tasks.labels[:, :pairs])
        np.testing.assert_allclose(grows[:, pairs], answers(network, cut)[:, pairs], atol=1e-5)
    one = replace(tasks, queries=tasks.queries[:, :1], answers=tasks.answers[:, :1])
    np.testing.assert_allclose(answers(network, one)[:, 0], answers(network, tasks)[:, 0], atol=1e-5)


def test_evicted_pairs_act_through_those_that_saw_them_alone() -> None:
    tasks = new()
    other = replace(tasks, labels=np.concatenate([tasks.labels[:, :3] + 1, tasks.labels[:, 3:]], axis=1))
    deep, flat = fresh(SHAPES, 0), fresh(shapes(3, 8, 1), 0)
    assert not np.allclose(answers(deep, tasks, evicted=3), answers(deep, other, evicted=3), atol=1e-4)
    np.testing.assert_array_equal(answers(flat, tasks, evicted=3), answers(flat, other, evicted=3))


def test_sharp_attention_looks_at_one_token() -> None:
    state = forward(fresh(SHAPES, 0), tokens(new()), seen(6, 7), sharpness=0.0)
    assert not torch.allclose(state, forward(fresh(SHAPES, 0), tokens(new()), seen(6, 7)), atol=1e-4)


def test_a_grown_network_has_the_subspaces_and_no_value() -> None:
    donor = fresh(SHAPES, 0)
    genes = genome(donor, 3)
    assert set(genes) == {name for name in SHAPES if "." in name}
    network = grown(sprout(SHAPES, genes, 1), genes)
    for name, (left, right) in genes.items():
        assert torch.linalg.matrix_rank(network[name]) == 3
        torch.testing.assert_close(left @ left.T @ network[name] @ right @ right.T, network[name], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(network["read"], donor["read"])
    sizes = [float(network[n].norm() / donor[n].norm()) for n in genes]
    assert np.mean(sizes) == pytest.approx(1, abs=0.15)


def test_training_teaches_and_keeps_two_versions() -> None:
    options: dict[str, Any] = {"pairs": 4, "dimension": 1, "batch": 32, "rate": 0.01}
    start = fresh(shapes(1, 8, 1), 0)
    half, end = train(start, dict, np.random.default_rng(0), steps=60, **options)
    tasks = draw(np.random.default_rng(1), 200, 4, 5, 1)
    before, middle, after = (np.square(answers(n, tasks) - tasks.answers).mean() for n in (start, half, end))
    assert after < 0.8 < 1 < before
    assert middle != after


def test_a_twin_keeps_its_own_lesson() -> None:
    network, tasks = fresh(SHAPES, 0), new(3, pairs=20, queries=50)
    twins = lesson(network, tasks, 0.01, 100)
    bare = replace(tasks, inputs=tasks.inputs[:, :0], labels=tasks.labels[:, :0])
    before, own = (np.square(s - tasks.answers).mean() for s in (answers(network, bare), recall(twins, tasks)))
    swapped = replace(tasks, queries=np.roll(tasks.queries, 1, axis=0), answers=np.roll(tasks.answers, 1, axis=0))
    assert own < 0.7 * before
    assert own < np.square(recall(twins, swapped) - swapped.answers).mean()


def test_equal_weights_have_no_share() -> None:
    network = fresh(SHAPES, 0)
    found = crossed([network, network], 1.0, 0, 6, 3)
    assert found["weights total"] == pytest.approx(0, abs=1e-9)
    assert found["context total"] > 0.1
    assert sum(found[factor] for factor in FACTORS) + found["interactions"] == pytest.approx(1)
    assert found["order"] > 0
    assert CONTEXTS > 1


def test_everything_of_one_run_is_there_and_repeats() -> None:
    options: dict[str, Any] = {"dimension": 2, "pairs": 4, "width": 8, "layers": 1, "rank": 4, "steps": 4, "batch": 8}
    options |= {"rate": 0.01, "grown_rate": 0.01, "tasks": 20, "spreads": (1.0,), "seed": 3}
    found = in_context(**options)
    assert found == in_context(**options)
    assert found["network unchanged"] == found["grown unchanged"] == 1
    assert len(found["network errors"]) == len(found["ridge errors"]) + 1 == 5
    assert found["network evicted"] == 0  # one layer: later pairs have nothing of earlier ones to pass on
