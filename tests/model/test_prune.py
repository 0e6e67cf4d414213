"""Directions: what dead ones leave behind is nothing, and what lives is what scored highest."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from constrained import FUSED, assert_round_off, inputs, logits
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_checkpoint, tiny_model
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer, RMSprop

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.model.constrain import constrain, effective_weights, merge
from ontogeny.model.layers import enforce_masks
from ontogeny.model.prune import SCOPES, compact, direction_scores, prunable, select, set_alive
from ontogeny.streams import stream


def genome_of(name: str, directory: Path) -> Genome:
    return extract(open_checkpoint(tiny_checkpoint(name, directory, seed=9)), Recipe(rank="25%", basis="singular"))


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    return genome_of("llama", tmp_path_factory.mktemp("donor") / "llama")


def draw(model: nn.Module, share: float = 0.5) -> dict[str, Tensor]:
    """Directions that live, drawn at random, at least one a site."""
    living = {}
    for name, layer in prunable(model).items():
        living[name] = torch.rand(layer.U.shape[1], generator=stream(0, "alive", name)) < share
        living[name][0] = True
    return living


def weights_by_hand(genome: Genome, model: nn.Module, living: dict[str, Tensor]) -> dict[str, Tensor]:
    """U C Vᵀ in float64 with the living columns of U and V and entries of C alone."""
    found = {}
    cores = {name: layer.core.detach().double() for name, layer in prunable(model).items()}
    for site, gene in genome.genes.items():
        assert isinstance(gene, Subspace)
        kept = living[site.name]
        found[site.name] = gene.U[:, kept].double() @ cores[site.name][kept][:, kept] @ gene.V[:, kept].double().T
    return found


@pytest.mark.parametrize("name", ["llama", *FUSED])
def test_a_pruned_network_is_the_one_without_its_dead_directions(name: str, tmp_path: Path) -> None:
    genome = genome_of(name, tmp_path / name)
    model = constrain(tiny_model(name), genome)
    living = draw(model)
    expected = weights_by_hand(genome, model, living)
    set_alive(model, living)
    for site, W in effective_weights(model).items():
        torch.testing.assert_close(W.double(), expected[site], atol=1e-6, rtol=0)
    before = logits(model, name)
    assert_round_off(logits(compact(model), name), before)
    assert {n: int(layer.core.shape[0]) for n, layer in prunable(model).items()} == {
        n: int(mask.sum()) for n, mask in living.items()
    }
    assert_round_off(logits(merge(model), name), before)


def test_a_diagonal_core_is_pruned_entry_by_entry(genome: Genome) -> None:
    model = constrain(tiny_model("llama"), genome, "diagonal")
    living = draw(model)
    set_alive(model, living)
    before = logits(model, "llama")
    for name, layer in prunable(model).items():
        assert torch.equal(layer.core != 0, living[name])
    assert_round_off(logits(compact(model), "llama"), before)


OPTIMISERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "adamw": lambda m: AdamW(m.parameters(), lr=0.1, weight_decay=0.1),
    "sgd": lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "adagrad": lambda m: Adagrad(m.parameters(), lr=0.1),
    "rmsprop": lambda m: RMSprop(m.parameters(), lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_the_dead_have_no_gradient_no_state_and_no_value(genome: Genome, kind: str) -> None:
    """Even where they were alive and moving when they died."""
    model = constrain(tiny_model("llama"), genome)
    optimizer = OPTIMISERS[kind](model)
    enforce_masks(model, optimizer)
    for step in range(4):
        if step == 2:
            set_alive(model, draw(model))
        ids = inputs("llama", step)["input_ids"]
        model(input_ids=ids, labels=ids).loss.backward()
        dead = {name: layer.dead for name, layer in prunable(model).items()}
        for name, layer in prunable(model).items():
            assert layer.core.grad is not None
            if (gone := dead[name]) is not None:
                assert layer.core.grad[gone].abs().sum() == 0
        optimizer.step()
        optimizer.zero_grad()
    for layer in prunable(model).values():
        gone = layer.dead
        assert gone is not None
        assert gone.any()
        assert layer.core[gone].abs().sum() == 0
        tensors = [v for v in optimizer.state[layer.core].values() if torch.is_tensor(v) and v.shape == gone.shape]
        assert tensors or kind == "sgd" or kind == "adagrad"
        assert all(tensor[gone].abs().sum() == 0 for tensor in tensors)


@given(k=st.integers(1, 8), seed=st.integers(0, 50))
def test_a_score_is_the_mean_over_living_entries_of_row_and_column(k: int, seed: int) -> None:
    entries = torch.rand(k, k, generator=stream(seed, "entries"))
    living = torch.rand(k, generator=stream(seed, "living")) < 0.6
    living[0] = True
    found = direction_scores(entries, living)
    rows = entries.numpy().astype(np.float64)
    for i in range(k):
        if not living[i]:
            assert found[i] == -torch.inf
            continue
        used = [rows[i, j] for j in range(k) if living[j]] + [rows[j, i] for j in range(k) if living[j] and j != i]
        assert float(found[i]) == pytest.approx(np.mean(used), rel=1e-5)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), share=st.floats(0.01, 1), seed=st.integers(0, 20))
def test_selection_keeps_the_best(sizes: list[int], share: float, seed: int) -> None:
    scores = {str(i): torch.rand(k, generator=stream(seed, "scores", i)) for i, k in enumerate(sizes)}
    for scores_of, kept in zip(scores.values(), select(scores, share).values(), strict=True):
        assert int(kept.sum()) == max(1, round(share * len(kept)))
        assert kept.all() or scores_of[kept].min() >= scores_of[~kept].max()
    chosen = select(scores, share, "global")
    assert sum(int(kept.sum()) for kept in chosen.values()) == max(len(sizes), round(share * sum(sizes)))
    assert all(kept[scores[name].argmax()] for name, kept in chosen.items())
    free = [(float(scores[n][i]), bool(kept[i])) for n, kept in chosen.items() for i in range(len(kept))]
    best = {float(s.max()) for s in scores.values()}
    dead = [score for score, kept in free if not kept]
    assert all(score >= max(dead, default=-1) for score, kept in free if kept and score not in best)


def test_what_is_dead_is_never_chosen() -> None:
    scores = {"l.0.a": torch.tensor([0.5, -torch.inf, 0.1]), "l.0.b": torch.tensor([-torch.inf, -torch.inf, 0.2])}
    for scope in SCOPES:
        chosen = select(scores, 1.0, scope)
        assert {name: kept.tolist() for name, kept in chosen.items()} == {
            "l.0.a": [True, False, True],
            "l.0.b": [False, False, True],
        }


def test_by_role_layers_compete_and_kinds_of_matrices_do_not() -> None:
    small, large = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([50.0, 60.0, 70.0, 80.0])
    scores = {"l.0.q": small, "l.1.q": small / 10, "l.0.v": large / 10, "l.1.v": large}
    chosen = select(scores, 0.5, "role")
    assert {name: int(kept.sum()) for name, kept in chosen.items()} == {"l.0.q": 3, "l.1.q": 1, "l.0.v": 1, "l.1.v": 3}
    assert chosen["l.1.q"].tolist() == [False, False, False, True], "its best stays"


def test_mistakes(genome: Genome) -> None:
    model = constrain(tiny_model("llama"), genome)
    site, mask = next(iter(draw(model).items()))
    for wrong in ({"nowhere": mask}, {site: mask[:-1]}, {site: torch.zeros_like(mask)}):
        with pytest.raises(InputError, match="expected which of its"):
            set_alive(model, wrong)
    with pytest.raises(InputError, match="has a core"):
        prunable(tiny_model("llama"))
    for share in (0.0, 1.1, -1.0):
        with pytest.raises(InputError, match="share"):
            select({"a": torch.ones(3)}, share)
