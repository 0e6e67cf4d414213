"""What an outer loop over hyperparameters reaches, and what as much compute reaches by pretraining."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.inner import BATCH, SIZES, Hyperparameters, World, fresh, plain_hyperparameters, widest
from ontogeny.evolution.networks import RATES
from ontogeny.evolution.pretraining import ROWS, TOGETHER, pretrained, with_subspaces, with_weights
from ontogeny.evolution.strategy import SEARCHES, Generation
from ontogeny.evolution.task_families import Family, joined
from ontogeny.streams import numpy_stream

LAYERS = len(SIZES) - 1
BODY = LAYERS - 1  # layers whose rank is a gene
GENES = (
    *(f"rank {layer}" for layer in range(1, LAYERS)),
    *(f"scale {layer}" for layer in range(1, LAYERS + 1)),
    *(f"rate {layer}" for layer in range(1, LAYERS + 1)),
)
SPREAD = 1.0  # doublings: of every gene in the first generation
TASKS = 2  # that a genome is tried on
TESTS = 16  # tasks of the final test


def decoded(genes: Generation, base: float = 1.0) -> Hyperparameters:
    """Hyperparameters of genomes. A gene counts doublings of its default; a layer has no rank beyond whole.

    ``base``: the learning rate that multipliers multiply.
    """
    ranks, scales, rates = np.split(np.exp2(np.clip(genes, -12, 12)), [BODY, BODY + LAYERS], axis=1)
    whole = widest(SIZES)
    own = np.clip(np.rint(whole[:BODY] * ranks), 1, whole[:BODY]).astype(int)
    head = np.full((len(genes), 1), whole[-1])
    return Hyperparameters(np.hstack([own, head]), scales, base * rates)


def world(steps: int, seed: int) -> World:
    """The family of a replicate."""
    return World(Family.drawn(numpy_stream(seed, "family")), steps, seed)


def profile(search: str, generations: int, offspring: int, steps: int, seed: int) -> dict[str, Any]:
    """What the genes that a search settles on reach on tasks that it hasn't met.

    Measured: ``loss``, mean log₁₀ test loss (a constant's is 0); ``resolved``, whether the base rate lies inside the
    grid; ``genes``, in doublings of the default; ``distance``, their root mean square.
    """
    own = world(steps, seed)
    draw, start = fresh(SIZES), np.zeros(len(GENES))
    base = own.base_rate(draw, decoded(start[None]))

    def fitness(generation: int, genomes: Generation) -> Float[np.ndarray, " offspring"]:
        found = own.scores(draw, decoded(genomes, base), TASKS, "search", generation)
        return np.asarray(found.mean(1))

    rng = numpy_stream(seed, "genes", search)
    genes = SEARCHES[search](fitness, start, SPREAD, (generations, offspring), rng)
    measured = own.tested(draw, decoded(genes[None]), TESTS)
    return measured | {"genes": genes.tolist(), "distance": float(np.sqrt(np.square(genes).mean()))}


def donor_steps(generations: int, offspring: int, steps: int) -> int:
    """Steps of each of the donors, one a rate, that together see as many rows as all inner trainings of a search."""
    rows = generations * offspring * TASKS * steps * BATCH
    return max(1, rows // (len(RATES) * TOGETHER * ROWS))


def inherited(generations: int, offspring: int, steps: int, seed: int) -> dict[str, Any]:
    """What newcomers reach on the same tasks with what they inherit of a donor.

    The donor learns the tasks of a search, at the search's compute, its rate tuned within that. Arms: ``weights``,
    those with turned inputs (``rotated``), ``genome``, its leading subspaces at its ranks, ``random genome``, as many
    random directions. Measured of each: loss and resolved, as of a search; of the donor its ranks, loss and resolved.
    """
    own = world(steps, seed)
    met = [own.family.tasks(numpy_stream(seed, "search", g, "tasks"), TASKS) for g in range(generations)]
    rng = numpy_stream(seed, "pretraining")
    donor = pretrained(joined(met), SIZES, donor_steps(generations, offspring, steps), rng)
    ranks, whole = donor.ranks(), plain_hyperparameters(SIZES)
    held = plain_hyperparameters(SIZES, ranks)
    arms = {
        "weights": (with_weights(donor, SIZES), whole),
        "rotated": (with_weights(donor, SIZES, rotated=True), whole),
        "genome": (with_subspaces(donor, SIZES), held),
        "random genome": (fresh(SIZES), held),
    }
    found: dict[str, Any] = {
        "ranks": ranks,
        "donor loss": float(np.log10(donor.loss)),
        "donor resolved": float(donor.resolved),
    }
    for name, (draw, genome) in arms.items():
        found |= {f"{name} {key}": value for key, value in own.tested(draw, genome, TESTS).items()}
    return found
