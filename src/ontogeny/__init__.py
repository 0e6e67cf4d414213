"""Ontogeny: read a genome, build a network from it, train it, judge the result."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
    from ontogeny.genome.compare import compare
    from ontogeny.genome.controls import transform
    from ontogeny.genome.extract import Recipe, extract
    from ontogeny.genome.genome import Genome, Mask, Subspace, load, save
    from ontogeny.genome.sites import Site
    from ontogeny.model.constrain import constrain, low_rank, merge
    from ontogeny.model.initialise import fresh_model
    from ontogeny.model.layers import MaskedLinear, SubspaceLinear, enforce_masks
    from ontogeny.training.train import History, TrainConfig, train

# Where each public name lives; imported when first used, so that `ontogeny --help` answers at once.
_HOMES = {
    "ontogeny.genome.checkpoint": ("Checkpoint", "open_checkpoint"),
    "ontogeny.genome.compare": ("compare",),
    "ontogeny.genome.controls": ("transform",),
    "ontogeny.genome.extract": ("Recipe", "extract"),
    "ontogeny.genome.genome": ("Genome", "Mask", "Subspace", "load", "save"),
    "ontogeny.genome.sites": ("Site",),
    "ontogeny.model.constrain": ("constrain", "low_rank", "merge"),
    "ontogeny.model.initialise": ("fresh_model",),
    "ontogeny.model.layers": ("MaskedLinear", "SubspaceLinear", "enforce_masks"),
    "ontogeny.training.train": ("History", "TrainConfig", "train"),
}

__all__ = [
    "Checkpoint",
    "Genome",
    "History",
    "Mask",
    "MaskedLinear",
    "Recipe",
    "Site",
    "Subspace",
    "SubspaceLinear",
    "TrainConfig",
    "compare",
    "constrain",
    "enforce_masks",
    "extract",
    "fresh_model",
    "load",
    "low_rank",
    "merge",
    "open_checkpoint",
    "save",
    "train",
    "transform",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'ontogeny' has no attribute {name!r}")
