"""The activation-pca control against NumPy, on inputs of known span, and on a real donor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, tiny_checkpoint, tiny_model
from torch import Tensor

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import rank_of
from ontogeny.genome.genome import Subspace, load, save
from ontogeny.genome.linalg import canonical_basis, haar
from ontogeny.model.activations import activation_genome
from ontogeny.model.constrain import constrain
from ontogeny.streams import stream

WINDOWS = torch.randint(0, VOCABULARY, (40, 17), generator=stream(0, "windows"))
Array = np.ndarray[Any, np.dtype[np.float64]]


def span_error(found: Tensor, expected: Array) -> float:
    """‖P − P′‖₂ of the two projectors: the sine of the largest principal angle."""
    Q = found.double().numpy()
    return float(np.linalg.norm(Q @ Q.T - expected @ expected.T, 2))


def principal(activations: Array, k: int) -> Array:
    """Right singular vectors of the (tokens, d) activations, uncentred."""
    directions: Array = np.linalg.svd(activations, full_matrices=False)[2][:k].T
    return directions


def recorded(name: str, module: str) -> tuple[Array, Array]:
    """(tokens, d) inputs and outputs of a module of the tiny model, all windows at once."""
    found: list[Array] = []

    def record(_: Any, args: Any, output: Tensor) -> None:
        found.extend(t.flatten(0, 1).double().numpy() for t in (args[0], output))

    model = tiny_model(name)
    model.get_submodule(module).register_forward_hook(record)
    with torch.no_grad():
        model(input_ids=WINDOWS[:, :-1])
    return found[0], found[1]


HEAD = 8  # tiny models have four heads of 8
MODULES: dict[str, dict[str, tuple[str, Sequence[int]]]] = {
    "llama": {
        "attention.key": ("model.layers.1.self_attn.k_proj", range(16)),
        "attention.output": ("model.layers.1.self_attn.o_proj", range(32)),
        "mlp.down": ("model.layers.1.mlp.down_proj", range(32)),
    },
    "gpt_neox": {  # rows of head h: query, key, value, 8 each
        "attention.key": (
            "gpt_neox.layers.1.attention.query_key_value",
            [3 * HEAD * h + HEAD + j for h in range(4) for j in range(HEAD)],
        ),
        "mlp.up": ("gpt_neox.layers.1.mlp.dense_h_to_4h", range(48)),
    },
    "gpt2": {"attention.value": ("transformer.h.1.attn.c_attn", range(64, 96))},
}


@pytest.mark.parametrize("name", MODULES)
def test_agrees_with_numpy(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(name, tmp_path))
    genome = activation_genome(checkpoint, WINDOWS, "25%")
    assert tuple(genome.genes) == checkpoint.sites
    genes = {site.name: gene for site, gene in genome.genes.items()}
    for role, (module, rows) in MODULES[name].items():
        x, y = recorded(name, module)
        y = y[:, list(rows)]
        gene = genes[f"layers.1.{role}"]
        assert isinstance(gene, Subspace)
        assert gene.rank == rank_of("25%", min(y.shape[1], x.shape[1]))
        assert span_error(gene.V, principal(x, gene.rank)) < 1e-4  # the model's float32 over the gap at the cut
        assert span_error(gene.U, principal(y, gene.rank)) < 1e-4
        torch.testing.assert_close(gene.V, canonical_basis(gene.V).float())


def test_known_subspaces_are_recovered(tmp_path: Path) -> None:
    """Embeddings in the span of S, which a norm without gain keeps, and an output projection onto the span of R."""
    model, k = tiny_model("llama"), 4
    S, R = (haar(32, k, stream(0, "known", side)).float() for side in "SR")
    state = model.state_dict()
    state["model.embed_tokens.weight"].copy_(state["model.embed_tokens.weight"] @ S @ S.T)
    state["model.layers.0.input_layernorm.weight"].fill_(1)
    state["model.layers.0.self_attn.o_proj.weight"].copy_(R @ R.T @ state["model.layers.0.self_attn.o_proj.weight"])
    model.save_pretrained(tmp_path)
    genome = activation_genome(open_checkpoint(tmp_path), WINDOWS, k)
    genes = {site.name: gene for site, gene in genome.genes.items()}
    for role in ("query", "key", "value"):
        assert span_error(genes[f"layers.0.attention.{role}"].V, S.double().numpy()) < 1e-5  # type: ignore[union-attr]
    assert span_error(genes["layers.0.attention.output"].U, R.double().numpy()) < 1e-5  # type: ignore[union-attr]
    assert span_error(genes["layers.1.attention.query"].V, S.double().numpy()) > 0.1  # type: ignore[union-attr]


def test_provenance_and_use_as_a_genome(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("llama", tmp_path))
    before = torch.get_rng_state()
    genome = activation_genome(checkpoint, WINDOWS, "25%")
    assert torch.equal(before, torch.get_rng_state())
    assert genome.provenance["recipe"] == {"recipe": "activation-pca", "rank": "25%", "tokens": 640}
    assert genome.provenance["source"] == checkpoint.source()
    save(genome, tmp_path / "genome.safetensors")
    back = load(tmp_path / "genome.safetensors")
    assert back.provenance["recipe"] == genome.provenance["recipe"]
    model = constrain(tiny_model("llama", seed=1), back)
    assert torch.isfinite(model(input_ids=WINDOWS[:1]).logits).all()


def test_too_few_tokens_and_impossible_ranks_are_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint("llama", tmp_path))
    activation_genome(checkpoint, WINDOWS[:3], 4)  # 48 tokens for 48 dimensions
    with pytest.raises(InputError, match=r"47 tokens .* 48 dimensions"):
        activation_genome(checkpoint, WINDOWS.flatten()[:48][None], 4)
    with pytest.raises(InputError, match="rank 17"):
        activation_genome(checkpoint, WINDOWS, 17)
