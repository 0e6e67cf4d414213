"""Extraction (E5, E20, E24): magnitude mask or singular subspace, structure or values, and what "constrained" means.

Mask and subspace of each donor train as many values in every matrix, each against its own random control, over donors
of growing width. Cores started from the donor's values ask what those add; readings of "constrained" what is left free.
Arms are named by kind and width: "svd d96", "random d96", "magnitude d96", "mask-random d96".
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ontogeny.lab.answers import Answer, answer_of, find_contrast, opposite
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.answers import measured as measured_contrast
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiment import Arm, Contrast, Experiment, Setting
from ontogeny.lab.experiments.arms import OTHERS
from ontogeny.lab.experiments.widths import declared_widths, width_variants
from ontogeny.lab.experiments.widths_figures import Measured, gaps_by_width, size_drawing, size_table
from ontogeny.lab.judge import Assessment, ContrastSummary, judge_derived
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import Scale, Variant, published
from ontogeny.lab.statistics import Verdict, paired_interval, simultaneous_level
from ontogeny.lab.store import Store
from ontogeny.model.constrain import READINGS

NAME = "extraction"
TITLE = "Extraction: mask or subspace, structure or values, and what does 'constrained' mean?"
FLAW = (
    "at equal density a mask trains ten times the values that a core of equal rank trains, and A's and C's numbers for "
    "one cell disagree; here both train equally many values, each against a random control of its own"
)

WIDTHS = {"smoke": (32, 48), "laptop": (64, 96), "workstation": (256, 512)}
DONORS = (  # published: the family of growing width
    "HuggingFaceTB/SmolLM2-135M",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen2.5-1.5B",
    "HuggingFaceTB/SmolLM2-1.7B",
)
SCALES = {"paper": published(DONORS[0], steps=500, evaluate_at=(50, 100, 200, 300, 400, 500))}
FULL_WIDTHS = WIDTHS | {"laptop": (64, 96, 128)}
NUMBER = r"[+-]\d+\.\d+"
VALUES = ("values-kept", "values-flipped", "values-permuted")
FOLDED = ("svd-folded", "magnitude-folded", "values-kept-folded")  # full table
HALVES = tuple(reading for reading in READINGS if reading != "full")

RULES = {
    "estimand": "gap = test loss(random control) − test loss(donor's), nats a token, at the last declared step",
    "equal values": "a mask keeps k² entries of every matrix whose core has rank k; in the full table also the same "
    "share of entries as the rank is of the short side",
    "E5": "at the widest donor: supported if the subspace's gap is supported and the mask's is refuted; refuted if the "
    "mask's is supported (it works) or the subspace's is refuted (it doesn't)",
    "E20": "supported if values-permuted − values-kept is refuted: starting from the donor's core is worth no more "
    "than 0.02 nats over the same core with its singular values reordered; and the other way round",
    "E24": "judged as: whatever 'constrained' means, the donor's directions are worth having. Supported if random − "
    "donor is supported with a diagonal core, a full core and either side alone; refuted if any of them is refuted. A "
    "reading whose two arms are both behind the bigram is left out, and said to be; projection at the start only "
    "constrains nothing afterwards and stands beside. At the widest donor, intervals at the level of five contrasts",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """One donor family a width; a user's own donor has one."""
    return width_variants(scale, FULL_WIDTHS if table == "full" else WIDTHS, text, given, DONORS)


def declare(*, given: bool, table: str, settings: Mapping[str, Setting] | None = None, **rest: Any) -> Experiment:
    """The experiment for one scale, text and set of donors. ``given``: the donors are the user's own."""
    widths = declared_widths(rest["setting"], settings)
    full, widest, rank = table == "full", max(widths.values()), rest["setting"].rank
    arms: list[Arm] = []
    contrasts: list[Contrast] = []
    for name, width in widths.items():
        last = width == widest
        for control, treatment, question in _pairs(density=full and rank.endswith("%")):
            arms += [_arm(kind, width, name, rank) for kind in (control, treatment)]
            primary = (last or width == min(widths.values())) and "density" not in treatment
            contrasts.append(Contrast("fresh", f"{control} d{width}", f"{treatment} d{width}", question, primary))
        if last:
            arms += [_arm(kind, width, name, rank) for kind in (*VALUES, *_readings())]
            contrasts += _at_widest(width)
            if full:
                arms += [_arm(kind, width, name, rank) for kind in FOLDED]
                contrasts += _folded(width)
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(arms),
        embeddings={"fresh": tuple(arm.name for arm in arms)},
        contrasts=tuple(contrasts),
        single_checkpoint=given and len(rest["setting"].donors) == 1,
        rules=RULES,
        table=table,
        settings=dict(settings or {}),
        alignments=(),
        **rest,
    )


def _pairs(*, density: bool) -> list[tuple[str, str, str]]:
    """(control, treatment, question) at every width."""
    found = [
        ("random", "svd", "is the leading singular subspace worth having?"),
        ("mask-random", "magnitude", "is the magnitude mask, of as many values, worth having?"),
    ]
    equal_density = ("mask-random-density", "magnitude-density", "and the mask of equal density?")
    return [*found, equal_density] if density else found


def _readings() -> list[str]:
    return [f"{kind}-{reading}" for reading in HALVES for kind in ("random", "svd")]


def _at_widest(width: int) -> list[Contrast]:
    question = "are the values worth having as a start?"
    found = [Contrast("fresh", f"values-permuted d{width}", f"values-kept d{width}", question)]
    question = "do the signs of the values matter?"
    found.append(Contrast("fresh", f"values-flipped d{width}", f"values-kept d{width}", question, primary=False))
    question = "what does the start from the donor's values add to its directions?"
    found.append(Contrast("fresh", f"svd d{width}", f"values-kept d{width}", question, primary=False))
    for reading in HALVES:
        question = f"the donor's directions, read as {reading}"
        found.append(Contrast("fresh", f"random-{reading} d{width}", f"svd-{reading} d{width}", question, False))
    return found


def _folded(width: int) -> list[Contrast]:
    asked = [
        ("random", "svd-folded", "directions of the weights as used, gains of the norms folded in?"),
        ("mask-random", "magnitude-folded", "and their largest entries?"),
        ("svd-folded", "values-kept-folded", "what does the start from the folded values add?"),
    ]
    return [Contrast("fresh", f"{c} d{width}", f"{t} d{width}", question, primary=False) for c, t, question in asked]


def _arm(kind: str, width: int, setting: str, rank: str) -> Arm:
    arm = KINDS[kind.removesuffix("-density")]
    if kind.endswith("-density"):
        arm = replace(arm, recipe={"density": rank}, description=arm.description.replace("k²", f"{rank} of the"))
    return replace(arm, name=f"{kind} d{width}", setting=setting)


def _reading_arm(kind: str, reading: str) -> Arm:
    controls = ("random",) if kind == "random" else ()
    basis = {"basis": "singular"} if reading == "diagonal" else {}  # only there does the pairing of directions matter
    what = {
        "diagonal": "only a number a direction trained: U·diag(c)·Vᵀ",
        "left": "U fixed, the other factor trained: U·A",
        "right": "V fixed, the other factor trained: A·Vᵀ",
        "start": "projected at the start, then every weight free",
    }[reading]
    return Arm(f"{kind}-{reading}", recipe=basis, controls=controls, reading=reading, description=f"{kind}: {what}")  # type: ignore[arg-type]


FOLD = {"fold_norms": True}
KINDS: dict[str, Arm] = {
    "svd": Arm("svd", description="the donor's leading singular subspaces"),
    "random": Arm("random", controls=("random",), description="Haar-random subspaces of the same rank"),
    "magnitude": Arm("magnitude", recipe={"mask": True}, description="the donor's k² largest weights of every matrix"),
    "mask-random": Arm(
        "mask-random", recipe={"mask": True}, controls=("mask-layer-density",), description="k² weights drawn at random"
    ),
    **{name: OTHERS[name] for name in VALUES},
    "svd-folded": Arm("svd-folded", recipe=FOLD, description="the donor's subspaces, norm gains folded in first"),
    "magnitude-folded": Arm(
        "magnitude-folded", recipe={"mask": True} | FOLD, description="its k² largest weights, norm gains folded in"
    ),
    "values-kept-folded": replace(
        OTHERS["values-kept"], recipe=FOLD, description="the donor's core, norm gains folded in, trained on"
    ),
    **{f"{kind}-{reading}": _reading_arm(kind, reading) for reading in HALVES for kind in ("svd", "random")},
}


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """E5, E20 and E24."""
    widths = declared_widths(assessment.experiment.setting, assessment.experiment.settings)
    widest = max(widths.values())
    answers = {
        "E5": _breaks(assessment, list(widths.values())),
        "E20": opposite(answer_of(assessment, f"values-permuted d{widest} − values-kept d{widest} (fresh)")),
        "E24": _readings_answer(assessment, widest),
    }
    return answers_to_findings(assessment.experiment, answers)


def published_gaps() -> dict[str, dict[str, float]]:
    """Both sources' gaps by method, from the text of claim E5."""
    text = next(claim.published for claim in load_claims() if claim.id == "E5").replace("−", "-")
    chart, _, table = text.partition(" C: ")
    pairs = re.findall(rf"([\w.-]+) ({NUMBER})/({NUMBER})", chart)
    again = re.findall(rf"(\w+) magnitude ({NUMBER})", table)
    return {
        "subspace (A)": {donor: float(svd) for donor, _, svd in pairs},
        "magnitude mask (A)": {donor: float(mask) for donor, mask, _ in pairs},
        "magnitude mask (C)": {f"SmolLM2-{size}": float(gap) for size, gap in again},
    }


def _by_width(assessment: Assessment) -> Measured:
    """Every method's gap at every width."""
    experiment = assessment.experiment
    widths = declared_widths(experiment.setting, experiment.settings).values()
    methods = {
        "random − svd, k² values": "svd",
        "mask-random − magnitude, k² values": "magnitude",
        "mask-random − magnitude, equal density": "magnitude-density",
    }
    found = {
        what: {width: c for width in widths if (c := find_contrast(assessment, _gap(kind, width)))}
        for what, kind in methods.items()
    }
    return gaps_by_width(found, experiment)


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """Both methods' gaps by size of the donor, beside those published."""
    return size_drawing(name, _by_width(assessment), published_gaps(), assessment.experiment)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same as numbers."""
    return (size_table(_by_width(assessment), assessment.experiment),)


def _gap(kind: str, width: int) -> str:
    control = kind.replace("svd", "random").replace("magnitude", "mask-random")
    return f"{control} d{width} − {kind} d{width} (fresh)"


def _breaks(assessment: Assessment, widths: list[int]) -> Answer:
    mask, subspace = (answer_of(assessment, _gap(kind, widths[-1])) for kind in ("magnitude", "svd"))
    told = [find_contrast(assessment, _gap(kind, width)) for width in widths for kind in ("magnitude", "svd")]
    numbers = "; ".join(measured_contrast(assessment, contrast) for contrast in told if contrast and contrast.interval)
    words = mask.verdict.word, subspace.verdict.word
    if "not run" in words:
        return Answer(numbers, Verdict("not run"), "not finished")
    if words[0] == "supported":
        return Answer(numbers, Verdict("refuted"), "the mask works at the widest donor")
    if words[1] == "refuted":
        return Answer(numbers, Verdict("refuted"), "the subspace is worth no more than random at the widest donor")
    if words == ("refuted", "supported"):
        return Answer(numbers, Verdict("supported"), "at the widest donor the subspace works and the mask doesn't")
    unsure = mask if words[0] == "undecided" else subspace
    return Answer(numbers, unsure.verdict, unsure.why)


def _pair(contrast: ContrastSummary) -> tuple[str, str]:
    return contrast.contrast.control, contrast.contrast.treatment


def _readings_answer(assessment: Assessment, width: int) -> Answer:
    kinds = {"full": "svd"} | {reading: f"svd-{reading}" for reading in HALVES}
    numbers, by_word = [], dict[str, list[str]]()
    for reading, kind in kinds.items():
        contrast, verdict = find_contrast(assessment, _gap(kind, width)), Verdict("not run")
        if contrast and contrast.interval:
            interval = paired_interval(contrast.differences, simultaneous_level(len(kinds)))
            verdict = judge_derived(assessment, interval, [contrast], contrast.second_best_gap)
            numbers.append(f"{reading} {interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]")
        code = f" ({verdict.code})" if verdict.code else ""
        behind = contrast and not any(assessment.arms["fresh", name].passed_gate for name in _pair(contrast))
        word = "beside" if reading == "start" else "left out" if behind and verdict.code == "gate" else verdict.word
        by_word.setdefault(word, []).append(reading + code)
    told = "; ".join(f"{word}: {', '.join(readings)}" for word, readings in by_word.items())
    measured = f"random − svd at d {width}: {', '.join(numbers)} nats" if numbers else ""
    if "refuted" in by_word:
        return Answer(measured, Verdict("refuted"), told)
    if "not run" in by_word:
        return Answer("", Verdict("not run"), "not finished")
    if "undecided" in by_word or "supported" not in by_word:
        return Answer(measured, Verdict("undecided", "some readings"), told)
    return Answer(measured, Verdict("supported"), told)
