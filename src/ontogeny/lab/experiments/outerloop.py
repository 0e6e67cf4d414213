"""Outer loops (S9, G5, G13, G15, G26): what does search over searches find?

Evolution of hyperparameters, wirings, ranks and learning rules, with the training of small networks as fitness; beside
it donors pretrained at as much compute. What conditions compute stands in ``evolution/``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ontogeny.evolution.bodies import bodies
from ontogeny.evolution.donor_scaling import worth
from ontogeny.evolution.growing_rank import LANDSCAPES, growth
from ontogeny.evolution.hyperparameters import inherited, profile
from ontogeny.evolution.learning_rules import rules
from ontogeny.evolution.strategy import SEARCHES
from ontogeny.lab.experiments.outerloop_answers import ANSWERS as ANSWERS
from ontogeny.lab.experiments.outerloop_answers import cells, scaling
from ontogeny.lab.experiments.outerloop_figures import growth_drawing, profile_drawing
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.store import Store
from ontogeny.lab.study import Condition, Measurements

NAME = "outerloop"
TITLE = "Outer loops: what does a search over searches find?"
VERSION = 1
FLAW = (
    "no number was published, and no outer loop was run. Here an outer loop has a null that selects blindly and a "
    "random search of the same size, donors get the compute of all its inner trainings, and everything ends on tasks "
    "and draws that no loop has met. Networks and tasks are tiny; what being embodied adds is told, not computed. "
    "That connection costs make brains modular is a result of simulations; in biology it is disputed. Sizes were "
    "settled on other seeds by whether arms learn, which told a little of what follows: G26's newcomers in "
    "random subspaces hardly did, so that a gap is there was known, not how it grows; G5's doses and densities were "
    "set so that costs are felt; and SGD was seen not to learn one of G15's families in the steps it has"
)


@dataclass(frozen=True)
class Settings:
    """``generations`` of ``offspring`` genomes search hyperparameters, every one trained for ``inner_steps``.

    Wirings evolve for ``wiring_generations`` of ``wiring_offspring`` genomes, trained for ``wiring_steps``, at each of
    ``doses``: decades of loss for all connections or all units. Ranks grow over ``rank_generations``, learning rules
    evolve for ``rule_generations``. Donors of all ``widths`` train for ``donor_steps``, those of ``donor_width`` for
    each of ``ladder``, newcomers for ``newcomer_steps``. ``widths`` and ``ladder`` ascend; what a donor is worth is
    looked at from a quarter of the largest to the largest.
    """

    replicates: int
    generations: int
    offspring: int
    inner_steps: int
    wiring_generations: int
    wiring_offspring: int
    wiring_steps: int
    doses: tuple[float, ...]
    rank_generations: int
    rule_generations: int
    widths: tuple[int, ...]
    donor_width: int
    ladder: tuple[int, ...]
    donor_steps: int
    newcomer_steps: int


SCALES = {
    "smoke": Settings(
        2, generations=2, offspring=4, inner_steps=5, wiring_generations=2, wiring_offspring=4, wiring_steps=4,
        doses=(0.3, 0.6), rank_generations=10, rule_generations=2, widths=(4, 8, 16), donor_width=16,
        ladder=(4, 8, 16), donor_steps=16, newcomer_steps=5,
    ),
    "laptop": Settings(
        10, generations=25, offspring=12, inner_steps=100, wiring_generations=40, wiring_offspring=40, wiring_steps=50,
        doses=(0.3, 0.6), rank_generations=400, rule_generations=20, widths=(8, 16, 24, 32, 48, 64), donor_width=32,
        ladder=(64, 128, 256, 512, 1024, 2048), donor_steps=512, newcomer_steps=200,
    ),
}  # fmt: skip

RULES = {
    "estimand": "every number is of one replicate, which draws families, tasks, starts and mutations; losses are "
    "log₁₀ of the test error in units of a constant's, on tasks that no search has met, every arm at a base rate "
    "tuned on tasks of its own; Student's t intervals over replicates, as many at once as a rule has (Bonferroni). A "
    "claim is undecided, code gate, where an arm that has to learn (S9: the default, G5: wirings alone and with "
    "costs, G13: the best fixed rank, G15: Adam, G26: newcomers in the largest donors' subspaces) doesn't get a fifth "
    "below a constant's loss (mean > −0.1), and, code rate unresolved, where more than one in twenty of the rates of "
    "the arms that it compares lie at an end of their grid",
    "S9": "loss by which evolved hyperparameters are ahead of the default, of those evolved blindly, and of random "
    "search; by which a donor's weights are ahead of evolved hyperparameters, and of the same weights with turned "
    "inputs (five intervals). Supported if all lower bounds > 0.02, that against random search > 0; refuted if an "
    "upper bound is below its margin: then evolution adds nothing to hyperparameters, or pretraining does nothing "
    "that they don't. Beside it the donor's subspaces at its ranks against evolved hyperparameters and against random "
    "subspaces, and how far evolved genes are from the default",
    "G5": "a question; supported means that costs of connections and active units make evolution build something else "
    "than less of the same. At either dose: modularity with costs − that of as many connections, layer by layer, "
    "pruned at random from the wiring evolved alone, and − that of a trained network's largest weights (two intervals "
    "a dose). Supported if at both doses the lower bounds are > 0.05, refuted if at both an upper bound is < 0.05; "
    "else undecided, code dose where the doses differ. Gate: at either dose wirings are thinner than alone (mean > "
    "0.1): costs have been felt. Beside it density, samples to half a constant's loss, and paths that stay within "
    "either half of the task",
    "G13": "log₁₀ loss of an evolution strategy after as many evaluations: that of the fixed rank that is best on "
    "another seed − growing, and shrinking, which uses as many dimensions in the opposite order, − growing, on both "
    "landscapes (four intervals). Supported if all lower bounds > 0.05, refuted if an upper bound is < 0.05. That "
    "dimensions pay which are added as the search proceeds is judged, not whether they come by themselves",
    "G15": "loss of SGD with momentum − that of the evolved rule, and of Adam − that of the evolved rule, on both "
    "families that it has never met (four intervals), every rule at a rate tuned there. Supported if all lower bounds "
    "> 0.02, refuted if an upper bound is < 0.02; gate: on new tasks of its own family the evolved rule is ahead of "
    "the one evolved blindly (mean > 0.02)",
    "G26": "gap of log₁₀ loss between newcomers in random and in a donor's subspaces of one rank, where every "
    "direction of the inputs matters a little: gap at the largest − gap at a quarter of it − a tenth of the former, "
    "along width and along training (two intervals). Supported if both upper bounds are < 0 and on both a ceiling, c "
    "− a·x^−b, fits the means better than a·x^b in 95 % of bootstrapped sets of replicates (AIC); refuted if a lower "
    "bound is > 0; else undecided. Gate: the gap's mean is > 0.02 at the largest of both. The rank is fixed: whether "
    "that is why it saturates isn't judged",
}  # fmt: skip


def conditions(settings: Settings) -> Iterator[Condition]:
    """Every condition at these settings."""
    search = {"generations": settings.generations, "offspring": settings.offspring, "steps": settings.inner_steps}
    for name in SEARCHES:
        yield Condition(f"profile {name}", {"compute": "profile", "search": name} | search)
    yield Condition("inherited", {"compute": "inherited"} | search)
    wiring = {"generations": settings.wiring_generations, "offspring": settings.wiring_offspring}
    wiring |= {"steps": settings.wiring_steps}
    yield Condition("bodies", {"compute": "bodies", "doses": list(settings.doses)} | wiring)
    for landscape in LANDSCAPES:
        ranks = {"landscape": landscape, "generations": settings.rank_generations}
        yield Condition(f"growth {landscape}", {"compute": "growth"} | ranks)
    rule = {"generations": settings.rule_generations, "offspring": settings.offspring, "steps": settings.inner_steps}
    yield Condition("rules", {"compute": "rules"} | rule)
    for width, steps in cells(settings.widths, settings.donor_width, settings.ladder, settings.donor_steps):
        donor = {"width": width, "donor_steps": steps, "steps": settings.newcomer_steps}
        yield Condition(scaling(width, steps), {"compute": "worth"} | donor)


COMPUTE = {
    "profile": profile,
    "inherited": inherited,
    "bodies": bodies,
    "growth": growth,
    "rules": rules,
    "worth": worth,
}


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """What one condition measures."""
    given = dict(options)
    function: Any = COMPUTE[given.pop("compute")]
    return dict(function(**given, seed=seed))


def figures(name: str, found: Measurements, store: Store) -> tuple[Drawing, ...]:
    """Losses by what was searched or inherited, with evolved genes; ranks and donors that grow."""
    return (profile_drawing(name, found), growth_drawing(name, found))
