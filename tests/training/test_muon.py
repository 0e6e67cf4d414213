"""Muon against torch.optim.Muon, AdamW beside it, and what holds of the batched step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from test_train import batches, run
from tiny import tiny_checkpoint, tiny_model
from torch import Tensor, nn

from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.model.constrain import constrain, effective_weights
from ontogeny.model.fast import next_token_loss
from ontogeny.model.layers import SubspaceLinear, enforce_masks
from ontogeny.model.prune import prunable, set_alive
from ontogeny.streams import stream
from ontogeny.training.muon import Muon, orthogonalised
from ontogeny.training.train import TrainConfig, make_optimizer

CONFIG = TrainConfig(12, 1e-2, 2e-2, weight_decay=0.1, optimizer="muon")
KINDS: tuple[Literal["muon", "adamw"], ...] = ("muon", "adamw")
Network = Callable[[], nn.Module]


def matrices(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed, "matrices"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Network]:
    """A tiny Llama in a donor's subspaces, the same with diagonal cores, under its mask, and dense."""
    donor = open_checkpoint(tiny_checkpoint("llama", tmp_path_factory.mktemp("donor"), seed=9))
    genome, mask = extract(donor, Recipe(rank="50%", basis="singular")), extract(donor, Recipe(density="30%"))
    return {
        "subspace": lambda: constrain(tiny_model("llama"), genome),
        "diagonal": lambda: constrain(tiny_model("llama"), genome, "diagonal"),
        "mask": lambda: constrain(tiny_model("llama"), mask),
        "dense": lambda: tiny_model("llama"),
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_equal_to_the_muon_of_torch(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of two sizes over four steps, at a rate that changes. Torch iterates in bf16: ours to its rounding."""
    if precision == "fp32":
        monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)
    ours = [nn.Parameter(matrices(k, k, seed=i)) for i, k in enumerate((6, 9, 6, 9, 6))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    one = Muon([{"params": ours, "orthogonal": True}], weight_decay=0.1)
    other = torch.optim.Muon(theirs, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = matrices(*p.shape, seed=100 * step + i)
            q.grad = p.grad.clone()
        for optimizer in (one, other):
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.step()
    tolerance = 1e-5 if precision == "fp32" else 0.02
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(one.state[p]["momentum_buffer"], other.state[q]["momentum_buffer"])


def test_orthogonalisation_keeps_singular_vectors_and_moves_values_near_one() -> None:
    X = matrices(20, 8, 8).double()
    U, s, Vt = torch.linalg.svd(X)
    values = U.mT @ orthogonalised(X) @ Vt.mT
    diagonal = values.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(values, torch.diag_embed(diagonal), atol=1e-9, rtol=0)
    told = diagonal[s > 0.01 * s.norm(dim=1, keepdim=True)]
    assert len(told) > 100
    assert ((told > 0.65) & (told < 1.25)).all()
    assert torch.count_nonzero(orthogonalised(torch.zeros(2, 3, 3))) == 0


def test_a_batch_is_its_matrices_one_by_one() -> None:
    X = matrices(5, 7, 7)
    torch.testing.assert_close(orthogonalised(X), torch.cat([orthogonalised(x) for x in X.split(1)]))


def test_cores_take_spectral_steps_and_everything_else_is_adamws(networks: dict[str, Network]) -> None:
    """‖ΔW‖₂ = ‖ΔC‖₂, about 0.2·√k·rate; other parameters after a step are AdamW's, to the bit."""
    models = {kind: networks["subspace"]() for kind in KINDS}
    before = effective_weights(models["muon"])
    for kind, model in models.items():
        optimizer = make_optimizer(model, replace(CONFIG, optimizer=kind, weight_decay=0.0))
        next_token_loss(model, batches(0)).backward()
        optimizer.step()
    named = dict(models["adamw"].named_parameters())
    for name, p in models["muon"].named_parameters():
        assert torch.equal(p, named[name]) == (not name.endswith(".core")), name
    after, layers = effective_weights(models["muon"]), prunable(models["muon"])
    assert len(layers) == 14
    for name, layer in layers.items():
        step = float(torch.linalg.matrix_norm(after[name] - before[name], 2))
        assert 0.65 < step / (0.2 * len(layer.core) ** 0.5 * CONFIG.body_rate) < 1.25


@pytest.mark.parametrize("arm", ["dense", "mask", "diagonal"])
def test_without_full_cores_it_is_adamw_to_the_bit(networks: dict[str, Network], arm: str) -> None:
    config = replace(CONFIG, steps=4, evaluate_at=(1, 2, 3))
    losses = [run(networks[arm](), replace(config, optimizer=kind)).losses for kind in KINDS]
    assert losses[0] == losses[1]


def test_the_dead_stay_exactly_zero(networks: dict[str, Network]) -> None:
    """Directions that die while their cores have momentum; weight decay too."""
    model = networks["subspace"]()
    optimizer = make_optimizer(model, CONFIG)
    enforce_masks(model, optimizer)
    for step in range(4):
        if step == 2:
            set_alive(model, {name: torch.arange(m.U.shape[1]) % 3 != 1 for name, m in prunable(model).items()})
        next_token_loss(model, batches(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    for layer in (m for m in model.modules() if isinstance(m, SubspaceLinear)):
        dead = layer.dead
        assert dead is not None
        assert dead.any()
        assert torch.count_nonzero(layer.core[dead]) == 0
        assert torch.count_nonzero(optimizer.state[layer.core]["momentum_buffer"][dead]) == 0
        assert (layer.core[~dead] != 0).all()


def test_a_learnable_sequence_is_learnt(networks: dict[str, Network]) -> None:
    history = run(networks["subspace"](), replace(CONFIG, steps=60, weight_decay=0.0))
    assert history.losses[-1] < 1.5 < history.losses[0]
