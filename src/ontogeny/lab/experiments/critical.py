"""Critical periods and senses (S6, G3, G7, G8, G35): what must be met early, through which sense, and what is kept.

Small networks that name handwritten digits before one eye or two, or foretell characters of prose and code. What
conditions compute stands in ``evolution/``: ``windows``, ``modality``, ``amnesia``, ``redundancy``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ontogeny.evolution.amnesia import retention
from ontogeny.evolution.modality import different_worlds, other_codes
from ontogeny.evolution.redundancy import missing_senses
from ontogeny.evolution.windows import ARMS, WORLDS, deprivation
from ontogeny.lab.experiments.critical_answers import ANSWERS as ANSWERS
from ontogeny.lab.experiments.critical_answers import CHANNELS, grown
from ontogeny.lab.experiments.critical_figures import senses_drawing, windows_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements

NAME = "critical"
TITLE = "Critical periods and senses: what must be met early, through which sense, and what is kept?"
VERSION = 1
FLAW = (
    "no number was published. Achille, Rovere & Soatto (2019) found critical periods in deep networks, Kleinman, "
    "Achille & Soatto (2023) where two senses compete, with depth alone. A rate that decays makes early steps count "
    "for more by itself, so rates are constant here, a decaying one stands beside them, and every deprived network "
    "is compared with one that took the same other steps. Nothing here closes a window by biology's means: whether "
    "animals' periods end by inhibition that matures, by molecular brakes, or by competition alone is disputed, "
    "windows can be reopened in adults (Hensch 2005), and a closed eye that still sends noise loses more than a "
    "silent one (Rittenhouse et al. 1999); the eye here sends noise. Whether infant memories are lost or cannot be "
    "reached is disputed too (Akers et al. 2014 against Guskjolen et al. 2018): retention here is of what can be "
    "named. Consolidation here is the pruning of connections, not the transfer between memories that the word also "
    "means. Permuted pixels, and a permuted vocabulary alike, are the same problem to a network whose first weights "
    "are independent: they check the measures and decide nothing. All networks of a comparison learn the same ten "
    "classes, which makes any of them alike: so other codes are set beside other statistics with marginals kept. Of "
    "the design four things were changed after trial runs that decide nothing here. Less noise, more directions (24 "
    "for 12) and a test eye covered rather than noisy, so that networks never deprived learn enough; no deprived "
    "network had been looked at. And the near sense was made poorer after 30 steps of training had been seen, in "
    "which it alone did as well as all three: expect that to raise what two missing senses cost"
)


@dataclass(frozen=True)
class Settings:
    """Deprivation from step ``onsets`` on for ``lengths`` steps, ascending, with ``recovery`` steps after it.

    Networks of one sense, one code or one set of senses take ``steps``. Items are learnt for ``learning`` steps and
    asked after an ``interval`` of so many; pruning keeps each of these ``shares`` of connections.
    """

    replicates: int
    onsets: tuple[int, ...]
    lengths: tuple[int, ...]
    recovery: int
    steps: int
    learning: int
    interval: int
    shares: tuple[float, ...]


SCALES = {
    "smoke": Settings(2, (0, 20), (10, 20), 20, 20, 20, 20, (0.5, 0.2)),
    "laptop": Settings(20, (0, 200, 600), (200, 600), 400, 600, 400, 400, (0.5, 0.2)),
}

RULES = {
    "estimand": "every number is of one replicate, which draws the division of images, starts, data and noise; "
    "Student's t intervals over replicates, as many at once as a rule has (Bonferroni). Every verdict is undecided, "
    "code rate unresolved, if in one of its arms the tuned rate lies at an end of the grid",
    "S6": "harm is what deprivation costs, against a network that takes the same other steps and none deprived, both "
    "after the same recovery: of the eye in accuracy through the deprived eye alone (the other covered, silent), of "
    "the skill in nats on its text. At the longest deprivation, at a constant rate, five intervals in each of two "
    "arms, dense and genome (weights held to a donor's leading subspaces): the eye's early harm and early − late harm "
    "(> 0.01), the shift of ocular dominance towards the open eye, early − late (> 0.05), the skill's early harm and "
    "early − late harm (> 0.02). Early is from the first step, late the last onset. Supported if in both arms all "
    "lower bounds exceed their margins; refuted if in both arms an upper bound is below its margin; undecided, code "
    "mixed, if the arms differ; code gate unless networks never deprived learn (accuracy 0.3 above chance through one "
    "eye, 0.1 nats below the skill's unigram loss). Beside it genome − random axes of the same rank, and the dense "
    "arm at a decaying rate",
    "G3": "of two senses with half the channels each and none in common, by place (left, right) and by scale (coarse, "
    "fine): within − between senses, debiased CKA of the last hidden layer (> 0.05) and κ of mistakes (> 0.1), four "
    "intervals. Within are two seeds of one sense. Supported if all lower bounds exceed their margins, refuted if an "
    "upper bound is below; undecided, code gate, unless every network names half of the digits, and CKA and κ within "
    "are twice their margins at least. Beside it the same of untrained networks, which differ by their inputs alone, "
    "and of channels scattered at random",
    "G7": "of two other codes, pixels mixed by a rotation and receptors that saturate: how far they are from pixels "
    "beyond two seeds of one code, in CKA and in the share that a linear map leaves unexplained (four intervals), and "
    "by how much CKA is nearer than that of networks that grew up with pixels dealt anew within classes (two). "
    "Supported if all upper bounds of the four are < 0.05 and both lower bounds of the two > 0.05; refuted if a "
    "lower bound of the four is > 0.05; undecided, code gate, if the four hold and the two don't, since then CKA "
    "doesn't tell data apart, if permuted pixels are off by 0.05 or more on average in either measure, or if a "
    "network names less than half of the digits",
    "G8": "items learnt before pruning, after an interval of the same length and the same other learning: share kept "
    "without pruning − share kept, and share kept of items learnt after pruning − share kept, with half and with a "
    "fifth of connections kept (four intervals). Supported if at every dose both lower bounds > 0.05; refuted if at "
    "every dose an upper bound is < 0.05; undecided, code dose, if doses differ; code gate unless both sets are "
    "learnt to 0.9 and within 0.05 of each other, networks never pruned keep 0.3 of them, and half of the digits are "
    "named. Beside it pruning at random, and pruning after the late items",
    "G35": "cost is the loss without a sense, trained and tested, − the loss with both. Where both senses show the "
    "same thing: cost of two − twice the sum of the single costs (> 0), and the same of the fall of CKA with a "
    "network that had both (> 0): one costs less than a quarter of what two do; two intervals. Supported if both "
    "lower bounds exceed 0, refuted if an upper bound is below; undecided, code gate, unless the loss with both "
    "redundant senses is below half of that of knowing nothing, two cost 0.1 nats in both worlds, and the null, "
    "senses that show a thing of their own each, adds up within a quarter of what two cost. Beside it both senses "
    "given back late",
}


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    lived = {"onsets": settings.onsets, "lengths": settings.lengths, "recovery": settings.recovery}
    for kind in WORLDS:
        for arm in ARMS:
            options = {"compute": "deprivation", "kind": kind, "arm": arm, "decaying": False}
            yield Condition(grown(kind, arm), options | lived)
    options = {"compute": "deprivation", "kind": "eye", "arm": "dense", "decaying": True}
    yield Condition(grown("eye", "dense, decaying rate"), options | lived)
    for kind in CHANNELS:
        yield Condition(f"channels {kind}", {"compute": "channels", "kind": kind, "steps": settings.steps})
    yield Condition("codes", {"compute": "codes", "steps": settings.steps})
    lived = {"shares": settings.shares, "learning": settings.learning, "interval": settings.interval}
    yield Condition("items", {"compute": "items"} | lived)
    for world in ("redundant", "separate"):
        options = {"compute": "senses", "redundant": world == "redundant", "steps": settings.steps}
        yield Condition(f"senses {world}", options)


COMPUTE = {
    "deprivation": deprivation,
    "channels": different_worlds,
    "codes": other_codes,
    "items": retention,
    "senses": missing_senses,
}


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = dict(options)
    function: Any = COMPUTE[given.pop("compute")]
    return dict(function(**given, seed=seed))


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """Harm by onset and length; senses, codes, items and missing senses."""
    return (windows_drawing(name, found), senses_drawing(name, found))
