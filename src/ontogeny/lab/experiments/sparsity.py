"""Sparsity (E1, E2): is the pattern of a pretrained network's largest weights worth having, and more so when sparser?

Fresh networks are trained inside the donor's magnitude mask and inside masks that keep ever less of it: its density
alone, its layers' densities, its rows' and columns' degrees, its graph without its names. Arms are named by sparsity.
"""

from typing import Any

import numpy as np

from ontogeny.lab.answers import Answer, answer_of, find_contrast
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.curves import RULES as CURVE_RULES
from ontogeny.lab.curves import ValueCurve, fit_value_curve, judge_value_curve
from ontogeny.lab.experiment import Arm, Contrast, Embeddings, Experiment
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.experiments.sparsity_figures import gap_drawings, gap_tables, published_gaps
from ontogeny.lab.judge import Assessment, ContrastSummary, conditions, judge_derived
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import published
from ontogeny.lab.statistics import MINIMUM_REPLICATES, Verdict
from ontogeny.lab.store import Store

NAME = "sparsity"
TITLE = "Sparsity: what is the pattern of a pretrained network's largest weights worth, and how does that grow?"
FLAW = (
    "the published random mask differs from the donor's in its layers' densities and its neurons' degrees as well as "
    "in its pattern, at one learning rate that is not stated, in one run an arm"
)

SCALES = {
    "paper": published("HuggingFaceTB/SmolLM2-135M", steps=500, evaluate_at=(50, 100, 200, 300, 400, 500)),
}

PUBLISHED_AT = 90  # % sparsity: where the published gap of E1 stands
PRIMARY_SPARSITIES = (50, 75, 90, 95)
FULL_SPARSITIES = (10, 20, 30, 50, 75, 90, 95, 98)
HELD_OUT = 98  # % sparsity: no form is fitted to it

CONTROLS = {
    "magnitude": ((), "the donor's largest weights, over all matrices together"),
    "uniform": (("mask-random",), "as many entries anywhere"),
    "layer-density": (("mask-layer-density",), "as many entries in every matrix"),
    "degree": (("mask-degree",), "as many entries in every row and every column"),
}
FULL_CONTROLS = CONTROLS | {
    "permuted": (("mask-permuted",), "the donor's graph, rows and columns renamed"),
    "erk": (("mask-erk",), "as many entries, densities of Erdős–Rényi kernels"),
}

RULES = {
    "estimand": "gap = test loss(control mask) − test loss(magnitude mask), nats a token, at the last declared step",
    "mask": "the largest magnitudes over all layer matrices together; embeddings, head and norms unmasked; dead "
    "weights and their optimiser state are zero after every step",
    "E1": f"supported if uniform − magnitude at {PUBLISHED_AT} % sparsity (fresh) is supported",
    "E2": CURVE_RULES["E2"],
}


def declare(*, given: bool, table: str, **rest: Any) -> Experiment:
    """The experiment for one scale, text and set of donors. ``given``: the donors are the user's own."""
    full = table == "full"
    controls, sparsities = (FULL_CONTROLS, FULL_SPARSITIES) if full else (CONTROLS, PRIMARY_SPARSITIES)
    arms = [mask_arm(kind, sparsity) for sparsity in sparsities for kind in controls]
    if full:
        arms += [mask_arm("magnitude", PUBLISHED_AT, scope="matrix"), PRIMARY["dense"]]
    names = tuple(arm.name for arm in arms)
    modes: dict[str, tuple[str, ...]] = {"fresh": names}
    if full:
        modes["frozen"] = tuple(f"{kind} {PUBLISHED_AT}%" for kind in CONTROLS)
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(arms),
        embeddings=modes,
        contrasts=tuple(contrast for mode in modes for contrast in _contrasts(mode, modes[mode])),  # type: ignore[arg-type]
        single_checkpoint=given and len(rest["setting"].donors) == 1,
        rules=RULES,
        table=table,
        alignments=(),
        **rest,
    )


def mask_arm(kind: str, sparsity: int, *, scope: str = "global") -> Arm:
    """One kind of mask at one sparsity (%)."""
    controls, description = FULL_CONTROLS[kind]
    name = f"{kind} {sparsity}%" + (" by matrix" if scope == "matrix" else "")
    return Arm(
        name,
        recipe={"density": f"{100 - sparsity}%", "scope": scope},
        controls=controls,
        description=description if scope == "global" else "the donor's largest weights of every matrix",
    )


def _contrasts(mode: Embeddings, arms: tuple[str, ...]) -> list[Contrast]:
    """Primary: the pattern against its density alone at four sparsities, against layer densities and degrees at one."""
    found = []
    for name in arms:
        kind, _, size = name.partition(" ")
        if f"magnitude {size}" not in arms or name == f"magnitude {size}":
            continue
        sparsity = int(size.removesuffix("%"))
        primary = (kind == "uniform" and sparsity in PRIMARY_SPARSITIES) or (
            kind in ("layer-density", "degree") and sparsity == PUBLISHED_AT
        )
        question = "is the pattern worth more than " + FULL_CONTROLS[kind][1] + "?"
        found.append(Contrast(mode, name, f"magnitude {size}", question, primary=primary))
        if kind in ("layer-density", "degree"):
            question = "what " + FULL_CONTROLS[kind][1] + " are worth by themselves"
            found.append(Contrast(mode, f"uniform {size}", name, question, primary=False))
    for control in ("magnitude 90% by matrix", "dense"):
        if control in arms:
            question = "one threshold, or one a matrix?" if "matrix" in control else "against every weight free"
            found.append(Contrast(mode, control, f"magnitude {PUBLISHED_AT}%", question, primary=False))
    return found


def sweep(assessment: Assessment) -> dict[int, ContrastSummary]:
    """Sparsity (%) -> uniform − magnitude, fresh embeddings; those with at least two replicates."""
    found = {
        size: find_contrast(assessment, f"uniform {size}% − magnitude {size}% (fresh)") for size in FULL_SPARSITIES
    }
    return {size: c for size, c in found.items() if c and c.interval and c.interval.n > 1}


def curve(assessment: Assessment) -> ValueCurve | None:
    """E2's fits; None until all sparsities have all replicates."""
    found = sweep(assessment)
    gaps = {size: np.array(contrast.differences) for size, contrast in found.items()}
    fitted = [size for size in gaps if size != HELD_OUT]
    if len(fitted) < 4 or {len(values) for values in gaps.values()} != {assessment.experiment.replicates}:
        return None
    held_out = (1 - HELD_OUT / 100, gaps[HELD_OUT]) if HELD_OUT in gaps else None
    return fit_value_curve([1 - size / 100 for size in fitted], np.stack([gaps[s] for s in fitted], axis=1), held_out)


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """E1 and E2."""
    answers = {
        "E1": answer_of(assessment, f"uniform {PUBLISHED_AT}% − magnitude {PUBLISHED_AT}% (fresh)"),
        "E2": _curve_answer(assessment),
    }
    return answers_to_findings(assessment.experiment, answers)


def _curve_answer(assessment: Assessment) -> Answer:
    found, contrasts = curve(assessment), sweep(assessment)
    if found is None:
        return Answer("", Verdict("not run"), "not finished")
    gaps = ", ".join(f"{size} % {c.interval.mean:+.3f}" for size, c in contrasts.items() if c.interval)
    forms = "; ".join(f"{name} AICc {form.aicc:.1f}" for name, form in found.forms.items())
    needed = conditions(assessment, list(contrasts.values()))
    if assessment.experiment.single_checkpoint:  # a statement about one donor needs no others
        needed["donors"] = MINIMUM_REPLICATES
    verdict, i = judge_value_curve(found, **needed), found.largest
    if verdict.word == "supported":  # whatever else the rule of a contrast asks
        last = contrasts[max(size for size in contrasts if size != HELD_OUT)]
        verdict = judge_derived(assessment, i, [last], last.second_best_gap)
    largest = f"at the largest sparsity {i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}] nats, n {i.n}"
    why = verdict.code or (f"the {found.winner} form wins" if found.winner else "no gap at the largest sparsity")
    return Answer(f"gap by sparsity {gaps}; {largest}; {forms}", verdict, why)


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """The gap by sparsity to every control, both fits, and the published series."""
    return gap_drawings(name, assessment, curve(assessment))


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same in numbers."""
    return gap_tables(assessment, curve(assessment))


PUBLISHED = {f"uniform {PUBLISHED_AT}% − magnitude {PUBLISHED_AT}% (fresh)": published_gaps()}
