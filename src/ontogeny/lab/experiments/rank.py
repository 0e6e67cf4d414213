"""Rank (E11, E22): does the worth of the donor's directions vanish at higher rank, and grow with the network's width?

Donor and random subspaces at fixed fractions of the width and at fixed numbers of directions, over widths, beside the
overlap that chance gives. Arms are named by width and rank: "donor d96 10%", "random d96 k8".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ontogeny.lab.answers import NOT_FINISHED, Answer, answer_of
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.experiment import Arm, Contrast, Experiment, Setting
from ontogeny.lab.experiments.rank_figures import width_drawings, width_tables
from ontogeny.lab.experiments.widths import declared_widths, width_of, width_variants
from ontogeny.lab.judge import Assessment, ContrastSummary, judge_derived
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import Scale, Variant, published
from ontogeny.lab.statistics import DELTA, Interval, Verdict, describe, paired_interval
from ontogeny.lab.store import Store

NAME = "rank"
TITLE = "Rank: does the worth of the donor's directions vanish at higher rank, and grow with the network's width?"
FLAW = (
    "at a fixed fraction of the width the overlap that chance gives is that fraction whatever the width; only a fixed "
    "number of directions makes it fall, so the two are separate sweeps here"
)

WIDTHS = {"smoke": (32, 48), "laptop": (64, 96, 128), "workstation": (256, 512)}
FULL_WIDTHS = WIDTHS | {"laptop": (64, 96, 128, 192, 256), "workstation": (128, 256, 512)}
FRACTIONS, NUMBERS = ("10%", "30%"), ("8",)
FULL_FRACTIONS, FULL_NUMBERS = ("2%", "5%", "10%", "20%", "30%", "50%"), ("8", "16")
VANISHES_AT = "30%"

SCALES: dict[str, dict[str, Any]] = {
    "laptop": {"steps": 300, "evaluate_at": (50, 100, 200, 300)},
    "paper": published("HuggingFaceTB/SmolLM2-135M", steps=200, not_stated=("rank", "steps")),
}
PUBLISHED_RANK = "171"  # of 576, where the gap is said to vanish; 29.7 %

RULES = {
    "estimand": "gap = test loss(random) − test loss(donor), nats a token, at the last step, at every width and rank",
    "E11": f"at the widest network: supported if the gap at 10 % is supported and that at {VANISHES_AT} (published: "
    f"{PUBLISHED_RANK} of 576 directions) is refuted (upper bound < 0.02 nats); refuted if the latter is supported; "
    "undecided, code gap, if there is none at 10 % that could vanish",
    "E22": "growth = gap at the widest − gap at the narrowest network, paired by replicate, at 8 directions, where "
    "chance overlap falls with width: supported if its lower 95 % bound > 0.02 nats and the gap at the widest is above "
    "0.02 too; refuted if its upper bound < 0.02. 8 directions are also an ever smaller share of the width, so "
    "undecided, code mixed, where growth at 10 % of the width has its upper bound < 0.02. Donors train as many steps "
    "at every width: their losses aren't matched, and stand beside",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """One donor family a width; a user's own donor has one."""
    return width_variants(scale, FULL_WIDTHS if table == "full" else WIDTHS, text, given, rank="25%")


def declare(*, given: bool, table: str, settings: Mapping[str, Setting] | None = None, **rest: Any) -> Experiment:
    """The experiment for one scale, text and set of donors. ``given``: the donors are the user's own."""
    full = table == "full"
    shapes = declared_widths(rest["setting"], settings)
    arms, contrasts = [], []
    for name, width in shapes.items():
        fractions, numbers = (FULL_FRACTIONS, FULL_NUMBERS) if full else (FRACTIONS, NUMBERS)
        ranks = ranks_at(width, fractions, (*numbers, *((PUBLISHED_RANK,) if rest["scale"] == "paper" else ())))
        for rank, label in ranks.items():
            arms += [_arm(kind, width, rank, label, name) for kind in ("donor", "random")]
            primary = label in ("10%", vanishing(rest["scale"])) and width in list(shapes.values())[-3:]
            size = f"d{width} {label}"
            question = f"the donor's {label} of {width} directions"
            contrasts.append(Contrast("fresh", f"random {size}", f"donor {size}", question, primary=primary))
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(arms),
        embeddings={"fresh": tuple(arm.name for arm in arms)},
        contrasts=tuple(contrasts),
        single_checkpoint=given and len(rest["setting"].donors) == 1,
        not_applicable={"E22": "one width: give no --donor to compare widths"} if len(shapes) == 1 else {},
        rules=RULES,
        table=table,
        settings=dict(settings or {}),
        alignments=("none",),
        **rest,
    )


def vanishing(scale: str) -> str:
    """Label of the rank at which the gap is said to vanish."""
    return f"k{PUBLISHED_RANK}" if scale == "paper" else VANISHES_AT


def ranks_at(width: int, fractions: tuple[str, ...], numbers: tuple[str, ...]) -> dict[str, str]:
    """Rank as a recipe has it -> its label: fractions, and those numbers of directions that the width has."""
    found = {fraction: fraction for fraction in fractions}
    return found | {number: f"k{number}" for number in numbers if int(number) < width}


def _arm(kind: str, width: int, rank: str, label: str, setting: str) -> Arm:
    return Arm(
        f"{kind} d{width} {label}",
        recipe={"rank": rank},
        controls=("random",) if kind == "random" else (),
        description=f"{'the donor' if kind == 'donor' else 'random'}: {label} of {width} directions",
        setting=setting,
    )


def gaps(assessment: Assessment, label: str) -> dict[int, np.ndarray[Any, np.dtype[np.float64]]]:
    """Width -> random − donor in every replicate at this rank; only complete widths."""
    found = {}
    for contrast in assessment.contrasts:
        _, width, rank = contrast.contrast.treatment.split(" ")
        if rank == label and contrast.interval and contrast.interval.n == assessment.experiment.replicates:
            found[int(width.removeprefix("d"))] = np.array(contrast.differences)
    return dict(sorted(found.items()))


def growth(assessment: Assessment, label: str) -> Interval | None:
    """Gap at the widest − gap at the narrowest network, paired by replicate; None until both are there."""
    found = gaps(assessment, label)
    values = list(found.values())
    return paired_interval(values[-1] - values[0]) if len(values) > 1 else None


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """E11 and E22."""
    answers = {"E11": _vanishes(assessment), "E22": _grows(assessment)}
    return answers_to_findings(assessment.experiment, answers)


def _vanishes(assessment: Assessment) -> Answer:
    width = max(map(width_of, assessment.experiment.all_settings().values()))
    there = vanishing(assessment.experiment.scale)
    low, high = (answer_of(assessment, _gap_name(width, rank)) for rank in ("10%", there))
    told = "; ".join(answer.measured for answer in (low, high) if answer.measured)
    if "not run" in (low.verdict.word, high.verdict.word):
        return Answer(told, Verdict("not run"), "not finished")
    if high.verdict.word == "supported":
        return Answer(told, Verdict("refuted"), f"there is a gap at {there}")
    if low.verdict.word == "refuted":
        return Answer(told, Verdict("undecided", "gap"), "no gap at 10 % that could vanish")
    if (low.verdict.word, high.verdict.word) == ("supported", "refuted"):
        return Answer(told, Verdict("supported"), f"a gap at 10 %, none at {there}")
    unsure = low if low.verdict.word == "undecided" else high
    return Answer(told, unsure.verdict, f"gap: {unsure.why}")


def _gap_name(width: int, rank: str) -> str:
    return f"random d{width} {rank} − donor d{width} {rank} (fresh)"


def _grows(assessment: Assessment) -> Answer:
    if "E22" in assessment.experiment.not_applicable:
        return Answer("", Verdict("undecided", "not applicable"), assessment.experiment.not_applicable["E22"])
    fixed, fraction = growth(assessment, "k8"), growth(assessment, "10%")
    if fixed is None or fraction is None:
        return NOT_FINISHED
    told = "; ".join(
        f"growth at {label} {i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}] nats, n {i.n}"
        for label, i in (("8 directions", fixed), ("10 %", fraction))
    )
    narrowest, widest = (c for c in (_at_eight(assessment)[0], _at_eight(assessment)[-1]))
    seconds = [c.second_best_gap for c in (narrowest, widest)]
    second = None if None in seconds else seconds[1] - seconds[0]  # type: ignore[operator]
    verdict = judge_derived(assessment, fixed, [narrowest, widest], second)
    if verdict.word == "supported" and (widest.interval is None or widest.interval.low <= DELTA):
        verdict = Verdict("undecided", "gap")
    if verdict.word == "supported" and fraction.high < DELTA:
        verdict = Verdict("undecided", "mixed")
    return Answer(told, verdict, verdict.code or f"by width, the gap at 8 directions is {describe(fixed)}")


def _at_eight(assessment: Assessment) -> list[ContrastSummary]:
    return [c for c in assessment.contrasts if c.contrast.treatment.endswith(" k8")]


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """The gap by width at fixed fractions and fixed numbers of directions, over the donors' overlap."""
    return width_drawings(name, assessment, store)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same in numbers."""
    return width_tables(assessment, store)
