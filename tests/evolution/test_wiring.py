"""Random wirings keep what they say they keep, and nothing else."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ontogeny.evolution.transplant import ARMS, transplant
from ontogeny.evolution.wiring import (
    co_cluster,
    effective,
    hubs,
    keep_degrees,
    match_blocks,
    match_clustering,
    wirings,
)
from ontogeny.genome.topology import clustering, mask_cosine
from ontogeny.streams import numpy_stream


def uneven(m: int, n: int, seed: int, density: float = 0.2) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    size = rng.random((m, n)) * rng.lognormal(0, 0.5, (m, 1)) * rng.lognormal(0, 0.5, (1, n))
    return torch.from_numpy(size > np.quantile(size, 1 - density))


def modular(groups: int = 3, size: int = 10, seed: int = 0) -> torch.Tensor:
    """Dense on blocks of the diagonal, nearly empty elsewhere, rows in random order."""
    rng = np.random.default_rng(seed)
    chance = np.kron(np.eye(groups), np.ones((size, size))) * 0.6 + 0.02
    return torch.from_numpy(rng.random(chance.shape) < chance)[rng.permutation(groups * size)]


DONOR = [uneven(20, 16, 1), uneven(16, 14, 2), uneven(14, 5, 3, 0.4)]


@cache
def drawn() -> dict[str, list[torch.Tensor]]:
    return wirings(DONOR, 0.2, 2, lambda name: numpy_stream(0, "test", name))


def test_marked_degrees_are_kept_and_others_are_not() -> None:
    keep, rng = uneven(30, 40, 0), np.random.default_rng(0)
    rows, columns = np.arange(30) < 5, np.arange(40) < 10
    drawn = keep_degrees(keep, rows, columns, rng)
    assert drawn.sum() == keep.sum()
    assert torch.equal(drawn.sum(1)[rows], keep.sum(1)[rows])
    assert torch.equal(drawn.sum(0)[columns], keep.sum(0)[columns])
    assert not torch.equal(drawn.sum(1)[~rows], keep.sum(1)[~rows])
    assert not torch.equal(drawn.sum(0)[~columns], keep.sum(0)[~columns])


def test_with_nothing_marked_entries_go_anywhere() -> None:
    keep, nothing = torch.zeros(12, 12, dtype=torch.bool), np.zeros(12, dtype=bool)
    keep[0, :6] = keep[range(6), range(6, 12)] = True
    degrees = sum(keep_degrees(keep, nothing, nothing, np.random.default_rng(s)).sum(1).double() for s in range(40))
    np.testing.assert_allclose(degrees / 40, 1, atol=0.6)


def test_every_wiring_has_the_donors_densities_and_degrees() -> None:
    for name, wiring in drawn().items():
        for own, keep in zip(wiring, DONOR, strict=True):
            assert own.sum() == keep.sum(), name
            if name in ("degree", "clustering", "blocks"):
                assert torch.equal(own.sum(0), keep.sum(0))
                assert torch.equal(own.sum(1), keep.sum(1))
        if name not in ("density", "renamed"):
            assert torch.equal(wiring[0].sum(1), DONOR[0].sum(1)), name
            assert torch.equal(wiring[-1].sum(0), DONOR[-1].sum(0)), name
        assert (mask_cosine(wiring, DONOR) == 1) == (name == "donor")


def test_hubs_keep_their_degrees_and_others_lose_theirs() -> None:
    wiring, marked = drawn()["hubs"], hubs(DONOR, 0.2)
    assert [int(some.sum()) for some in marked] == [0, 3, 3, 0]
    for layer, some in enumerate(marked[1:-1]):
        before, after = (pair[layer].sum(0) + pair[layer + 1].sum(1) for pair in (DONOR, wiring))
        assert torch.equal(before[some], after[some])
        assert not torch.equal(before[~some], after[~some])
        assert before[some].min() >= before[~some].max()


def test_renaming_keeps_the_graph() -> None:
    renamed = drawn()["renamed"]
    assert torch.equal(renamed[1], DONOR[1])
    assert torch.equal(renamed[0].sum(0), DONOR[0].sum(0))
    assert sorted(map(tuple, renamed[0].tolist())) == sorted(map(tuple, DONOR[0].tolist()))
    assert effective(renamed) == effective(DONOR)


def test_clustering_is_matched_where_rewiring_loses_it() -> None:
    keep = modular()
    everybody = np.ones(30, dtype=bool)
    rewired = keep_degrees(keep, everybody, everybody, np.random.default_rng(0))
    drawn = match_clustering(keep, np.random.default_rng(0))
    assert clustering(rewired.double()) < 0.8 * clustering(keep.double())
    assert clustering(drawn.double()) == pytest.approx(clustering(keep.double()), rel=0.021)
    assert mask_cosine([drawn], [keep]) < 0.9
    for axis in (0, 1):
        assert torch.equal(drawn.sum(axis), keep.sum(axis))


def test_blocks_are_found_and_kept() -> None:
    keep = modular()
    rows, columns = co_cluster(keep, 3, np.random.default_rng(0))
    inside = torch.from_numpy(rows[:, None] == columns[None])
    assert float(keep[inside].double().mean()) > 0.5
    assert float(keep[~inside].double().mean()) < 0.1
    drawn = match_blocks(keep, 3, np.random.default_rng(0))
    assert drawn[inside].sum() == keep[inside].sum()
    assert not torch.equal(drawn, keep)


def test_blocks_of_a_mask_with_empty_nodes() -> None:
    keep = torch.zeros(6, 8, dtype=torch.bool)
    keep[:2, :2] = keep[3, 5] = True
    assert match_blocks(keep, 4, np.random.default_rng(0)).sum() == keep.sum()
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    assert torch.equal(match_blocks(nothing, 2, np.random.default_rng(0)), nothing)
    assert torch.equal(match_clustering(nothing, np.random.default_rng(0)), nothing)


def test_edges_off_every_path_are_ineffective() -> None:
    first, last = torch.zeros(2, 3, dtype=torch.bool), torch.zeros(3, 2, dtype=torch.bool)
    first[0, 0] = first[1, 1] = last[0, 1] = last[2, 0] = True
    assert effective([first, last]) == 0.5  # the second hidden neuron says nothing, the third hears nothing
    assert effective([torch.ones(2, 3, dtype=torch.bool), torch.ones(3, 2, dtype=torch.bool)]) == 1
    assert effective([torch.zeros(2, 2, dtype=torch.bool)]) == 0


def test_one_run_measures_every_arm() -> None:
    options: dict[str, Any] = {
        "world": "digits",
        "width": 8,
        "densities": [1.0, 0.5],
        "steps": 5,
        "size": 8,
        "share": 0.1,
        "groups": 2,
    }
    found = transplant(**options, seed=1)
    assert found == transplant(**options, seed=1)
    assert len({found[f"{arm} loss"] for arm in ARMS}) == len(ARMS)
    assert found["donor overlap"] == found["donor clustering"] == 1
    assert found["donor effective"] == found["renamed effective"]
