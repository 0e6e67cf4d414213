"""Outer loops: searches, families, inner training, donors, ranks that grow and learning rules."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from ontogeny.evolution import bodies, donor_scaling, growing_rank, learning_rules
from ontogeny.evolution.hyperparameters import GENES, decoded, donor_steps, inherited, profile
from ontogeny.evolution.inner import (
    SIZES,
    Part,
    World,
    constrained,
    fresh,
    haar,
    inner_scores,
    plain_hyperparameters,
    weights,
    widest,
)
from ontogeny.evolution.modularity import modularity, within_halves
from ontogeny.evolution.networks import fit, tensor
from ontogeny.evolution.pretraining import Donor, pretrained, with_subspaces, with_weights
from ontogeny.evolution.strategy import SEARCHES, Generation
from ontogeny.evolution.task_families import Family, joined


def bowl(_: int, genomes: Generation) -> np.ndarray:
    return np.asarray(np.square(genomes - 1).sum(1))


def test_searches_find_what_they_are_shown() -> None:
    start = np.zeros(4)
    reached = {
        name: float(bowl(0, search(bowl, start, 1.0, (30, 8), np.random.default_rng(0))[None])[0])
        for name, search in SEARCHES.items()
    }
    assert reached["default"] == 4
    assert reached["evolved"] < 0.01 < reached["random search"] < 2
    assert reached["dealt"] > 1


@pytest.mark.parametrize("name", ["evolved", "random search", "dealt"])
def test_searches_draw_from_their_stream_alone(name: str) -> None:
    runs = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002 - that the global generator changes nothing is what is tested
        runs.append(SEARCHES[name](bowl, np.zeros(3), 1.0, (5, 6), np.random.default_rng(7)))
    np.testing.assert_array_equal(runs[0], runs[1])


def test_random_search_spends_what_evolution_spends_and_sees_no_batch_twice() -> None:
    seen: list[int] = []

    def count(batch: int, genomes: Generation) -> np.ndarray:
        seen.extend([batch] * len(genomes))
        return bowl(batch, genomes)

    for sizes in ((10, 6), (2, 4)):
        seen.clear()
        SEARCHES["random search"](count, np.zeros(3), 1.0, sizes, np.random.default_rng(0))
        assert seen == [batch for batch in range(sizes[0]) for _ in range(sizes[1])]


@pytest.mark.parametrize("directions", ["four", "power law"])
def test_targets_are_standardised(directions: str) -> None:
    family = Family.drawn(np.random.default_rng(0), directions)
    tasks = family.tasks(np.random.default_rng(1), 40, 500, 10)
    assert abs(float(tasks.targets.mean())) < 0.05
    assert float(tasks.targets.var()) == pytest.approx(1, abs=0.1)
    assert np.linalg.matrix_rank(family.reading) == (4 if directions == "four" else 16)


def test_genes_at_zero_are_the_default_and_count_doublings() -> None:
    default, plain = decoded(np.zeros((1, len(GENES))), 0.01), plain_hyperparameters(SIZES)
    np.testing.assert_array_equal(default.ranks, plain.ranks)
    np.testing.assert_array_equal(default.scales, plain.scales)
    np.testing.assert_allclose(default.rates, 0.01)
    genes = np.zeros((2, len(GENES)))
    genes[:, GENES.index("rank 2")] = -2, 3
    genes[:, GENES.index("rate 4")] = 1
    found = decoded(genes)
    assert found.ranks[:, 1].tolist() == [8, 32]
    np.testing.assert_allclose(found.rates[:, 3], 2)
    assert found.ranks.min() >= 1


def test_constrained_layers_have_their_rank_and_keep_their_norm() -> None:
    parts = fresh(SIZES)(np.random.default_rng(0), 40)
    genome = replace(plain_hyperparameters(SIZES, [3, 5, 32]), scales=np.array([[1.0, 2.0, 1.0, 1.0]]))
    layers = weights(*constrained(parts, genome))
    assert [int(torch.linalg.matrix_rank(layer[0][0])) for layer in layers] == [3, 5, 32, 4]
    for (own, _), scale in zip(layers, (1, 2, 1, 1), strict=True):
        inputs, outputs = own.shape[1:]
        norm = float(own.square().sum((1, 2)).mean()) / (inputs * outputs) * inputs / 2
        assert norm == pytest.approx(scale**2, rel=0.2)


def test_haar_matrices_are_orthogonal() -> None:
    q = haar(np.random.default_rng(0), 3, 8)
    np.testing.assert_allclose(q @ q.mT, torch.eye(8).expand(3, -1, -1), atol=1e-5)


def test_genomes_side_by_side_are_genomes_by_themselves() -> None:
    family = Family.drawn(np.random.default_rng(0))
    tasks, parts = family.tasks(np.random.default_rng(1), 2), fresh(SIZES)(np.random.default_rng(2), 2)
    genomes = decoded(np.random.default_rng(3).normal(size=(3, len(GENES))), 0.01)
    together = inner_scores(parts, genomes, tasks, 5, np.random.default_rng(4))
    assert together.shape == (3, 2)
    last = replace(genomes, ranks=genomes.ranks[2:], scales=genomes.scales[2:], rates=genomes.rates[2:])
    alone = inner_scores(parts, last, tasks, 5, np.random.default_rng(4))
    np.testing.assert_allclose(together[2:], alone, atol=1e-4)


def test_every_parameter_may_have_a_rate_of_its_own() -> None:
    trained = [torch.ones(2, 1, 1), torch.ones(2, 1, 1)]
    rates = [torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.0])]
    fit(trained, lambda _: (trained[0] + trained[1])[:, 0, 0], rates, 1)
    np.testing.assert_allclose(trained[0].flatten(), [0.9, 0.8], atol=1e-6)
    np.testing.assert_allclose(trained[1].flatten(), [0.7, 1.0], atol=1e-6)


def donor() -> Donor:
    rng = np.random.default_rng(0)
    pairs = pairwise(SIZES[:-1])
    made = [(rng.normal(size=(i, o)), rng.normal(size=(1, o))) for i, o in pairs]
    return Donor([w for w, _ in made], [b for _, b in made], 0.5, True)


def bases_and_layers(parts: list[Part]) -> list[torch.Tensor]:
    return [layer[0] for layer in weights(*constrained(parts, plain_hyperparameters(SIZES)))]


def test_newcomers_inherit_weights_or_subspaces() -> None:
    own, rng = donor(), np.random.default_rng(1)
    same, turned = (bases_and_layers(with_weights(own, SIZES, rotated=turn)(rng, 2)) for turn in (False, True))
    for layer, given in enumerate(own.weights):
        np.testing.assert_allclose(same[layer][1], given, atol=1e-4)
    np.testing.assert_allclose(torch.linalg.svdvals(turned[0][0]), torch.linalg.svdvals(same[0][0]), atol=1e-3)
    assert float((turned[0] - same[0]).norm()) > 1
    parts = with_subspaces(own, SIZES)(rng, 2)
    held, _ = constrained(parts, plain_hyperparameters(SIZES, [4, 4, 4]))
    for part, given in zip(held, own.weights, strict=False):
        u, _, vt = np.linalg.svd(given)
        made = (part.left @ part.core @ part.right.mT)[0].double().numpy()
        np.testing.assert_allclose(u[:, :4] @ (u[:, :4].T @ made @ vt[:4].T) @ vt[:4], made, atol=1e-4)


def test_a_donors_ranks_hold_nine_tenths() -> None:
    values = np.diag([3.0, 1.0, 0.9, 0.1])  # 9, 1, .81, .01 of 10.82
    own = Donor([values], [np.zeros((1, 4))], 1.0, True)
    assert own.ranks() == [2]


def test_a_donor_learns_and_a_search_buys_its_steps() -> None:
    family = Family.drawn(np.random.default_rng(0))
    tasks = joined([family.tasks(np.random.default_rng(g), 2) for g in (1, 2)])
    short, long = (pretrained(tasks, SIZES, steps, np.random.default_rng(3)) for steps in (2, 60))
    assert long.loss < 0.8 * short.loss
    assert donor_steps(25, 12, 100) == 25 * 12 * 2 * 100 * 32 // (8 * 128)


def test_a_world_tests_on_tasks_it_does_not_tune_on() -> None:
    world = World(Family.drawn(np.random.default_rng(0)), 3, 5)
    draw, genome = fresh(SIZES), plain_hyperparameters(SIZES)
    one, two = (world.scores(draw, genome.tried([0.01]), 2, path) for path in ("tuning", "test"))
    assert np.abs(one - two).min() > 0
    assert set(world.tested(draw, genome, 2)) == {"loss", "resolved"}


def test_profiles_and_inheritance_are_measured() -> None:
    measured = {name: profile(name, 1, 4, 3, 1) for name in ("default", "evolved")}
    assert measured["default"]["distance"] == 0
    assert measured["evolved"]["distance"] > 0
    found = inherited(1, 4, 3, 1)
    assert len(found["ranks"]) == len(SIZES) - 2
    assert all(math.isfinite(found[f"{arm} loss"]) for arm in ("weights", "rotated", "genome", "random genome"))
    assert widest(SIZES).tolist() == [32, 32, 32, 32]


def test_modularity_of_known_graphs() -> None:
    two = np.kron(np.eye(2), np.ones((3, 3))).astype(bool)  # two complete bipartite graphs
    assert modularity([two]) == pytest.approx(0.5)
    assert modularity([np.kron(np.eye(4), np.ones((2, 2))).astype(bool)]) == pytest.approx(0.75)
    assert modularity([np.ones((6, 6), dtype=bool)]) == pytest.approx(0, abs=1e-9)
    assert modularity([np.zeros((3, 3), dtype=bool)]) == 0
    networkx = pytest.importorskip("networkx")
    mask = np.random.default_rng(0).random((8, 12)) < 0.2
    graph = networkx.from_numpy_array(np.block([[np.zeros((8, 8)), mask], [mask.T, np.zeros((12, 12))]]))
    best = networkx.community.modularity(graph, networkx.community.louvain_communities(graph, seed=0))
    assert 0.8 * best < modularity([mask]) <= best + 0.05


def test_paths_within_halves() -> None:
    apart = np.kron(np.eye(2), np.ones((2, 2))).astype(bool)
    assert within_halves([apart, apart]) == 1
    assert within_halves([np.ones((4, 6), dtype=bool), np.ones((6, 2), dtype=bool)]) == 0.5
    assert within_halves([~apart, apart]) == 0


def test_the_two_halves_of_a_task_have_nothing_to_do_with_each_other() -> None:
    tasks = bodies.halves(np.random.default_rng(0), 2)
    whole = torch.cat([tasks.targets, tasks.test_targets], 1)
    np.testing.assert_allclose(whole.square().mean((1,)), 1, atol=1e-4)
    assert tasks.inputs.shape == (2, bodies.TRAIN, 8)


def test_masked_connections_carry_nothing() -> None:
    none = bodies.layered(np.zeros((4, bodies.BITS), dtype=bool))
    tasks = bodies.halves(np.random.default_rng(0), 2)
    found = bodies.trial(none, tasks, torch.full((4,), 0.01), 3, np.random.default_rng(1))
    np.testing.assert_array_equal(found.active, 0)
    assert (np.abs(found.scores) < 0.2).all()  # a bias is all that is left: the loss of a constant
    np.testing.assert_array_equal(found.samples, 3 * bodies.BATCH)


def test_prunings_have_as_many_connections_a_layer() -> None:
    rng = np.random.default_rng(0)
    given, like = ([rng.random((8, 12)) < share, rng.random((12, 2)) < share] for share in (0.7, 0.3))
    found = bodies.pruned(rng, given, like)
    for mask, dense, sparse in zip(found, given, like, strict=True):
        assert mask.sum() == sparse.sum()
        assert not (mask & ~dense).any()
    kept = bodies.largest([np.array([[3.0, 1.0], [2.0, 0.0]])], [np.array([[False, True], [True, False]])])
    assert kept[0].tolist() == [[True, False], [True, False]]


def test_costs_thin_out_wirings() -> None:
    free, costly = (bodies.evolved(dose, (20, 20, 2), 0.003, 1).mean() for dose in (0.0, 10.0))
    assert costly < free - 0.1
    found = bodies.bodies([0.3], 1, 4, 2, 1)
    assert found["pruned 0.3 density"] == pytest.approx(found["cost 0.3 density"])
    assert found["whole density"] == 1


def test_newborn_components_change_nothing_and_low_rank_has_its_floor() -> None:
    landscape = growing_rank.matrix(1)
    assert float(landscape.loss(growing_rank.products(landscape.start))) == pytest.approx(1)
    assert float(growing_rank.network(1).loss(growing_rank.products(growing_rank.network(1).start))) == pytest.approx(1)
    rng = np.random.default_rng(0)
    found = growing_rank.searched(landscape, (1,), [2**-4, 2**-5], 150, rng)
    assert growing_rank.least(1) <= found.min() < 0.8
    assert growing_rank.least(16) == 0
    assert growing_rank.least(0) == pytest.approx(1)


def test_stages_follow_each_other() -> None:
    used = [int(growing_rank.in_use(growing_rank.STAGES, g, 10).sum()) for g in range(10)]
    assert used == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16]
    found = growing_rank.growth("network", 10, 1)
    assert found["best fixed loss"] in [found[f"fixed {rank} loss"] for rank in (1, 4, 16)]


def test_adam_is_one_of_the_rules() -> None:
    generator = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 3, 2, generator=generator), torch.randn(2, 3, 2, generator=generator)
    by_rule, by_fit = [start.clone()], [start.clone()]
    rates, mixes = torch.tensor([0.1, 0.03]), tensor(np.tile(learning_rules.ADAM, (2, 1)))
    learning_rules.apply(by_rule, lambda _: (by_rule[0] - target).square().sum((1, 2)), mixes, rates, 20)
    fit(by_fit, lambda _: (by_fit[0] - target).square().sum((1, 2)), rates, 20)
    np.testing.assert_allclose(by_rule[0], by_fit[0], atol=1e-5)


def test_the_bare_gradient_and_weight_decay_are_rules() -> None:
    part = [torch.full((2, 1, 1), 2.0)]
    rules = tensor(np.array([learning_rules.START, (0, 0, 0, 0, 0, 1.0)]))
    learning_rules.apply(part, lambda _: part[0][:, 0, 0] * 3, rules, torch.tensor([0.01, 0.1]), 1)
    np.testing.assert_allclose(part[0].flatten(), [2 - 0.01 * 30 * 3, 2 - 0.1 * 2], rtol=1e-5)


@pytest.mark.parametrize("name", ["met", "digits", "waves"])
def test_fields_have_tasks_of_their_sizes_and_a_constants_loss_of_one(name: str) -> None:
    field = learning_rules.fields(1)[name]
    tasks = field.tasks(np.random.default_rng(0), 3)
    assert tasks.inputs.shape[2] == field.sizes[0]
    assert tasks.targets.shape[2] == field.sizes[-1]
    constant = field.error(torch.zeros_like(tasks.targets), tasks.targets)
    np.testing.assert_allclose(constant.mean(), 1, atol=0.4)


def test_rules_are_measured_on_every_field() -> None:
    found = learning_rules.rules(1, 4, 2, 1)
    assert np.linalg.norm(found["rule"]) == pytest.approx(1)
    rules = ("SGD", "Adam", "evolved", "dealt")
    assert all(f"{field} {rule} loss" in found for field in ("met", "digits", "waves") for rule in rules)


def test_a_ceiling_is_told_from_growth() -> None:
    x = np.array([4.0, 8, 16, 32, 64])
    noise = 0.002 * np.random.default_rng(0).normal(size=(8, 5))
    share, top = donor_scaling.ceiling_share(x, 0.5 - 0.8 / x + noise, 100)
    assert share > 0.95
    assert top == pytest.approx(0.5, abs=0.02)
    assert donor_scaling.ceiling_share(x, 0.1 * x**0.5 + noise, 100)[0] < 0.5


def test_a_donors_worth_is_the_gap_between_its_newcomers_and_random_ones() -> None:
    found = donor_scaling.worth(4, 2, 2, 1)
    assert found["gap"] == pytest.approx(found["random loss"] - found["loss"])
