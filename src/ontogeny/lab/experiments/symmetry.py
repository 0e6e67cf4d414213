"""Symmetry (G22, G23): are sparse networks the same but for their neurons' names, and what of a wiring is worth having?

Small classifiers, pruned by magnitude in rounds. What conditions compute stands in ``evolution/``: ``matching.py`` and
``transplant.py``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ontogeny.evolution.matching import matching
from ontogeny.evolution.transplant import transplant
from ontogeny.lab.experiments.symmetry_answers import ANSWERS as ANSWERS
from ontogeny.lab.experiments.symmetry_answers import WORLDS, matched, wired
from ontogeny.lab.experiments.symmetry_figures import matching_drawing, wiring_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements

NAME = "symmetry"
TITLE = "Symmetry: are sparse networks the same but for their neurons' names, and what of a wiring is worth having?"
VERSION = 1
FLAW = (
    "no number was published, nor in which sense symmetry breaks. Of one wiring it is broken as soon as two neurons "
    "differ in their edges, at any sparsity; that stands beside. Asked is whether two networks trained apart are the "
    "same up to a permutation, as dense ones nearly are (Entezari et al. 2022). A best permutation always finds "
    "something, and the more the sparser: it is set beside the same assignment on a network with the second's degrees, "
    "sizes and values, dealt out anew. Of wirings, what a donor's mask has ahead of a random one may be which inputs "
    "are read, a list of names and no graph: that is measured apart"
)


@dataclass(frozen=True)
class Settings:
    """``sparsities`` at which networks of one hidden layer, ``width`` wide, are matched: ascending, from 0.

    Wirings are of networks of two hidden layers, ``wiring_width`` wide, pruned at those of the sparsities below
    ``wiring_sparsity`` and then to it. All train for ``steps`` of ``batch`` rows. ``draws`` shuffled networks and
    planted ones are matched. ``hubs``: the share of hidden neurons that counts as hubs; ``groups`` of rows and of
    columns in the block model.
    """

    replicates: int
    sparsities: tuple[float, ...]
    width: int
    wiring_sparsity: float
    wiring_width: int
    steps: int
    batch: int
    draws: int
    hubs: float
    groups: int


SCALES = {
    "smoke": Settings(
        2, (0.0, 0.5, 0.8), 16, wiring_sparsity=0.8, wiring_width=12, steps=15, batch=16, draws=1, hubs=0.1, groups=2
    ),
    "laptop": Settings(
        20, (0.0, 0.5, 0.8, 0.9, 0.95, 0.98), 128, wiring_sparsity=0.9, wiring_width=64, steps=600, batch=32, draws=3,
        hubs=0.1, groups=4,
    ),
}  # fmt: skip

RULES = {
    "estimand": "every number is of one replicate, which draws the split or the world, starts, batches and random "
    "graphs; Student's t intervals over replicates, as many at once as a rule has (Bonferroni). Two worlds: images of "
    "digits, and a made-up one whose classes depend on 16 parts of four inputs each. A claim is supported or refuted "
    "where both worlds say so; code worlds differ where they contradict each other. Rates are tuned on a seed of their "
    "own; one at the grid's end makes it undecided, code rate unresolved",
    "G22": "two networks from different starts, pruned apart on the same rows. Agreement: the cosine of their weights "
    "under the best permutation, beyond the same assignment on the second network shuffled (degrees, sizes and "
    "values kept), as a share of what that leaves to 1. Removed barrier: 1 − the loss barrier under the best "
    "permutation ÷ that under the permutation that the shuffled network asks for. Symmetry between networks breaks if "
    "more than half of what dense networks have is lost at the highest sparsity: half the dense value − the sparse "
    "value, of both quantities in both worlds (four intervals). Supported in a world if both lower bounds > 0, refuted "
    "if both upper bounds < 0, at least half being left; code mixed if they contradict each other. Undecided, code "
    "gate: held-out loss at some sparsity not below half of what class frequencies give; nothing to break (a dense "
    "value's lower bound not above 0.05); a shuffled permutation's barrier of 0.02 nats or less at either end in some "
    "replicate; or a planted pair that shares half its neurons at every sparsity would be called broken in weights. "
    "Beside it the first network's near-symmetry and a third network in the first one's wiring",
    "G23": "held-out loss, nats, of fresh networks in a donor's wiring and in random ones of equal densities in every "
    "matrix. Value = density-matched − donor; names = density-matched − the same with the degrees of inputs and "
    "outputs kept; topology = the rest of the value: how hidden neurons are wired. Six intervals a world: the value, "
    "topology − names, and for graphs that also keep hubs, all degrees, degrees and clustering, degrees and blocks: "
    "what the graph has of topology − half of it. Supported in a world if the value's lower bound > 0.02, topology − "
    "names > 0 and some graph's > 0 (lower bounds): most of the value is the graph's, and a random graph with "
    "its properties has most of that. Refuted if the value's upper bound < 0.02, or, where its lower bound is above, "
    "if topology − names < 0 (names carry it) or every graph's < 0 (upper bounds: none of these properties carries it, "
    "the exact edges do). Undecided, code gate: the donor's wiring is not below half of what class frequencies give, "
    "some arm not below that, or clustering off by more than a tenth. Beside it the donor's graph under other names "
    "and the donor's own start in its wiring",
}


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    last = settings.wiring_sparsity
    rounds = [*(sparsity for sparsity in settings.sparsities if sparsity < last), last]
    common = {"steps": settings.steps, "size": settings.batch}
    for world in WORLDS:
        options = {"world": world, "width": settings.width, "densities": _densities(settings.sparsities)}
        yield Condition(matched(world), {"compute": "matching"} | options | common | {"draws": settings.draws})
        options = {"world": world, "width": settings.wiring_width, "densities": _densities(rounds)}
        graphs = {"share": settings.hubs, "groups": settings.groups}
        yield Condition(wired(world), {"compute": "wiring"} | options | common | graphs)


def _densities(sparsities: Any) -> tuple[float, ...]:
    return tuple(round(1 - sparsity, 6) for sparsity in sparsities)


COMPUTE = {"matching": matching, "wiring": transplant}


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = dict(options)
    function: Any = COMPUTE[given.pop("compute")]
    return dict(function(**given, seed=seed))


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """Matches and barriers by sparsity; losses by wiring."""
    return (matching_drawing(name, found, WORLDS), wiring_drawing(name, found, WORLDS))
