"""Searchers stopped at one loss, what they start from and how their networks are compared."""

import math
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from ontogeny.evolution.matched_loss import (
    ARCHITECTURES,
    FACTORS,
    MEASURES,
    SEARCHERS,
    MemberLosses,
    Members,
    Problems,
    _compared,
    cross_entropy,
    flat,
    interchangeable,
    search_to,
    sgd,
    worlds,
)
from ontogeny.evolution.networks import batches, outputs, stack, tensor


def bowl(step: int, points: Members) -> MemberLosses:
    return points.square().sum(-1)


@pytest.mark.parametrize("name", SEARCHERS)
def test_every_searcher_goes_down_and_minds_its_own_rate(name: str) -> None:
    search, _ = SEARCHERS[name]
    rates = torch.tensor([0.05, 0.0])
    *_, last = islice(search(torch.ones(2, 6), bowl, rates, np.random.default_rng(0)), 200)
    assert last[0].square().sum() < 0.6
    np.testing.assert_allclose(last[1], 1.0)


def test_gradient_descent_shrinks_a_bowl_by_one_minus_twice_its_rate() -> None:
    states = list(islice(sgd(torch.ones(1, 3), bowl, torch.tensor([0.25]), np.random.default_rng(0)), 3))
    np.testing.assert_allclose([state[0, 0] for state in states], [0.5, 0.25, 0.125])


@pytest.mark.parametrize("sizes", ARCHITECTURES.values())
def test_a_points_loss_is_its_networks(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    point, x, labels = flat(sizes, rng), rng.normal(size=(9, sizes[0])), rng.integers(5, size=9)
    weights, at = [], 0
    for i, o in pairwise(sizes):
        weights.append(point[at : at + i * o].reshape(i, o))
        at += i * o + o
    said = outputs(stack(weights, 1), tensor(x)[None])[0]
    expected = torch.nn.functional.cross_entropy(said, torch.from_numpy(labels))
    found = cross_entropy(tensor(point)[None, None], tensor(x)[None], torch.from_numpy(labels)[None], sizes)
    assert float(found[0, 0]) == pytest.approx(float(expected), rel=1e-5)


def test_a_search_ends_with_the_first_network_at_the_target() -> None:
    sizes, rng = ARCHITECTURES["one"], np.random.default_rng(0)
    inputs, labels, _ = worlds(0, 60, 50)
    start = tensor(np.stack([flat(sizes, rng)] * 2))
    problems = Problems(start, inputs, labels, batches(rng, 60, 30, 40).expand(2, -1, -1))
    rates = torch.tensor([0.3, 0.0])
    found = search_to("SGD", sizes, problems, rates, 1.2, rng)
    assert found.losses[0] <= 1.2 < found.losses[1]
    assert found.steps[0] < 40
    assert found.steps[1] == math.inf
    loss = cross_entropy(found.points[:, None], inputs, labels, sizes)[:, 0]
    torch.testing.assert_close(loss, found.losses)  # of the network that is kept, not of the last one
    torch.testing.assert_close(found.points[1], start[1])


def test_what_diverges_is_kept_as_it_was() -> None:
    sizes, rng = ARCHITECTURES["two"], np.random.default_rng(0)
    inputs, labels, _ = worlds(0, 60, 50)
    start = tensor(flat(sizes, rng)).expand(2, -1)
    problems = Problems(start, inputs, labels, batches(rng, 60, 30, 30).expand(2, -1, -1))
    found = search_to("SGD", sizes, problems, torch.tensor([1e6, 1e-3]), 0.0, rng)
    assert found.points.isfinite().all()
    assert found.losses.isfinite().all()
    assert found.steps.isinf().all()


def test_worlds_share_no_digits_and_probes_no_images() -> None:
    inputs, labels, held = worlds(3, 100, 400)
    assert held.shape == (400, 16)
    assert sorted(np.unique(labels[0])) == sorted(np.unique(labels[1])) == [0, 1, 2, 3, 4]
    rows = np.vstack([inputs.reshape(-1, 16).numpy(), held.astype(np.float32)])
    assert len(np.unique(rows, axis=0)) > 595  # hardly any two digits have equal means


def test_pairs_are_counted_by_what_they_share() -> None:
    cells = np.array([(s, d, a, t) for a in (0, 1) for s in range(4) for d in (0, 1) for t in (0, 1)])
    told = []
    for _, data, architecture, _ in cells:  # the data is all there is, with an architecture's own axes
        vector = np.zeros(8)
        vector[2 * architecture + data] = 1.0
        told.append(dict.fromkeys(MEASURES, vector))
    found = _compared(cells, told)
    for measure in MEASURES:
        assert [found[f"{measure} {kind}"] for kind in ("within", "between", "other")] == [1, 1, 0]
        assert found[f"{measure} pairs"] == [1.0] * 16
        assert found[f"{measure} share searcher"] == pytest.approx(0)
        assert found[f"{measure} share architecture"] == pytest.approx(1 / 3)


def test_all_searchers_are_compared() -> None:
    found = interchangeable(rows=60, probes=60, batch=30, limit=4, target=1.5, seed=0)
    for measure in MEASURES:
        shares = [found[f"{measure} share {factor}"] for factor in (*FACTORS, "rest")]
        assert np.sum(shares) == pytest.approx(1)
        assert len(np.ravel(found[f"{measure} pairs"])) == len(SEARCHERS) ** 2
