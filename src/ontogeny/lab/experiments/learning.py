"""Learning (G9, G33, G34, S8): what do networks share that learnt the same, whatever found them?

Small networks on scikit-learn's digits and on Python's help. What conditions compute stands in ``evolution/``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ontogeny.evolution.locality import ARMS, inherit
from ontogeny.evolution.matched_loss import interchangeable
from ontogeny.evolution.superposed import superposition
from ontogeny.evolution.two_architectures import compare
from ontogeny.lab.experiments.learning_answers import ANSWERS as ANSWERS
from ontogeny.lab.experiments.learning_answers import inherited
from ontogeny.lab.experiments.learning_figures import inheritance_drawing, likeness_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements

NAME = "learning"
TITLE = "Learning: what do networks share that learnt the same, whatever found them?"
VERSION = 1
FLAW = (
    "no number was published. Networks on the same images are alike before they learn anything, through the pixels, "
    "and after it through the classes that both tell apart: here similarity is set beside untrained networks, "
    "networks with labels dealt out, images permuted within their class, and two seeds of one network; searchers are "
    "compared at one loss; a bias that is passed on stands beside others as sharp. Superposition is read as directions "
    "in common beyond what covariance brings about; that different tokens or worlds are packed into directions that "
    "overlap by chance, which the word means too, can't be told from accident here. What genes do is not computed"
)


@dataclass(frozen=True)
class Settings:
    """Networks of images learn ``examples`` for ``steps`` batches of ``batch``; they are compared on ``probes`` others.

    Searchers see ``rows`` images of a world, until their loss is ``target`` nats, at most ``limit`` steps. Transformers
    learn numbers of images, ``sizes``, ascending; the middle one tunes their rates, and ``accuracy`` is to be reached.
    Networks of text read ``characters`` for ``reading`` steps and are looked at on ``held`` others: ``directions``
    leading ones, beside ``dealt`` networks in each world with nothing to learn.
    """

    replicates: int
    examples: int
    probes: int
    steps: int
    batch: int
    rows: int
    target: float
    limit: int
    sizes: tuple[int, ...]
    accuracy: float
    characters: int
    reading: int
    held: int
    directions: int
    dealt: int


SCALES = {
    "smoke": Settings(
        2, examples=100, probes=100, steps=3, batch=4, sizes=(10, 20), accuracy=0.2, rows=60, target=1.2, limit=10,
        characters=2000, reading=10, held=2000, directions=2, dealt=2,
    ),
    "laptop": Settings(
        10, examples=1000, probes=500, steps=300, batch=32, sizes=(25, 50, 100, 200, 400), accuracy=0.6,
        rows=300, target=0.3, limit=3000, characters=40_000, reading=600, held=12_000, directions=4, dealt=8,
    ),
}  # fmt: skip

RULES = {
    "estimand": "every number is of one replicate, which draws images or text, networks and batches; Student's t "
    "intervals over replicates, as many at once as a rule has (Bonferroni). One kind of network has one rate, the best "
    "on another seed; a best rate at an end of the grid makes a claim undecided, code rate unresolved",
    "G9": "of a convolutional network and a vision transformer on the same labels, on images that neither has seen: "
    "debiased CKA beyond what pixels explain, and mutual 10-NN; for each by how much it is above the highest of three "
    "nulls, untrained networks, networks whose labels are dealt out, and images permuted within their class; and by "
    "how much above the midpoint of untrained networks and two seeds of one kind (four intervals). Supported if the "
    "first have their lower bounds > 0.05 and the second > 0; refuted if an upper bound is below its margin; "
    "undecided, code gate, if either kind is right on less than 80 % of new images",
    "G33": "networks found by SGD, AdamW, an evolution strategy and a genetic algorithm at one loss, by overlap of the "
    "first layer's four leading axes, debiased CKA and mutual 10-NN, always between two seeds: data is what one "
    "searcher's networks have in common in one world beyond what they have in two worlds of other digits; searcher is "
    "a quarter of that, less what networks of one searcher have in common beyond those of two (six intervals). "
    "Supported if all lower bounds of data > 0.05 and of searcher > 0. Refuted if for a measure whose data has its "
    "lower bound > 0.05 the upper bound of searcher is < 0, or if all upper bounds of data are < 0.05. Undecided, code "
    "gate, if less than 95 % of some searcher's networks reach the loss, or their mean loss is below 85 % of it. "
    "Beside it the shares of searcher, data, architecture and seed in the variance over networks",
    "G34": "log₂ of the images that a vision transformer needs to be right on three of five new ones, by its start: "
    "plain, with a locality at random of the same entropy, and with the profile shuffled, each less the same "
    "with the locality profile of a convolutional network that learnt other images; and plain less started in that "
    "network's leading singular subspaces (four intervals). Supported if the first three have their lower bounds > 0.1 "
    "and the last its upper bound < 0.1: the bias serves, direct extraction fails. Refuted if an upper bound of the "
    "first three is < 0.1 or the lower bound of the last > 0.1. Undecided, code gate, if the convolutional network is "
    "right on less than 90 %, or in more than one replicate in ten one of the first four reaches the accuracy outside "
    "of the sizes. Beside it random subspaces, the profile before training, and distillation",
    "S8": "mean overlap of the four leading directions of a second layer, between networks from one start raised in "
    "two worlds, and between the eight most frequent tokens in one network: its z against random directions of the "
    "same covariance, its z against networks from the same start with nothing to learn, and by how much one world or "
    "token overlaps more with itself (six intervals). Supported if all z have their lower bounds > 2 and the last two "
    "> 0.05: shared beyond accident, and yet different. Refuted if for worlds or tokens the upper bound of z against "
    "the same covariance is < 0: kept apart. Else undecided; code gate if held-out loss is less than 0.3 nats below "
    "what characters' frequencies reach",
}


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    learnt: dict[str, Any] = {"examples": settings.examples, "steps": settings.steps, "batch": settings.batch}
    yield Condition("architectures", {"compute": "architectures", "probes": settings.probes} | learnt)
    searched: dict[str, Any] = {"rows": settings.rows, "target": settings.target, "limit": settings.limit}
    yield Condition(
        "searchers", {"compute": "searchers", "probes": settings.probes, "batch": 2 * settings.batch} | searched
    )
    given: dict[str, Any] = {"sizes": settings.sizes, "accuracy": settings.accuracy}
    for arm in ARMS:
        yield Condition(inherited(arm), {"compute": "inheritance", "arm": arm} | learnt | given)
    text: dict[str, Any] = {"characters": settings.characters, "steps": settings.reading, "held": settings.held}
    beside = {"directions": settings.directions, "dealt": settings.dealt}
    yield Condition("superposition", {"compute": "superposition"} | text | beside)


COMPUTE = {
    "architectures": compare,
    "searchers": interchangeable,
    "inheritance": inherit,
    "superposition": superposition,
}


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = dict(options)
    function: Any = COMPUTE[given.pop("compute")]
    return dict(function(**given, seed=seed))


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """How alike networks are, by what they share; accuracy by images and what was inherited."""
    return (likeness_drawing(name, found), inheritance_drawing(name, found))
