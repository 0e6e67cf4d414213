"""Context (G28, S7, S16, S17, S19): what is decided at run time, and what stays?

Transformers that learn regressions in context, twins in several environments, and layers whose directions a context
chooses. What conditions compute stands in ``evolution/``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ontogeny.evolution.in_context import in_context
from ontogeny.evolution.raised_apart import raised_apart
from ontogeny.evolution.routing import routing
from ontogeny.lab.experiments.context_answers import ANSWERS as ANSWERS
from ontogeny.lab.experiments.context_answers import GENOMES, IN_CONTEXT, WORLDS, routed, twins
from ontogeny.lab.experiments.context_figures import behaviour_drawing, learning_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements

NAME = "context"
TITLE = "Context: what is decided at run time, and what stays?"
VERSION = 1
FLAW = (
    "no number was published. That a forward pass changes no parameter holds by construction; what can fail is that "
    "nothing is left in the states of what follows, that retention would be seen if there were any, and that learning "
    "in context happens at all. Whether it is gradient descent is disputed (von Oswald et al. 2023; Shen et al. 2024), "
    "and so lookups stand beside learners"
)


@dataclass(frozen=True)
class Settings:
    """A transformer of ``layers`` of a ``width`` learns regressions of a ``dimension`` from ``pairs`` in ``steps``.

    Each step has a ``batch`` of new tasks, at a ``rate`` that was the best in 300 steps on the tuning seed, as was
    ``grown_rate`` for the network grown from ``rank`` directions of its matrices: of 0.001, 0.003, 0.01, 0.03 and
    0.1, neither at the grid's end. Errors are of so many ``tasks``. ``spreads`` are powers of 2 of run-time
    hyperparameters. Environments show some classes ``skews`` times as often, ascending from 1; twins train for
    ``twin_steps``, layers with a router for ``routing_steps``.
    """

    replicates: int
    dimension: int
    pairs: int
    width: int
    layers: int
    rank: int
    steps: int
    batch: int
    rate: float
    grown_rate: float
    tasks: int
    spreads: tuple[float, ...]
    skews: tuple[float, ...]
    twin_steps: int
    routing_steps: int


SCALES = {
    "smoke": Settings(
        2, 4, 6, 16, 2, 8, 20, 16, 0.01, 0.03,
        tasks=50, spreads=(0.5, 1.0), skews=(1.0, 3.0, 9.0), twin_steps=8, routing_steps=5,
    ),
    "laptop": Settings(
        15, 4, 10, 32, 3, 16, 800, 64, 0.01, 0.03,
        tasks=1000, spreads=(0.5, 1.0), skews=(1.0, 3.0, 9.0), twin_steps=300, routing_steps=500,
    ),
}  # fmt: skip

RULES = {
    "estimand": "every number is of one replicate, which draws networks, worlds and tasks; Student's t intervals over "
    "replicates, as many at once as a rule has (Bonferroni). Errors in context are shares of the mean squared answer, "
    "which is what the best prediction without a context has. A network learns in context if, after all pairs, its "
    "error is below 1 and below that with every label at another pair of its task by more than 0.2 each (lower bounds "
    "of two intervals); where it doesn't, what is asked of it is undecided, code gate",
    "G28": "asked where the trained and the grown network both learn in context, and where twins fine-tuned on a "
    "task's pairs keep it without a context by more than 0.2 of error beyond twins of rolled labels, so that retention "
    "is seen where it is (else code gate; rate unresolved if in more than one replicate in twenty their rate is at the "
    "grid's end). Left behind: the error on a task's queries where its pairs were evicted, and later pairs of another "
    "task, which have seen them, stay, below that where these have seen a third task's pairs (three intervals with the "
    "twins'). Supported if without a context what both networks say, and their parameters, are the same to the bit as "
    "before, in every replicate, and of both networks the upper bounds of what is left are < 0.05; refuted if a bit "
    "differs or a lower bound is > 0.05",
    "S19": "after all pairs, the share of ridge's gain over no context that the trained network has, on new tasks; "
    "over all numbers of pairs, by how much what it says is nearer (mean squared difference) to the nearest of ridge "
    "and 1, 2, 4 or 8 gradient steps than to the nearest lookup, k-NN or kernel, each at its best for the number of "
    "pairs (two intervals). Supported if the lower bounds are > 0.75 and > 0.05; refuted if the first upper bound is "
    "< 0.5 or the second < 0. What is left when the context is gone is G28's question, and told beside it; so are "
    "tasks twice as large as any in training",
    "S16": "what networks say of 16 queries in every cell of 8 contexts × 4 weights (trained and grown, at half of "
    "training and in the end) × 4 hyperparameters of run time (attention as it is, sharper and softer by 2^spread, the "
    "oldest pairs left out, half at spread 1): shares of its variance that depend on each factor at all, and of all "
    "interactions (four intervals a spread). Supported if at every spread all lower bounds > 0.05; refuted if at "
    "every spread an upper bound is < 0.05; else undecided, code dose if spreads differ. It says that all three count, "
    "and not by mere addition; how much each does is of these levels. Beside it what the mere order of pairs does",
    "S7": "donor genomes × environments × seeds, what twins say of the same images: the share of its variance that the "
    "environment has with its interaction with the genome, beyond the same share at skew 1, where environments differ "
    "by the order of images alone (an interval a skew above 1). Supported if all lower bounds > 0.1; refuted if all "
    "upper bounds are < 0.1; else undecided, code dose if skews differ. Code gate unless at every skew twins name more "
    "than half of the images (lower bound); rate unresolved as in G28. Random genomes, and how often twins name "
    "another class, beside it; E15 asks for the genome's share in developed networks",
    "S17": "test errors at equal active parameters, the router's counted, in two worlds of digits: by how much the "
    "layer whose directions the context chooses is below the same number for all rows, below one whose directions a "
    "hash of the row chooses, and the first beyond what it is with one regime (six intervals). Supported if all lower "
    "bounds > 0.01; refuted if in both worlds some upper bound is < 0.01; else undecided, code mixed if the worlds "
    "differ. Code gate unless all directions together name more than half of the images in either world, and, where "
    "regimes were planted in directions of their own, the chosen ones are ahead of both others by more than 0.05 "
    "(lower bounds of two intervals), so that the router can learn; rate unresolved as in G28",
}


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    same = ("dimension", "pairs", "width", "layers", "rank", "steps", "batch", "rate", "grown_rate", "tasks", "spreads")
    yield Condition(IN_CONTEXT, {"compute": IN_CONTEXT} | {name: getattr(settings, name) for name in same})
    for genomes in GENOMES:
        for skew in settings.skews:
            options: dict[str, Any] = {"donors": genomes == "donor", "skew": skew, "steps": settings.twin_steps}
            yield Condition(twins(genomes, skew), {"compute": "twins"} | options)
    for world in WORLDS:
        yield Condition(routed(world), {"compute": "routing", "world": world, "steps": settings.routing_steps})


COMPUTE = {IN_CONTEXT: in_context, "twins": raised_apart, "routing": routing}


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = dict(options)
    function: Any = COMPUTE[given.pop("compute")]
    return dict(function(**given, seed=seed))


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """Learning in context beside learners and lookups; shares of behaviour, and errors of chosen directions."""
    return (learning_drawing(name, found), behaviour_drawing(name, found))
