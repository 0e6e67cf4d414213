from collections import Counter
from itertools import combinations
from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.topology import (
    clustering,
    degree_matched_mask_cosine,
    degree_model,
    erdos_renyi_counts,
    expected_mask_cosine,
    mask_cosine,
    rewire,
    topology,
)
from ontogeny.streams import numpy_stream

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


def uneven_mask(m: int, n: int, density: float, seed: int = 0) -> Tensor:
    """A mask whose rows and columns differ in degree."""
    generator = numpy_stream(seed, "uneven mask")
    scale = generator.lognormal(0, 0.5, (m, 1)) * generator.lognormal(0, 0.5, (1, n))
    size = np.abs(generator.standard_normal((m, n))) * scale
    return torch.from_numpy(size > np.quantile(size, 1 - density))


def paths_and_cycles(keep: np.ndarray) -> tuple[int, int]:
    """3-paths and 4-cycles, counted one by one."""
    edges = list(zip(*np.nonzero(keep), strict=True))
    paths = sum((keep[i].sum() - 1) * (keep[:, j].sum() - 1) for i, j in edges)
    rows, columns = range(keep.shape[0]), range(keep.shape[1])
    cycles = sum(
        keep[a, c] and keep[a, d] and keep[b, c] and keep[b, d]
        for a, b in combinations(rows, 2)
        for c, d in combinations(columns, 2)
    )
    return int(paths), int(cycles)


@given(MASKS)
def test_clustering_counts_four_cycles_and_three_paths(keep: np.ndarray) -> None:
    paths, cycles = paths_and_cycles(keep)
    assert clustering(torch.from_numpy(keep).double()) == pytest.approx(4 * cycles / paths if paths else 0.0, abs=1e-12)


def test_clustering_of_complete_graphs_cycles_and_trees() -> None:
    assert clustering(torch.ones(4, 7)) == 1.0
    six_cycle = torch.eye(3) + torch.eye(3).roll(1, 1)
    assert clustering(six_cycle) == 0.0
    assert clustering(torch.eye(5)) == 0.0


def test_topology_of_a_mask_worked_by_hand() -> None:
    keep = torch.zeros(4, 2, dtype=torch.bool)
    keep[0] = True
    keep[1, 0] = True
    found = topology(keep)
    assert found["density"] == 3 / 8
    assert (found["row_degree_mean"], found["row_degree_max"]) == (0.75, 2.0)
    assert found["row_degree_sd"] == pytest.approx(sqrt((4 + 1) / 4 - 0.75**2))
    assert found["row_degree_cv"] == pytest.approx(found["row_degree_sd"] / 0.75)
    assert found["row_hub_share"] == pytest.approx(2 / 3)  # one row is the least that can be a hub
    assert found["column_hub_share"] == pytest.approx(2 / 3)
    # blocks are single entries here: sd/mean of a Bernoulli sample is exactly the binomial value
    assert found["block_cv"] == pytest.approx(sqrt(5 / 3))
    assert found["block_cv_chance"] == pytest.approx(sqrt(5 / 3))


def test_hubs_are_the_top_percent() -> None:
    keep = torch.zeros(300, 50, dtype=torch.bool)
    keep[:3] = True
    keep[3:, 0] = True
    assert topology(keep)["row_hub_share"] == pytest.approx(150 / (150 + 297))


def test_blocks_show_and_random_masks_do_not() -> None:
    keep = torch.from_numpy(numpy_stream(0, "mask").random((256, 512)) < 0.1)
    found = topology(keep)
    assert found["block_cv"] == pytest.approx(found["block_cv_chance"], rel=0.3)
    keep[:64, :128] = True
    found = topology(keep)
    assert found["block_cv"] > 5 * found["block_cv_chance"]


def test_empty_and_full_masks_have_finite_statistics() -> None:
    for keep in (torch.zeros(5, 3, dtype=torch.bool), torch.ones(5, 3, dtype=torch.bool)):
        assert np.isfinite(list(topology(keep).values())).all()
    assert topology(keep)["clustering_chance"] == pytest.approx(1.0, abs=1e-2)


def test_clustering_chance_is_that_of_rewired_masks() -> None:
    keep = uneven_mask(96, 160, 0.15)
    rewired = [clustering(rewire(keep, numpy_stream(seed, "rewire")).double()) for seed in range(8)]
    assert topology(keep)["clustering_chance"] == pytest.approx(np.mean(rewired), rel=0.05)
    assert float(keep.double().mean()) < 0.8 * np.mean(rewired)  # density alone would be the wrong chance


def test_degree_model_has_the_degrees() -> None:
    keep = uneven_mask(60, 90, 0.2)
    model = degree_model(keep)
    torch.testing.assert_close(model.sum(0), keep.sum(0).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.sum(1), keep.sum(1).double(), rtol=0, atol=1e-6)
    assert 0 <= model.min() <= model.max() <= 1


@given(MASKS, st.integers(0, 5))
def test_rewire_keeps_every_degree(keep: np.ndarray, seed: int) -> None:
    original = torch.from_numpy(keep.copy())
    rewired = rewire(original, numpy_stream(seed, "rewire"))
    assert torch.equal(rewired.sum(0), original.sum(0))
    assert torch.equal(rewired.sum(1), original.sum(1))
    assert np.array_equal(original.numpy(), keep)  # not changed in place


@pytest.mark.parametrize("density", [0.05, 0.4, 0.8])
def test_rewired_overlap_falls_to_chance_given_the_degrees(density: float) -> None:
    keep = uneven_mask(96, 160, density)
    chance = float(degree_model(keep)[keep].sum() / keep.sum())
    rewired = [rewire(keep, numpy_stream(seed, "rewire")) for seed in range(6)]
    assert np.mean([mask_cosine([keep], [mask]) for mask in rewired]) == pytest.approx(chance, abs=0.01)
    assert not torch.equal(rewired[0], rewired[1])
    assert torch.equal(rewired[0], rewire(keep, numpy_stream(0, "rewire")))


def test_rewire_is_uniform_over_all_masks_of_the_degrees() -> None:
    # degrees (2, 1, 1) by (2, 1, 1) admit exactly five masks
    keep = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.bool)
    generator = numpy_stream(0, "uniform")
    counts = Counter(tuple(rewire(keep, generator, swaps_per_edge=1).flatten().tolist()) for _ in range(1000))
    assert len(counts) == 5
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 18.5  # chi-squared, 4 degrees, p = 0.001


def test_rewire_returns_masks_that_admit_no_swap() -> None:
    nested = torch.ones(6, 6).tril().bool()
    for keep in (nested, torch.ones(4, 5).bool(), torch.zeros(4, 5).bool(), torch.ones(1, 7).bool()):
        assert torch.equal(rewire(keep, numpy_stream(0, "rewire")), keep)


def test_mask_cosine_and_its_chance() -> None:
    generator = numpy_stream(0, "masks")
    shapes, densities = [(200, 300), (100, 50)], [(0.1, 0.3), (0.5, 0.2)]
    first = [torch.from_numpy(generator.random(s) < p) for s, (p, _) in zip(shapes, densities, strict=True)]
    second = [torch.from_numpy(generator.random(s) < q) for s, (_, q) in zip(shapes, densities, strict=True)]
    expected = (6e4 * 0.1 * 0.3 + 5e3 * 0.5 * 0.2) / sqrt((6e4 * 0.1 + 5e3 * 0.5) * (6e4 * 0.3 + 5e3 * 0.2))
    for value in (mask_cosine, expected_mask_cosine, degree_matched_mask_cosine):
        assert value(first, second) == pytest.approx(expected, rel=0.05)
    assert mask_cosine(first, first) == pytest.approx(1.0)
    assert mask_cosine([~first[0]], [first[0]]) == 0.0


def test_degree_matched_chance_is_that_of_two_rewired_masks() -> None:
    keep = uneven_mask(96, 160, 0.1)
    first, second = (rewire(keep, numpy_stream(seed, "rewire")) for seed in range(2))
    assert mask_cosine([first], [second]) == pytest.approx(degree_matched_mask_cosine([keep], [keep]), abs=0.02)
    assert expected_mask_cosine([keep], [keep]) == pytest.approx(0.1, abs=1e-3)


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="equal shapes"):
        mask_cosine([torch.ones(2, 3).bool()], [torch.ones(3, 2).bool()])


def rigl_densities(shapes: list[tuple[int, int]], total: int) -> list[float]:
    """The loop of Evci et al.: while a density exceeds 1, its matrices are made dense and ε is found anew."""
    dense: set[int] = set()
    while True:
        free = [j for j in range(len(shapes)) if j not in dense]
        left = total - sum(shapes[j][0] * shapes[j][1] for j in dense)
        epsilon = left / sum(sum(shapes[j]) for j in free) if free else 0.0
        density = {j: epsilon * sum(shapes[j]) / (shapes[j][0] * shapes[j][1]) for j in free}
        most = max(density.values(), default=0.0)
        if most <= 1 + 1e-12:
            return [density.get(j, 1.0) for j in range(len(shapes))]
        dense |= {j for j in free if density[j] >= most * (1 - 1e-12)}


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=8), st.floats(0, 1))
def test_erdos_renyi_counts_are_rigls(shapes: list[tuple[int, int]], share: float) -> None:
    sizes = [m * n for m, n in shapes]
    total = round(share * sum(sizes))
    counts = erdos_renyi_counts(shapes, total)
    assert sum(counts) == total
    for count, size, density in zip(counts, sizes, rigl_densities(shapes, total), strict=True):
        assert 0 <= count <= size
        assert abs(count - density * size) < 1 + 1e-6


def test_erdos_renyi_counts_in_closed_form() -> None:
    """d × d and d × 4d at ε·2d and ε·5d; a 2 × 2 that fills up leaves the rest to the others."""
    assert erdos_renyi_counts([(64, 64), (64, 256)], 700) == [200, 500]
    assert erdos_renyi_counts([(2, 2), (64, 64), (64, 256)], 704) == [4, 200, 500]
    assert erdos_renyi_counts([(3, 5)], 15) == [15]
    with pytest.raises(InputError, match="at most 15 edges in these matrices, found 16"):
        erdos_renyi_counts([(3, 5)], 16)
