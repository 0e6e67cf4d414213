"""FLOPs against PyTorch's own counter, parameters against a count by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY, VOCABULARY, padding_flops, tiny_checkpoint
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.model.constrain import constrain, low_rank
from ontogeny.model.cost import flops_per_token, parameter_counts
from ontogeny.model.fast import next_token_loss
from ontogeny.model.initialise import donor_embeddings, fresh_model

READ = ("diagonal", "left", "right", "start")
KINDS = ("dense", "subspace", "mask", "low-rank", "frozen", *READ)


def build(name: str, kind: str, directory: Path) -> Any:
    donor = open_checkpoint(tiny_checkpoint(name, directory))
    model = fresh_model(TINY[name][1] | {"model_type": TINY[name][0]}, 0)
    if kind in ("subspace", "mask"):
        constrain(model, extract(donor, Recipe(rank="25%") if kind == "subspace" else Recipe(density="25%")))
    if kind in READ:
        constrain(model, extract(donor, Recipe(rank="25%")), kind)  # type: ignore[arg-type]
    if kind == "low-rank":
        low_rank(model, {site.name: 3 for site in donor.sites}, seed=0)
    if kind == "frozen":
        donor_embeddings(model, donor, trainable=False)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen3", "phi3", "gpt_neox", "gpt2"])
def test_flops_are_pytorchs_to_the_last_one(name: str, kind: str, tmp_path: Path) -> None:
    """No tolerance: both count matrix products alone, forward and backward, two FLOPs a multiply-add.

    PyTorch also counts the zeros that round products over a shared input up. Attention is eager, since its counter
    sees nothing inside the fused kernel of the CPU.
    """
    model = build(name, kind, tmp_path)
    model.set_attn_implementation("eager")
    size, length = 3, 16
    with FlopCounterMode(display=False) as counter:
        next_token_loss(model, torch.arange(size * (length + 1)).view(size, -1) % VOCABULARY).backward()
    assert flops_per_token(model, length) + padding_flops(model) == counter.get_total_flops() / (size * length)


def test_parameter_counts(tmp_path: Path) -> None:
    """A tiny Llama by hand: d 32, key and value 16, FFN 48, 64 tokens, two layers, five gains of 32."""
    matrices = [(32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48)] * 2
    body, rest = sum(m * n for m, n in matrices), 2 * 64 * 32 + 5 * 32
    ranks = [min(pair) // 4 for pair in matrices]
    bases = sum(k * (m + n) for k, (m, n) in zip(ranks, matrices, strict=True))
    cores = sum(k * k for k in ranks)
    expected = {
        "dense": (body + rest, body + rest),
        "subspace": (bases + cores + rest, cores + rest),
        "mask": (body + rest, body // 4 + rest),
        "low-rank": (sum(3 * (m + n) for m, n in matrices) + rest,) * 2,
        "frozen": (body + rest, body + 5 * 32),
        "diagonal": (bases + sum(ranks) + rest, sum(ranks) + rest),
        "left": (bases + rest, sum(k * n for k, (_, n) in zip(ranks, matrices, strict=True)) + rest),
        "right": (bases + rest, sum(k * m for k, (m, _) in zip(ranks, matrices, strict=True)) + rest),
        "start": (body + rest, body + rest),
    }
    for kind in KINDS:
        counts = parameter_counts(build("llama", kind, tmp_path))
        assert (counts["parameters"], counts["trainable_parameters"]) == expected[kind], kind


def test_a_frozen_map_costs_no_weight_gradient(tmp_path: Path) -> None:
    model = build("llama", "dense", tmp_path)
    before = flops_per_token(model, 16)
    down: nn.Module = model.get_submodule("model.layers.1.mlp.down_proj")
    down.requires_grad_(False)
    assert before - flops_per_token(model, 16) == 2 * 32 * 48


def test_flops_of_the_readings_in_closed_form(tmp_path: Path) -> None:
    """Instead of 6mn a matrix: 4k(m + n) with a diagonal, 6k² more with a core; 4 for a fixed basis, 6 for a factor."""
    shapes = [site.shape for site in open_checkpoint(tiny_checkpoint("llama", tmp_path)).sites]
    sizes = [(m, n, min(m, n) // 4) for m, n in shapes]
    without = flops_per_token(build("llama", "dense", tmp_path), 16) - sum(6 * m * n for m, n in shapes)
    expected = {
        "diagonal": sum(4 * k * (m + n) for m, n, k in sizes),
        "subspace": sum(4 * k * (m + n) + 6 * k * k for m, n, k in sizes),
        "left": sum(4 * k * m + 6 * k * n for m, n, k in sizes),
        "right": sum(6 * k * m + 4 * k * n for m, n, k in sizes),
        "start": sum(6 * m * n for m, n in shapes),
    }
    for kind, flops in expected.items():
        assert flops_per_token(build("llama", kind, tmp_path), 16) - without == flops, kind
