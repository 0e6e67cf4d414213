"""Convergence (E6, E7, E8, E20): do independently trained donors hand down interchangeable, useful structure?

Fresh networks are trained inside each donor's subspaces and inside every control's, on the same data from the same
dense draw; the gap to each control says what the property it destroys was worth.
"""

import re
from itertools import combinations
from typing import Any

import numpy as np

from ontogeny.lab.answers import Answer, answer_of, find_contrast, measured, opposite
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.claims import load_claims
from ontogeny.lab.conduct import overlap_tasks
from ontogeny.lab.experiment import Arm, Contrast, Embeddings, Experiment, Setting
from ontogeny.lab.experiments.arms import ATTRIBUTION, CELLS, NEEDS_SEVERAL, OTHERS, PRIMARY
from ontogeny.lab.experiments.convergence_figures import (
    attribution_drawing,
    attribution_table,
    pairs_table,
    units_drawing,
    variances_table,
)
from ontogeny.lab.judge import Assessment, ContrastSummary
from ontogeny.lab.report.figures import Drawing, Published
from ontogeny.lab.report.overlaps import overlap_drawings, overlap_tables
from ontogeny.lab.report.tables import Table
from ontogeny.lab.statistics import (
    Attribution,
    Equivalence,
    Interval,
    VarianceComponents,
    Verdict,
    attribution,
    interchangeable,
    judge_interchangeable,
    paired_interval,
    variance_components,
)
from ontogeny.lab.store import Store

NAME = "convergence"
TITLE = "Convergence: are the axes of independently trained donors interchangeable, and better than chance?"
FLAW = (
    "the published losses lie near unigram entropy after 200 steps, with one run of random axes, at a learning rate "
    "that is not stated; here rates are tuned for every arm, random axes are drawn anew in every replicate, and every "
    "other property of the donor's axes has a control that destroys it alone"
)

RULES = {
    "estimand": "gap = test loss(control) − test loss(treatment), nats a token, at the last declared step",
    "interval": "mean paired difference over replicates, Student's t, simultaneous at 1 − 0.05/m over the m primary "
    "contrasts of an embedding mode",
    "verdict": "supported: lower bound > 0.02 nats, ≥ 5 replicates over ≥ 5 donors, both arms past the bigram, both "
    "rates interior, the same sign at both arms' second-best rates; refuted: upper bound < 0.02, same gates; else "
    "undecided",
    "rates": "body and rest tuned per arm and embedding mode by coordinate search on 1e-3 … 3e-1 from rest 3e-2, body "
    "1e-2; same steps as the evaluation, on replicate 0 (never evaluated), scored on the tune split; with frozen "
    "embeddings body only",
    "E6": "supported if random − donor (fresh) is supported and every pair of donors is equivalent within a quarter of "
    "the gap (both one-sided tests at 0.05), all donors on the same streams, ≥ 5 replicates",
    "E7": "'the same subspaces' is taken as more than half shared: supported if the mean overlap of donor pairs, raw "
    "or after aligning the residual stream on odd layers (scored on even ones), has its lower 95 % bound (t over "
    "donors) above 1/2; refuted if every upper bound lies below 1/2; z against Haar and p against layer-permuted "
    "refits beside it",
    "E8": "supported if dense − donor (fresh) is supported at the last step",
    "E20": "supported if values-permuted − values-kept (fresh) is refuted: starting from the donor's core is worth no "
    "more than 0.02 nats over the same core with its singular values reordered; and the other way round (full table)",
    "null by symmetry": "rotated equals donor with fresh embeddings (Gaussian embeddings and RMSNorm don't know the "
    "coordinates); in-subspace equals donor under a full core: checks of the harness, not evidence",
}

FIXED_RATES = "fixed: those that the committed laptop sweep chose for each arm; none is tuned here"
FULL_FRESH = (*PRIMARY, *OTHERS)
FULL_FROZEN = (*PRIMARY, *ATTRIBUTION)


def declare(
    *,
    scale: str,
    decisive: bool,
    setting: Setting,
    replicates: int,
    text: dict[str, Any],
    donor_records: tuple[dict[str, Any], ...],
    given: bool,
    table: str,
    audit: bool,
    rates: Any = None,
) -> Experiment:
    """The experiment for one scale, text and set of donors. ``given``: the donors are the user's own."""
    several = len(setting.donors) > 1
    extra = crossed(len(setting.donors), replicates if table == "full" else 1) if several and scale != "demo" else {}
    arms = PRIMARY | extra
    modes: dict[str, tuple[str, ...]] = {"fresh": (*PRIMARY, *extra), "frozen": tuple(PRIMARY)}
    missing = {
        "step-0": "singular vectors of a Gaussian initialisation are Haar-random, so it equals random; it is for "
        "published step-0 checkpoints"
    }
    if not several:
        missing |= dict.fromkeys(NEEDS_SEVERAL, "needs several donors; give --donor more than once")
        missing |= dict.fromkeys(("E6", "E7"), "one donor: nothing to compare it with; give --donor more than once")
    if table == "full":
        arms |= ATTRIBUTION | {name: arm for name, arm in OTHERS.items() if name not in missing}
        modes["fresh"] = tuple(name for name in (*FULL_FRESH, *extra) if name in arms)
        modes["frozen"] = FULL_FROZEN
        modes["trainable"] = tuple(PRIMARY)
    if scale == "demo":
        modes = {"fresh": tuple(PRIMARY)}
    return Experiment(
        name=NAME,
        title=TITLE,
        scale=scale,
        decisive=decisive,
        setting=setting,
        arms=tuple(arms.values()),
        embeddings=modes,
        contrasts=tuple(contrast for mode in modes for contrast in _contrasts(mode, modes[mode])),  # type: ignore[arg-type]
        replicates=replicates,
        text=text,
        donor_records=donor_records,
        single_checkpoint=given and not several,
        not_applicable=missing,
        rules=RULES | ({"rates": FIXED_RATES} if rates else {}),
        rates=rates,
        audit=audit,
        table=table,
    )


def crossed(donors: int, replicates: int) -> dict[str, Arm]:
    """E6: every donor on the streams of the first ``replicates``, and as many random draws on replicate 1's."""
    arms = {}
    for i in range(donors):
        name, draw = f"donor {i + 1}", f"draw {i + 1}"
        arms[name] = Arm(name, donor=i, tuned_as="donor", replicates=replicates)
        arms[draw] = Arm(draw, controls=("random",), draw=i + 1, tuned_as="random", replicates=1)
    return arms


def _contrasts(mode: Embeddings, arms: tuple[str, ...]) -> list[Contrast]:
    """At most six primary contrasts a mode; the full table's others are exploratory."""
    contrasts = [
        Contrast(mode, "random", "donor", "is the structure worth having?"),
        Contrast(mode, "dense", "donor", "is it better than every weight free?"),
        Contrast(mode, "random", "rotated", "geometry between layers, coordinates lost"),
        Contrast(mode, "random", "coherent", "agreement between layers alone"),
        Contrast(mode, "coherent", "donor", "the donor beyond such agreement"),
        Contrast(mode, "rotated", "donor", "fit to the coordinates", primary=mode != "fresh", check=mode == "fresh"),
    ]
    others = [name for name in arms if name in ATTRIBUTION or name in OTHERS]
    if "values-kept" in arms:
        contrasts.append(Contrast(mode, "values-permuted", "values-kept", "are the values worth having as a start?"))
    return contrasts + [
        Contrast(mode, name, "donor", arms_question(name), primary=False, check=name == "in-subspace")
        for name in others
    ]


def arms_question(name: str) -> str:
    """What an exploratory contrast against this arm asks."""
    arm = (ATTRIBUTION | OTHERS)[name]
    return arm.description or "donor with " + " and ".join(arm.controls) + " applied"


def crossed_losses(assessment: Assessment) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Losses (streams, donors) of every donor on the same streams, fresh embeddings; None until all are there."""
    donors = len(assessment.experiment.setting.donors)
    return _columns(assessment, [f"donor {i + 1}" for i in range(donors)])


def _columns(assessment: Assessment, names: list[str]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    arms = [assessment.arms.get(("fresh", name)) for name in names]
    columns = [arm.losses for arm in arms if arm]
    if len(columns) < max(2, len(names)) or any(loss is None for column in columns for loss in column):
        return None
    return np.array(columns, dtype=float).T if columns[0] else None


def equivalence(assessment: Assessment) -> Equivalence | None:
    """E6: every pair of donors against a quarter of the gap to random, on common streams."""
    crossed = crossed_losses(assessment)
    random = assessment.arms["fresh", "random"].losses
    if crossed is None or not random or None in random:
        return None
    return interchangeable(crossed, np.array(random[: len(crossed)], dtype=float))


def variances(assessment: Assessment) -> VarianceComponents | None:
    """E6: the variance between donors beside that between random draws, on the streams of replicate 1."""
    crossed = crossed_losses(assessment)
    draws = _columns(assessment, [f"draw {i + 1}" for i in range(len(assessment.experiment.setting.donors))])
    return None if crossed is None or draws is None else variance_components(crossed[:1], draws[:1])


def attributed(assessment: Assessment) -> Attribution | None:
    """What layer identity, frame and internal sides are worth with frozen embeddings (full table)."""
    cells = {kept: assessment.arms.get(("frozen", name)) for kept, name in CELLS.items()}
    random = assessment.arms.get(("frozen", "random"))
    values = {kept: _value(arm.losses) for kept, arm in cells.items() if arm}
    if random is None or len(values) < len(CELLS) or any(v is None for v in values.values()):
        return None
    total = _value(random.losses)
    return None if total is None else attribution({k: v for k, v in values.items() if v is not None}, total)


def _value(losses: tuple[float | None, ...]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    return None if not losses or None in losses else -np.array(losses, dtype=float)


def overlaps(assessment: Assessment, store: Store) -> dict[str, list[dict[str, Any]]]:
    """Alignment -> every stored pair's result."""
    found: dict[str, list[dict[str, Any]]] = {}
    for task in overlap_tasks(assessment.experiment):
        if result := store.result(task.id, 0):
            found.setdefault(task.align, []).append(result)
    return found


def mean_overlap(pairs: list[dict[str, Any]], donors: tuple[str, ...]) -> Interval | None:
    """Mean overlap over sites and pairs, its interval over donors (each donor's mean with the others)."""
    means = {}
    for pair in pairs:
        if pair["rows"]:
            means[pair["first"], pair["second"]] = float(np.mean([row["overlap"] for row in pair["rows"]]))
    wanted = list(combinations(donors, 2))
    if len(donors) < 3 or any(pair not in means for pair in wanted):
        return None
    return paired_interval([float(np.mean([means[p] for p in wanted if donor in p])) for donor in donors])


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """Claim id -> measured, scale, verdict and why, for the claims this experiment answers."""
    gap = find_contrast(assessment, "random − donor (fresh)")
    assert gap is not None
    answers = {
        "E6": _interchangeable(assessment, gap),
        "E7": _same_subspaces(assessment, store),
        "E8": answer_of(assessment, "dense − donor (fresh)"),
        "E20": _values(assessment),
    }
    return answers_to_findings(assessment.experiment, answers)


def _interchangeable(assessment: Assessment, gap: ContrastSummary) -> Answer:
    told = measured(assessment, gap)
    if "E6" in assessment.experiment.not_applicable:
        return Answer(told, Verdict("undecided", "not applicable"), assessment.experiment.not_applicable["E6"])
    found = equivalence(assessment)
    if found is None:
        return Answer(told, _unanswered(gap), "gap: " + (gap.verdict.code or gap.verdict.word))
    passing = sum(pair.equivalent for pair in found.pairs)
    told += f"; std/gap {found.std_over_gap:.3f}; {passing} of {len(found.pairs)} pairs equivalent"
    code = f" ({gap.verdict.code})" if gap.verdict.code else ""
    verdict = judge_interchangeable(found, gap.verdict)
    return Answer(told, verdict, f"asked only once the gap is supported; gap {gap.verdict.word}{code}")


def _unanswered(gap: ContrastSummary) -> Verdict:
    return Verdict("not run") if gap.interval is None else Verdict("undecided", gap.verdict.code)


def _same_subspaces(assessment: Assessment, store: Store) -> Answer:
    experiment = assessment.experiment
    if "E7" in experiment.not_applicable:
        return Answer("", Verdict("undecided", "not applicable"), experiment.not_applicable["E7"])
    intervals: dict[str, Interval] = {}
    parts = []
    for align, pairs in overlaps(assessment, store).items():
        interval = mean_overlap(pairs, tuple(dict.fromkeys(experiment.setting.donors)))
        if interval is not None:
            intervals[align] = interval
            rows = [row for pair in pairs for row in pair["rows"]]
            chance, z = (float(np.mean([row[key] for row in rows])) for key in ("chance", "z"))
            label = "raw" if align == "none" else f"after {align} alignment"
            parts.append(
                f"{label} {interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}], "
                f"chance {chance:.3f}, mean z {z:.1f}"
            )
    told = "; ".join(parts)
    if not intervals:
        return Answer("", Verdict("not run"), "needs three donors or more")
    if not experiment.decisive:
        return Answer(told, Verdict("undecided", "scale"), f"{experiment.scale} decides nothing")
    if any(not donor["passed_gate"] for donor in assessment.donors):
        return Answer(told, Verdict("undecided", "gate"), "a donor doesn't beat its bigram by 0.3 nats")
    if any(interval.low > 0.5 for interval in intervals.values()):
        return Answer(told, Verdict("supported"), "more than half of the directions shared")
    if len(intervals) == 3 and all(interval.high < 0.5 for interval in intervals.values()):
        return Answer(told, Verdict("refuted"), "less than half shared, raw and after either alignment")
    return Answer(told, Verdict("undecided", "straddles"), "the interval holds one half")


def _values(assessment: Assessment) -> Answer:
    """E20: the contrast asks whether values matter beyond the structure, so the claim is its opposite."""
    return opposite(answer_of(assessment, "values-permuted − values-kept (fresh)"))


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """Donors beside draws, the overlap maps, and the attribution; as far as there are numbers."""
    experiment = assessment.experiment
    found = overlap_drawings(name, overlaps(assessment, store), experiment)
    donors, draws = (_on_common_streams(assessment, kind) for kind in ("donor", "random"))
    if donors and draws:
        found.insert(0, units_drawing(name, donors, draws, experiment))
    if parts := attributed(assessment):
        found.append(attribution_drawing(name, parts, experiment))
    return tuple(found)


def _on_common_streams(assessment: Assessment, kind: str) -> list[float]:
    """The losses in replicate 1 of every donor ("donor") or draw ("random"), as far as they are stored."""
    experiment = assessment.experiment
    names = [name for name in experiment.embeddings.get("fresh", ()) if experiment.arm(name).tuned_as == kind]
    first = [next(iter(assessment.arms["fresh", name].losses), None) for name in names]
    return [loss for loss in first if loss is not None]


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """What E6, E7 and the attribution rest on; as far as there are numbers."""
    components, pairs, parts = variances(assessment), equivalence(assessment), attributed(assessment)
    return (
        *((variances_table(components),) if components else ()),
        *((pairs_table(pairs),) if pairs else ()),
        *overlap_tables(overlaps(assessment, store)),
        *((attribution_table(parts),) if parts else ()),
    )


def published_gaps() -> Published:
    """Random's and dense's published losses minus the donors' (nats), from the text of claim E6."""
    text = next(claim.published for claim in load_claims() if claim.id == "E6")
    *donors, random, dense = map(float, re.findall(r"\d\.\d{3}", text))
    return {
        f"{control} − donor (fresh)": (
            (loss - float(np.mean(donors)), "mean of four donors (A, C)"),
            *((loss - donor, "each of them") for donor in donors),
        )
        for control, loss in (("random", random), ("dense", dense))
    }


PUBLISHED = published_gaps()
