"""Genes that act on traits through each other, and an environment in which other traits come to matter."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from ontogeny.evolution.environments import ESSENTIAL, GENES, Tracking, moving_optima
from ontogeny.evolution.landscapes import Point
from ontogeny.streams import numpy_stream

REGULATORS = 2  # of every gene but the first ones
EFFECT = 0.5  # of a regulator on its target, either sign
DRIFT, JITTER = 1.0, 0.3  # sd of every optimum's slow part and of its jitter


@dataclass(frozen=True)
class Regulation:
    """Traits y = x + Ay of genes x, so y = (I − A)⁻¹x; the loss is ½ Σ eⱼ (yⱼ − target)², eⱼ a trait's weight.

    ``effects``: A, of a network without loops. ``essential``: the traits that matter before and after the switch.
    """

    effects: Float[np.ndarray, "d d"]
    essential: Bool[np.ndarray, "2 d"]

    @cached_property
    def hessians(self) -> Float[np.ndarray, "2 d d"]:
        """Of the loss in genes, before and after: Bᵀ diag(e) B with B = (I − A)⁻¹."""
        reach = np.linalg.inv(np.eye(len(self.effects)) - self.effects)
        weights = np.where(self.essential, 1.0, 1 / ESSENTIAL)
        return np.stack([reach.T @ (e[:, None] * reach) for e in weights])

    @cached_property
    def curvatures(self) -> Float[np.ndarray, "2 d"]:
        """Of every gene, before and after the switch."""
        return np.array([np.diag(hessian) for hessian in self.hessians])

    @cached_property
    def centrality(self) -> Point:
        """Katz's (1953): how much of the network hears of a gene, over all paths, whatever their signs."""
        return np.asarray(np.linalg.inv(np.eye(len(self.effects)) - np.abs(self.effects)).sum(0))


def make_regulation(seed: int) -> Regulation:
    """A network grown by preferential attachment (Barabási & Albert 1999): regulators of many find more to regulate.

    Which traits matter is drawn anew for the second environment: a quarter of the genes matters in both, a quarter in
    neither, a quarter in the first or the second alone.
    """
    rng = numpy_stream(seed, "regulation")
    effects = np.zeros((GENES, GENES))
    for gene in range(1, GENES):
        heard = 1.0 + np.count_nonzero(effects[:, :gene], axis=0)
        regulators = rng.choice(gene, min(gene, REGULATORS), replace=False, p=heard / heard.sum())
        effects[gene, regulators] = EFFECT * rng.choice([-1.0, 1.0], len(regulators))
    order, cells = rng.permutation(GENES), rng.permutation(GENES) % 4
    return Regulation(effects[np.ix_(order, order)], np.array([cells & 1 > 0, cells & 2 > 0]))


def make_switching(here: Regulation, generations: int, seed: int, *, native: bool = False) -> Tracking:
    """Half of the generations in each environment; where ``native``, all of them in the second one."""
    rng = numpy_stream(seed, "regulation", "optima")
    optima = moving_optima(np.full(GENES, DRIFT), np.full(GENES, JITTER), generations, rng)
    return Tracking(here.hessians, 0 if native else generations // 2, optima)
