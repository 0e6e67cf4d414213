"""The activation-pca control: a genome from what flows through the donor's sites instead of from their weights."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.extract import rank_of
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import Decomposition, canonical_basis, leading_subspaces
from ontogeny.genome.sites import Place
from ontogeny.model.constrain import model_places

Moments = dict[str, Tensor]  # site name -> Σ a aᵀ over tokens, float64

BATCH = 16  # windows a forward pass


def activation_genome(checkpoint: Checkpoint, windows: Int[Tensor, "count length_plus_1"], rank: str | int) -> Genome:
    """V from the leading principal directions of each site's inputs, U from those of its outputs, bias included.

    Principal directions are the eigenvectors of the uncentred second moment Σ a aᵀ, summed in float64 over the
    tokens that the donor, run in float32, reads in ``windows`` (every token but the last of each). A certificate in
    ``provenance["certificates"]`` is that of the site's worse side. Raises InputError for fewer tokens than the
    largest dimension and for a rank that a site can't have.
    """
    tokens = windows[:, :-1].numel()
    largest = max(max(site.shape) for site in checkpoint.sites)
    if tokens < largest:
        raise InputError(f"{tokens} tokens can't span a site's {largest} dimensions: give more windows of text")
    ranks = {site: rank_of(rank, min(site.shape)) for site in checkpoint.sites}
    inputs, outputs = _second_moments(checkpoint, windows[:, :-1])
    genes, certificates = {}, {}
    for site, k in ranks.items():
        sides = [leading_subspaces(moments[site.name], k) for moments in (outputs, inputs)]
        genes[site] = Subspace(*(canonical_basis(side.U).float() for side in sides))
        certificates[site.name] = max(sides, key=_error).certificate.to_json()
    recipe = {"recipe": "activation-pca", "rank": rank, "tokens": tokens}
    return Genome(genes, {"recipe": recipe, "source": checkpoint.source(), "certificates": certificates})


def _error(side: Decomposition) -> float:
    return side.certificate.error_bound


@torch.no_grad()
def _second_moments(checkpoint: Checkpoint, ids: Int[Tensor, "count length"]) -> tuple[Moments, Moments]:
    """Each site's inputs' and outputs' second moments over all tokens."""
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        checkpoint.directory, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    inputs: Moments = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    outputs: Moments = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    for place in model_places(model):
        model.get_submodule(place.name).register_forward_hook(_accumulate(place, inputs, outputs))
    for batch in ids.split(BATCH):
        model(input_ids=batch, use_cache=False)
    return inputs, outputs


def _accumulate(place: Place, inputs: Moments, outputs: Moments) -> Callable[..., None]:
    """A forward hook that adds one batch to the moments of the place's sites; a fused output is split by its rows."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        moment = _moment(args[0])
        for name, rows in place.rows.items():
            inputs[name] = inputs[name] + moment
            outputs[name] = outputs[name] + _moment(output[..., rows])

    return hook


def _moment(activations: Float[Tensor, "*batch d"]) -> Float[Tensor, "d d"]:
    A = activations.flatten(0, -2).double()  # (tokens, d)
    return A.T @ A
