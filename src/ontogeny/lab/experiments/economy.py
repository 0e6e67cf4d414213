"""Economy (G16, G17, G39): what do structure and choice cost, in bits, values and joules?

With the donor's embeddings frozen: the donor's genome rounded to ever fewer bits, and against every weight free. With
fresh embeddings: three ways to use as many stored values. A dense network with few feed-forward units; the same, each
token using the largest of its units alone; one of the donor's shape inside the donor's mask.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ontogeny.genome.quantise import FULL, genome_bits
from ontogeny.lab.answers import Answer, answer_of, find_contrast
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.experiment import Arm, Contrast, Experiment, Setting
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.experiments.economy_costs import JOULES_PER_BYTE, JOULES_PER_FLOP, token_cost
from ontogeny.lab.experiments.economy_figures import WEIGHT, economy_drawings, economy_tables
from ontogeny.lab.judge import Assessment
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import Scale, Variant, published
from ontogeny.lab.statistics import DELTA, Verdict
from ontogeny.lab.store import Store
from ontogeny.model.grow import layer_shapes

NAME = "economy"
TITLE = "Economy: what do structure and choice cost, in bits, values and joules?"
FLAW = (
    "no number was published: the genome's size was set beside what it builds without asking what is lost in so few "
    "bits, and access by choice was never set beside a fixed one of the same storage"
)

SCALES = {
    "paper": published(
        "HuggingFaceTB/SmolLM2-135M",
        steps=500,
        evaluate_at=(50, 100, 200, 300, 400, 500),
        not_stated=("hub_donors", "text", "rank", "steps"),
    ),
}

BITS = (8, 4, 2, 1)
TESTED = "donor 2 bit"  # declared before it was run
SMALL = 0.1  # of the weights' bits
CHEAP = 0.5  # of the dense network's FLOPs
UNITS = 0.25  # of the donor's feed-forward units, in the small network
TOP = 0.25  # of those, used by a token

FROZEN = {name: PRIMARY[name] for name in ("donor", "random", "dense")} | {
    f"donor {bits} bit": Arm(f"donor {bits} bit", bits=bits, description=f"the donor's bases at {bits} bit an entry")
    for bits in BITS
}
FRESH = {
    "small": Arm("small", constraint="dense", setting="small", description="few feed-forward units, all used"),
    "flashlight": Arm(
        "flashlight",
        constraint="dense",
        top=TOP,
        setting="small",
        description=f"the same, each token using the largest {TOP:.0%} of them",
    ),
    "sparse": Arm("sparse", description="the donor's shape and largest weights, as many as the small network's"),
    "sparse-random": Arm(
        "sparse-random", controls=("mask-layer-density",), description="as many in every matrix, drawn at random"
    ),
}

RULES = {
    "estimand": "gap = test loss(control) − test loss(treatment), nats a token, at the last declared step",
    "bits": "an entry of U and V, rounded in a random basis of its span and made orthonormal again; no scale is "
    "stored. A random genome takes none: it is a seed. Embeddings are the donor's in every arm and not counted",
    "storage": f"embeddings and attention alike in all fresh arms; small has {UNITS:.0%} of the donor's feed-forward "
    "units, and a mask keeps as many layer weights of the donor's shape; its positions come on top, a bit an entry",
    "choice": f"{TOP:.0%} of a layer's units, the largest after the activation function; what finds them is read whole",
    "joules": f"estimated, not measured: {JOULES_PER_FLOP * 1e12:g} pJ a FLOP and {JOULES_PER_BYTE * 1e12:g} pJ a byte "
    "(float32 operations and DRAM at 45 nm, Horowitz 2014), one forward pass, weights read once a token",
    "G17": f"judged as: a genome of at most {SMALL:.0%} of the layer matrices' bits ({WEIGHT} a weight) is worth what "
    f"the donor's is. Tested at 2 bits: supported if random − {TESTED} is supported and {TESTED} − donor refuted; "
    f"refuted if random − {TESTED} is refuted; undecided, code gap, unless random − donor is supported; otherwise "
    "mixed, as where 2 bits are more than that",
    "G39": "judged as: input-chosen access gets more out of the same storage than a fixed choice. Supported if "
    "sparse − flashlight is and choosing costs nothing (small − flashlight: lower bound > −0.02 nats), else mixed; "
    "refuted if sparse − flashlight is",
    "G16": "judged as: structure pays in energy. Supported if the donor arm's loss is at most 0.02 nats above dense's "
    f"(donor − dense refuted, and no more than that at second-best rates), random − donor is supported, and the donor "
    f"arm costs no more than {CHEAP:.0%} of dense's FLOPs a token, as trained (forward and backward, head and "
    "attention counted); refuted if donor − dense is supported; else mixed. The ratio follows from the shape; "
    "that of a forward pass alone is larger (table)",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """The donor's shape, and a network with fewer feed-forward units."""
    return {
        "": Variant(scale, text, activity=True),
        "small": Variant(scale, text, activity=True, units=UNITS),
    }


def declare(*, given: bool, settings: Mapping[str, Setting], **rest: Any) -> Experiment:
    """The experiment for one scale, text and set of donors. ``given``: the donors are the user's own."""
    kept, entries = (
        sum(m * n for m, n in layer_shapes(s.model).values()) for s in (settings["small"], rest["setting"])
    )
    mask = {"density": f"{100 * kept / entries:.8f}%", "scope": "global"}
    fresh = [arm if arm.setting else replace(arm, recipe=mask) for arm in FRESH.values()]
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=(*FROZEN.values(), *fresh),
        embeddings={"frozen": tuple(FROZEN), "fresh": tuple(FRESH)},
        contrasts=tuple(_contrasts()),
        single_checkpoint=given and len(rest["setting"].donors) == 1,
        rules=RULES,
        settings=dict(settings),
        alignments=(),
        **rest,
    )


def _contrasts() -> list[Contrast]:
    found = [
        Contrast("frozen", "random", "donor", "is the donor's genome worth more than a seed?"),
        Contrast("frozen", "donor", "dense", "are all weights free worth more than the donor's directions?"),
    ]
    for arm in (f"donor {bits} bit" for bits in BITS):
        tested = arm == TESTED
        found += [
            Contrast("frozen", "random", arm, "and in so few bits?", primary=tested),
            Contrast("frozen", arm, "donor", "what is lost in so few bits?", primary=tested),
        ]
    return [
        *found,
        Contrast("fresh", "sparse", "flashlight", "does choosing by input get more out of the same storage?"),
        Contrast("fresh", "small", "flashlight", "what does choosing cost, against using all of it?"),
        Contrast("fresh", "small", "sparse", "is the storage better spread over the donor's shape?", primary=False),
        Contrast("fresh", "sparse-random", "sparse", "does it matter where it is spread?", primary=False),
    ]


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """G16, G17 and G39."""
    answers = {"G16": _energy(assessment), "G17": _size(assessment), "G39": _access(assessment)}
    return answers_to_findings(assessment.experiment, answers)


def genome_share(experiment: Experiment, bits: int = FULL) -> float:
    """The bits of a genome's bases as a share of the layer matrices' at 16 bits a weight."""
    shapes = layer_shapes(experiment.setting.model).values()
    return genome_bits(shapes, experiment.setting.rank, bits) / (WEIGHT * sum(m * n for m, n in shapes))


def _energy(assessment: Assessment) -> Answer:
    experiment = assessment.experiment
    answer = answer_of(assessment, "donor − dense (frozen)")
    donor, dense = (token_cost(FROZEN[name], experiment.setting, "frozen") for name in ("donor", "dense"))
    ratio = donor.training / dense.training
    told = f"{ratio:.0%} of dense's FLOPs a token as trained, {donor.forward / dense.forward:.0%} of a forward pass's"
    if answer.verdict.word == "not run":
        return answer
    measured = f"{answer.measured}; {told}"
    if answer.verdict.word == "supported":
        return Answer(measured, Verdict("refuted"), f"more than {DELTA} nats behind dense, at {told}")
    if answer.verdict.word != "refuted":
        return replace(answer, measured=measured)
    structure = answer_of(assessment, "random − donor (frozen)").verdict.word
    unmet = {
        f"{ratio:.0%} of dense's FLOPs is not cheap": ratio > CHEAP,
        f"a random genome may do as well: random − donor {structure}": structure != "supported",
        "at second-best rates it is more than that behind dense": _behind(assessment, "donor − dense (frozen)"),
    }
    if failed := [what for what, found in unmet.items() if found]:
        return Answer(measured, Verdict("undecided", "mixed"), "; ".join(failed))
    return Answer(measured, Verdict("supported"), f"at most {DELTA} nats behind dense, at {told}")


def _behind(assessment: Assessment, name: str) -> bool:
    """Whether the second-best rates say otherwise than a contrast that found at most 0.02 nats."""
    contrast = find_contrast(assessment, name)
    return contrast is None or contrast.second_best_gap is None or contrast.second_best_gap > DELTA


def _size(assessment: Assessment) -> Answer:
    names = ("random − donor", f"random − {TESTED}", f"{TESTED} − donor")
    gap, kept, lost = (answer_of(assessment, f"{name} (frozen)") for name in names)
    share = genome_share(assessment.experiment, FROZEN[TESTED].bits)
    told = f"{share:.1%} of the layer matrices' bits; "
    told += "; ".join(answer.measured for answer in (gap, kept, lost) if answer.measured)
    if "not run" in (gap.verdict.word, kept.verdict.word, lost.verdict.word):
        return Answer("", Verdict("not run"), "not finished")
    if gap.verdict.word != "supported":
        why = f"asked only once random − donor is supported; it is {gap.verdict.word}"
        return Answer(told, Verdict("undecided", "gap"), why + (f" ({gap.verdict.code})" if gap.verdict.code else ""))
    if kept.verdict.word == "refuted":
        return Answer(told, Verdict("refuted"), "in 2 bits an entry it is worth no more than a random one")
    behind = _behind(assessment, f"{TESTED} − donor (frozen)")
    if (kept.verdict.word, lost.verdict.word) == ("supported", "refuted") and share <= SMALL and not behind:
        return Answer(told, Verdict("supported"), f"in {share:.1%} of the weights' bits it loses at most {DELTA} nats")
    why = f"worth more than random: {kept.verdict.word}; loses more than {DELTA} nats: {lost.verdict.word}"
    why += f"; {share:.1%} of the weights' bits is not small" if share > SMALL else ""
    why += "; it loses more at second-best rates" if behind else ""
    return Answer(told, Verdict("undecided", "mixed"), why)


def _access(assessment: Assessment) -> Answer:
    answer, cost = (answer_of(assessment, f"{name} − flashlight (fresh)") for name in ("sparse", "small"))
    told = "; ".join(found.measured for found in (answer, cost) if found.measured)
    using_all = find_contrast(assessment, "small − flashlight (fresh)")
    costs = not using_all or not using_all.interval or using_all.interval.low <= -DELTA
    if answer.verdict.word == "supported" and costs:
        return Answer(told, Verdict("undecided", "mixed"), "choosing may cost more than using all of the same storage")
    return replace(answer, measured=told)


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """What a genome of how many bits is worth, and loss by joules."""
    return economy_drawings(name, assessment)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same as numbers."""
    return economy_tables(assessment)
