"""Cross-modal (E3, E4, E18, E21): does a language model's structure help a network that learns to see?

Language donors; arms classify images, patches in, class out, on the same body. Mask and subspace each against their
random controls, beside what a user would do instead: every weight free, with augmentation, with weight decay, mimetic
initialisation, or the donor's own layers, frozen. Gaps are in test error: positive favours the structure.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ontogeny.lab.answers import Answer, answer_of, find_contrast, measured
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiment import ERROR, Arm, Contrast, Experiment, Setting
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.experiments.widths import width_of, width_variants
from ontogeny.lab.experiments.widths_figures import Measured, gaps_by_width, size_drawing, size_table
from ontogeny.lab.judge import Assessment, ContrastSummary, judge_derived
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import Scale, Variant, published
from ontogeny.lab.statistics import Verdict, describe, paired_interval, simultaneous_level
from ontogeny.lab.store import Store

NAME = "crossmodal"
TITLE = "Cross-modal: does a language model's structure help a network that learns to see?"
FLAW = (
    "the dense baseline had no augmentation, so that any sparsity regularises; attention over patches was causal; and "
    "three of three seeds is p = 1/8. Augmented, bidirectional and frozen-body baselines stand beside it here"
)

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"images": "digits", "image_batch": 16, "test_images": 60},
    "laptop": {"images": "digits", "image_batch": 32, "evaluate_at": (100, 200, 400)},
    "workstation": {"images": "uoft-cs/cifar10", "image_batch": 256, "test_images": 10_000, "steps": 2000},
    "paper": published(
        "HuggingFaceTB/SmolLM2-135M",
        images="uoft-cs/cifar10",
        test_images=10_000,
        steps=1000,
        evaluate_at=(100, 250, 500, 1000),
        not_stated=("rank",),
    ),
}
DONORS = (  # published, for E4
    "HuggingFaceTB/SmolLM2-135M",
    "HuggingFaceTB/SmolLM2-360M",
    "HuggingFaceTB/SmolLM2-1.7B",
    "Qwen/Qwen2.5-1.5B",
)
WIDTHS = {"smoke": (32, 48), "laptop": (64, 96, 128), "workstation": (256, 512)}  # of the donors that E4 compares

ARMS = {
    "donor": PRIMARY["donor"],
    "random": PRIMARY["random"],
    "coherent": PRIMARY["coherent"],
    "magnitude": Arm("magnitude", recipe={"density": "10%"}, description="the donor's 10 % largest weights"),
    "mask-random": Arm(
        "mask-random", recipe={"density": "10%"}, controls=("mask-layer-density",), description="10 % drawn at random"
    ),
    "dense": PRIMARY["dense"],
    "dense-augmented": Arm(
        "dense-augmented",
        constraint="dense",
        augment=True,
        description="every weight trained, images shifted and flipped",
    ),
    "donor-body": Arm("donor-body", constraint="donor-body", description="the donor's own layers, frozen"),
}
FULL_ARMS = ARMS | {
    "mask-degree": Arm(
        "mask-degree", recipe={"density": "10%"}, controls=("mask-degree",), description="the mask's degrees alone"
    ),
    "mask-permuted": Arm(
        "mask-permuted", recipe={"density": "10%"}, controls=("mask-permuted",), description="the mask's graph, renamed"
    ),
    "dense-decayed": Arm(
        "dense-decayed", constraint="dense", weight_decay=0.1, description="every weight trained, weight decay 0.1"
    ),
    **{
        f"{kind}-augmented": replace(
            ARMS[kind], name=f"{kind}-augmented", augment=True, description=f"{kind}, images shifted and flipped"
        )
        for kind in ("magnitude", "mask-random")
    },
    "mimetic": Arm("mimetic", constraint="mimetic", description="every weight trained from a mimetic start"),
    "random-body": Arm("random-body", constraint="random-body", description="fresh layers, frozen"),
}
BIDIRECTIONAL = ("donor", "random", "magnitude", "mask-random", "dense", "dense-augmented")

RULES = {
    "estimand": "gap = test error(control) − test error(treatment), as a share of images, at the last declared step; "
    "one point of accuracy (0.01) counts as nothing",
    "gate": "an arm must beat the class prior's error on the test images",
    "rates": "as for text, scored by the error on the tune images; a frozen body leaves the rest's rate alone to tune",
    "E3": "supported if mask-random − magnitude (causal attention) is supported",
    "E4": "growth = that gap at the widest − at the narrowest donor, paired by replicate: supported if its lower 95 % "
    "bound > 0.01 and the gap at the widest is above 0.01 too; refuted if its upper bound < 0.01",
    "E18": "supported if random − donor (causal attention, singular subspaces) is supported",
    "E21": "the reservation: supported if E3's gap is supported and yet gone (refuted) once both masks' images are "
    "augmented, or with bidirectional attention; refuted if it survives both (full table, each at the level of two "
    "contrasts); undecided, code gap, where E3's gap isn't supported. Dense with augmentation stands beside it",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """Donors of the scale's width and of others; in the full table also arms that look both ways."""
    found = {"": Variant(scale, text)}
    if table == "full":
        found["bidirectional"] = Variant(replace(scale, attention="bidirectional"), text)
    others = {} if given else width_variants(scale, WIDTHS, text, given, DONORS)
    return found | {f"d{v.scale.width}": v for v in others.values() if v.scale.width != scale.width}


def declare(*, given: bool, table: str, settings: Mapping[str, Setting] | None = None, **rest: Any) -> Experiment:
    """The experiment for one scale, set of donors and set of images. ``given``: the donors are the user's own."""
    full = table == "full"
    arms = list((FULL_ARMS if full else ARMS).values())
    further = dict(settings or {})
    for name in further:
        kept = BIDIRECTIONAL if name == "bidirectional" else ("magnitude", "mask-random")
        arms += [replace(ARMS[kind], name=f"{kind} {name}", setting=name) for kind in kept]
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(arms),
        embeddings={"fresh": tuple(arm.name for arm in arms)},
        contrasts=tuple(_contrasts({arm.name for arm in arms}, tuple(further), full)),
        single_checkpoint=given and len(rest["setting"].donors) == 1,
        rules=RULES,
        table=table,
        settings=further,
        alignments=(),
        **rest,
    )


def _contrasts(arms: set[str], settings: tuple[str, ...], full: bool) -> list[Contrast]:
    """Six primary ones: causal alone, or in the full table three of them causal and bidirectional."""
    asked = [
        ("mask-random", "magnitude", "does the language mask help to see?", True),
        ("random", "donor", "do the language donor's axes help to see?", True),
        ("dense-augmented", "magnitude", "more than augmentation does?", True),
        ("dense-augmented", "donor", "and the axes?", not full),
        ("coherent", "donor", "more than layers that agree?", not full),
        ("dense", "donor", "more than every weight free?", not full),
        ("donor-body", "donor", "more than the donor's layers, frozen?", False),
        ("dense", "dense-augmented", "what augmentation does", False),
        ("mask-random-augmented", "magnitude-augmented", "does the mask help where images are augmented?", False),
        ("mask-degree", "magnitude", "more than the mask's degrees?", False),
        ("mask-permuted", "magnitude", "more than the mask's graph?", False),
        ("dense-decayed", "magnitude", "more than weight decay?", False),
        ("mimetic", "donor", "more than a mimetic start?", False),
        ("random-body", "donor-body", "the donor's frozen layers against fresh ones", False),
    ]
    found = [Contrast("fresh", c, t, question, primary) for c, t, question, primary in asked if {c, t} <= arms]
    for name in settings:
        where = "with bidirectional attention" if name == "bidirectional" else f"with donors of {name}"
        found += [
            Contrast("fresh", f"{c} {name}", f"{t} {name}", f"{where}: {question}", name == "bidirectional" and i < 3)
            for i, (c, t, question, _) in enumerate(asked)
            if {f"{c} {name}", f"{t} {name}"} <= arms
        ]
    return found


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """E3, E4, E18 and E21."""
    answers = {
        "E3": answer_of(assessment, "mask-random − magnitude (fresh)"),
        "E4": _grows(assessment),
        "E18": answer_of(assessment, "random − donor (fresh)"),
        "E21": _artefact(assessment),
    }
    return answers_to_findings(assessment.experiment, answers)


def by_width(assessment: Assessment) -> dict[int, ContrastSummary]:
    """Donor width -> mask-random − magnitude; only those with all replicates."""
    experiment = assessment.experiment
    found = {}
    for name, setting in experiment.all_settings().items():
        if name != "bidirectional":
            arms = [f"{kind} {name}".strip() for kind in ("mask-random", "magnitude")]
            contrast = find_contrast(assessment, f"{arms[0]} − {arms[1]} (fresh)")
            if contrast and contrast.interval and contrast.interval.n == experiment.replicates:
                found[width_of(setting)] = contrast
    return dict(sorted(found.items()))


def published_gaps() -> tuple[tuple[float, str], ...]:
    """Donor's over random mask's accuracy as a share of images, from the text of claim E3."""
    text = next(claim.published for claim in load_claims() if claim.id == "E3")
    pairs = re.findall(r"(\d\d\.\d)(?: v |/)(\d\d\.\d)", text)
    first, *seeds, last = [(float(donor) - float(random)) / 100 for donor, random in pairs]
    return ((first, "A"), (last, "C, 1000 steps"), *((gap, "A, each of three seeds") for gap in seeds))


def published_by_donor() -> dict[str, dict[str, float]]:
    """Points over the random mask by checkpoint, from the text of claim E4: the chart's, and what else is said."""
    text = next(claim.published for claim in load_claims() if claim.id == "E4")
    donors = re.findall(r"([\w.]+-[\d.]+[MB]) \+([\d.]+\d)", text)
    said = re.findall(r"([\w.]+-[\d.]+[MB]) \+[\d.]+\d \(A, chart\) or \+([\d.]+\d) \(A\)", text)
    return {
        "mask (A, chart)": {donor: float(gap) for donor, gap in donors},
        "mask (A, text)": {donor: float(gap) for donor, gap in said},
    }


PUBLISHED = {"mask-random − magnitude (fresh)": published_gaps()}


def _measured(assessment: Assessment) -> Measured:
    return gaps_by_width({"mask-random − magnitude": by_width(assessment)}, assessment.experiment)


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """The mask's gap by size of the donor, beside those published."""
    return size_drawing(name, _measured(assessment), published_by_donor(), assessment.experiment)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same as numbers."""
    return (size_table(_measured(assessment), assessment.experiment),)


def _grows(assessment: Assessment) -> Answer:
    found = by_width(assessment)
    widths = {width_of(setting) for setting in assessment.experiment.all_settings().values()}
    if len(widths) == 1:
        return Answer("", Verdict("not run"), "one width: give no --donor to compare widths")
    if set(found) != widths:
        return Answer("", Verdict("not run"), "not finished")
    narrowest, *_, widest = found.values()
    growth = paired_interval(np.array(widest.differences) - np.array(narrowest.differences))
    seconds = narrowest.second_best_gap, widest.second_best_gap
    second = None if seconds[0] is None or seconds[1] is None else seconds[1] - seconds[0]
    verdict = judge_derived(assessment, growth, [narrowest, widest], second)
    if verdict.word == "supported" and (widest.interval is None or widest.interval.low <= ERROR.delta):
        verdict = Verdict("undecided", "gap")
    gaps = ", ".join(f"d {width} {c.interval.mean:+.3f}" for width, c in found.items() if c.interval)
    told = f"gap by donor width {gaps}; growth {growth.mean:+.3f} [{growth.low:+.3f}, {growth.high:+.3f}] of images"
    return Answer(told, verdict, verdict.code or f"with the donor's width the gap is {describe(growth, ERROR.delta)}")


def _artefact(assessment: Assessment) -> Answer:
    names = {
        "augmentation": "mask-random-augmented − magnitude-augmented (fresh)",
        "bidirectional attention": "mask-random bidirectional − magnitude bidirectional (fresh)",
    }
    gap = answer_of(assessment, "mask-random − magnitude (fresh)")
    survives = {what: find_contrast(assessment, name) for what, name in names.items()}
    beside = answer_of(assessment, "dense-augmented − magnitude (fresh)")
    done = [contrast for contrast in survives.values() if contrast and contrast.interval]
    numbers = [gap.measured, beside.measured, *(measured(assessment, contrast) for contrast in done)]
    told = "; ".join(filter(None, numbers))
    if gap.verdict.word == "not run":
        return Answer(told, Verdict("not run"), "not finished")
    if gap.verdict.word != "supported":
        return Answer(
            told, Verdict("undecided", "gap"), f"asked only once E3's gap is supported; it is {gap.verdict.word}"
        )
    if None in survives.values():
        return Answer(told, Verdict("not run"), "in the full table (--table full)")
    if len(done) < len(names):
        return Answer(told, Verdict("not run"), "not finished")
    words = {}
    for what, contrast in survives.items():
        assert contrast is not None
        interval = paired_interval(contrast.differences, simultaneous_level(len(names)))
        words[what] = judge_derived(assessment, interval, [contrast], contrast.second_best_gap).word
    if "refuted" in words.values():
        gone = " and ".join(what for what, word in words.items() if word == "refuted")
        return Answer(told, Verdict("supported"), f"the gap is gone with {gone}")
    if set(words.values()) == {"supported"}:
        return Answer(told, Verdict("refuted"), "the gap survives augmentation and bidirectional attention")
    return Answer(told, Verdict("undecided", "mixed"), "; ".join(f"{what}: {word}" for what, word in words.items()))
