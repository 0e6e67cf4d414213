"""How a genome's layers agree in the residual stream: covariates printed beside every arm."""

import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.spectrum import effective_rank


def frame_statistics(genome: Genome, embedding: Float[Tensor, "vocabulary d"]) -> dict[str, float]:
    """Effective rank of the stacked projectors of all readers and of all writers, and their mean overlap with the
    embedding's leading k directions (chance: k/d). Low effective rank means that the layers share one frame.
    """
    directions = torch.linalg.svd(embedding.double(), full_matrices=False).Vh.T  # (d, d), leading first
    statistics = {}
    for name, side, flag in (("readers", "V", "reads_residual"), ("writers", "U", "writes_residual")):
        bases = [
            getattr(gene, side).double()
            for site, gene in genome.genes.items()
            if isinstance(gene, Subspace) and getattr(site, flag)
        ]
        if not bases or len(bases[0]) != len(directions):
            continue
        statistics[f"{name}_effective_rank"] = effective_rank(torch.linalg.svdvals(torch.cat(bases, 1)).square())
        shares = [float((directions[:, : Q.shape[1]].T @ Q).square().sum()) / Q.shape[1] for Q in bases]
        statistics[f"{name}_embedding_overlap"] = sum(shares) / len(shares)
        statistics[f"{name}_chance"] = sum(Q.shape[1] for Q in bases) / len(bases) / len(directions)
    return statistics
