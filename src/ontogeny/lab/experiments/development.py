"""Development (E12–E15): overproduce, prune by use, consolidate; does a genome decide what survives?

Genomes × environments: every genome is developed in several environments (initialisation and data order), donor
genomes and random ones alike, each genome with the embeddings of its donor, frozen. Arms "donor 1" … are one donor's
genome, "random 1" … one random genome; "donor" and "random" take the replicate's own. In the full table "half 1" … are
half of a donor's genome and half of another's, "turned 1" … a donor's in another basis in every environment.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ontogeny.lab.answers import NOT_FINISHED, Answer, answer_of, find_contrast
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.conduct import comparisons, evaluated_runs
from ontogeny.lab.experiment import Contrast, Embeddings, Experiment, Run, Setting
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.experiments.development_figures import (
    likeness_drawings,
    likeness_tables,
    relatives,
    span_likeness,
    width_tables,
)
from ontogeny.lab.experiments.widths import width_variants
from ontogeny.lab.judge import Assessment, conditions
from ontogeny.lab.likeness import Likeness, jackknife_interval, likeness
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.scales import Scale, Variant, published
from ontogeny.lab.statistics import DELTA, Interval, Verdict, describe, judge, unmet, variance_share
from ontogeny.lab.store import Store
from ontogeny.lab.survivors import Survivors, chance, likeness_matrix, survivors
from ontogeny.training.develop import schedule

NAME = "development"
TITLE = "Development: does a genome decide what survives, and is that worth anything?"
FLAW = (
    "the random group's mask similarity is what chance gives, as it would be if each run had a random genome of its "
    "own, which isn't said; here one random genome is developed in every environment too, and other genomes, index by "
    "index, are the null of the order of singular values"
)

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"rank": "50%", "steps": 12, "evaluate_at": (6, 12)},
    "laptop": {"rank": "50%", "steps": 600, "evaluate_at": (50, 100, 200, 300, 400, 500, 600)},
    "workstation": {"rank": "30%"},
    "paper": published(
        "HuggingFaceTB/SmolLM2-135M", rank="100%", steps=600, evaluate_at=(100, 200, 300, 400, 500, 600)
    ),
}
ENVIRONMENTS = 4
PROCESS: dict[str, Any] = {"score": "gradient", "keep": 0.391, "rounds": 6}  # published: C
ALTERNATIVES: dict[str, dict[str, Any]] = {  # full table
    "by gradient-weight": {"score": "gradient-weight"},
    "by fisher": {"score": "fisher"},
    "by singular-value": {"score": "singular-value"},
    "at random": {"score": "random"},
    "globally": {"scope": "global"},
    "in one round": {"rounds": 1},
    "regrowing": {"regrow": 0.1},
}
# Full table:
RANKS = ("100%", "30%", "10%")  # of a genome, beside the scale's own; at 100 % the basis alone tells genomes apart
WIDTHS = {"smoke": (32, 48), "laptop": (64, 96, 128), "workstation": (128, 256, 512)}
GENOMES = 8  # at least, where donors aren't the user's own

RULES = {
    "estimand": "gap = test loss(control) − test loss(treatment), nats a token, at the last declared step; the donor's "
    "embeddings and head frozen, as published",
    "process": "every direction of the genome lives at first; six rounds, spread evenly from a sixth to two thirds of "
    "the steps (ours: not stated), leave 39.1 % in every matrix, those with the largest |∂L/∂C| over the round's "
    "steps, summed over a direction's row and column of the core; survivors train on. Half-shared genomes and turned "
    "bases (full table) train at the donor's rates",
    "likeness": "cosine of two runs' survivors over all matrices, index by index in singular-value order, for runs in "
    "different environments; 0.391 by chance. Between genomes it is what the order alone gives. p by permuting genomes "
    "within each environment; intervals by the jackknife over genomes. All of it in these environments, at least 4, "
    "and only if every run of the grid passes its gates",
    "E12": "supported if random − donor is supported",
    "E13": "likeness within a donor's genome − between donor genomes: supported if the lower 95 % bound > 0.02 and "
    "p < 0.05; refuted if the upper bound < 0.02. Where random genomes converge too (their lower bound > 0.02) it is "
    "told and not held against it: the statement says the same genome, which a random one is as well",
    "E14": "refuted if E13 is, or if twins also predict alike: divergence (mean of both KL) between genomes − within, "
    "in different environments, that of random genomes taken off, since twins share a frozen head: lower 95 % bound > "
    "0.02 nats; supported if E13 is and the upper bound < 0.02",
    "E15": "share of the genome, with its donor's embeddings, in the variance of the donor genomes' final losses, "
    "genomes × environments; the rest is the environment's, its interaction with the genome included. Generalised 95 % "
    "interval: all components vary. Supported if it lies between a tenth and nine tenths, which takes more than five "
    "genomes in four environments, and the share is above that of random genomes, which have the same embeddings "
    "(else undecided, code mixed); refuted if it lies below the one or above the other",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """The scale's donors; in the full table eight of them at least, and families of other widths."""
    if table != "full" or given or scale.hub_donors:
        return {"": Variant(scale, text)}
    others = {f"d{v.scale.width}": v for v in width_variants(scale, WIDTHS, text, given).values()}
    others.pop(f"d{scale.width}", None)
    return {"": Variant(replace(scale, donors=max(scale.donors, GENOMES)), text)} | others


def declare(*, given: bool, table: str, settings: Mapping[str, Setting] | None = None, **rest: Any) -> Experiment:
    """The experiment for one scale, text and set of donors. ``given``: the donors are the user's own."""
    setting = rest["setting"]
    schedule(setting.steps, **PROCESS)  # told now rather than in the first run
    genomes = range(1, len(setting.donors) + 1)
    full = table == "full"
    arms = {kind: replace(PRIMARY[kind], develop=PROCESS) for kind in ("donor", "random", "coherent", "rotated")}
    if not full:
        arms = {kind: arms[kind] for kind in KINDS}
    twins = {kind: tuple(f"{kind} {g}" for g in genomes) for kind in KINDS}
    for kind, names in twins.items():
        for g, name in zip(genomes, names, strict=True):
            environments = min(ENVIRONMENTS, rest["replicates"])
            arms[name] = replace(
                arms[kind], name=name, donor=g - 1, draw=g if kind == "random" else None, tuned_as=kind,
                replicates=environments, description=f"genome {g} in {environments} environments",
            )  # fmt: skip
    asked = [("random", "donor", "does the donor's genome end better than a random one?", True)]
    if full:
        further: dict[str, dict[str, Any]] = {n: {"develop": PROCESS | change} for n, change in ALTERNATIVES.items()}
        further |= {rank: {"recipe": {"rank": rank}} for rank in RANKS if rank != setting.rank}
        further |= {name: {"setting": name} for name in settings or {}}
        for name, change in further.items():
            arms |= {f"{k} {name}": replace(arms[k], name=f"{k} {name}", **change) for k in KINDS}
            how = "pruned" if name in ALTERNATIVES else "at"
            asked.append((f"random {name}", f"donor {name}", f"and {how} {name}?", False))
        for g in genomes:
            arms[f"turned {g}"] = replace(
                arms[f"donor {g}"], name=f"turned {g}", controls=("in-subspace",),
                description=f"genome {g} in a basis of its own, U and V turned apart, in every environment",
            )  # fmt: skip
            if len(genomes) > 1:
                arms[f"half {g}"] = replace(
                    arms[f"donor {g}"], name=f"half {g}", controls=("half-shared",), donors="all", draw=g,
                    description=f"half of genome {g}'s sites, half of another's",
                )  # fmt: skip
        asked += [
            ("coherent", "donor", "more than layers that agree?", True),
            ("rotated", "donor", "more than the geometry between layers?", True),
            ("donor in one round", "donor", "is it worth the rounds?", False),
            ("donor at random", "donor", "is it worth choosing?", False),
        ]
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(replace(arm, recipe={"basis": "singular"} | dict(arm.recipe)) for arm in arms.values()),
        embeddings={"frozen": tuple(arms)},
        contrasts=tuple(Contrast("frozen", *contrast) for contrast in asked),
        single_checkpoint=given and len(setting.donors) == 1,
        not_applicable=dict.fromkeys(("E13", "E14", "E15"), ONE_GENOME) if len(setting.donors) == 1 else {},
        rules=RULES,
        table=table,
        settings=dict(settings or {}),
        alignments=(),
        twins=tuple(twins.values()) if len(genomes) > 1 else (),
        **rest,
    )


KINDS = ("donor", "random")
ONE_GENOME = "one donor, so one genome: nothing to tell apart; give --donor more than once"


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """E12 to E15."""
    answers = {"E12": answer_of(assessment, "random − donor (frozen)")}
    if assessment.experiment.not_applicable:
        answers |= {c: Answer("", Verdict("undecided", "not applicable"), ONE_GENOME) for c in ("E13", "E14", "E15")}
        return answers_to_findings(assessment.experiment, answers)
    answers["E13"] = _same_structure(assessment, store)
    answers["E14"] = _function(assessment, store, answers["E13"])
    answers["E15"] = _twins(assessment)
    return answers_to_findings(assessment.experiment, answers)


# Survivors ----------------------------------------------------------------------------------------------------

Cell = tuple[int, int]  # genome, environment
Grid = dict[Cell, Survivors]


def survivors_of(assessment: Assessment, store: Store, kind: str) -> Grid:
    """What lives in the end, of every finished run of a kind's genomes."""
    found = {}
    for (genome, environment), run in _grid(assessment, store, kind).items():
        if (result := store.result(run.id, run.replicate)) and result["final"] is not None:
            found[genome, environment] = survivors(result)
    return found


def _grid(assessment: Assessment, store: Store, kind: str) -> dict[Cell, Run]:
    cells = evaluated_runs(assessment.experiment, store)
    return {
        (genome, run.replicate): run
        for genome in range(1, len(assessment.experiment.setting.donors) + 1)
        for run in cells.get(("frozen", f"{kind} {genome}"), [])
    }


def _complete(assessment: Assessment, grid: Mapping[Any, Any]) -> bool:
    experiment = assessment.experiment
    return len(grid) == len(experiment.setting.donors) * min(ENVIRONMENTS, experiment.replicates)


def found_likeness(grid: Grid) -> Likeness:
    """Within and between genomes, in different environments, and p."""
    return likeness(likeness_matrix(grid), [genome for genome, _ in grid], [environment for _, environment in grid])


def excess(values: Mapping[tuple[Cell, Cell], float], genomes: Collection[int]) -> float:
    """Mean within genomes − mean between them, of pairs in different environments and of these genomes alone."""
    apart = {(a, b): value for (a, b), value in values.items() if a[1] != b[1] and a[0] in genomes and b[0] in genomes}
    within = [value for (a, b), value in apart.items() if a[0] == b[0]]
    between = [value for (a, b), value in apart.items() if a[0] != b[0]]
    return float(np.mean(within) - np.mean(between))


def _too_few(assessment: Assessment) -> bool:
    return len(assessment.experiment.setting.donors) < 3 or assessment.experiment.replicates == 1


def _pairwise(grid: Grid) -> dict[tuple[Cell, Cell], float]:
    matrix, cells = likeness_matrix(grid), list(grid)
    return {(cells[i], cells[j]): float(matrix[i, j]) for i in range(len(cells)) for j in range(i)}


def _judge(assessment: Assessment, interval: Interval) -> Verdict:
    """The rule for a number over genomes; every gate of all the grid's arms."""
    return _unmet(assessment) or judge(
        interval,
        second_best_gap=1.0,  # likeness isn't measured at other rates: the rule's last condition doesn't apply
        delta=DELTA,
        **_conditions(assessment),
    )


def _conditions(assessment: Assessment) -> dict[str, Any]:
    main = find_contrast(assessment, "random − donor (frozen)")
    assert main is not None
    grid: list[tuple[Embeddings, str]] = [("frozen", name) for group in assessment.experiment.twins for name in group]
    return conditions(assessment, [main], grid)


def _unmet(assessment: Assessment) -> Verdict | None:
    found = unmet(n=len(assessment.experiment.setting.donors), **_conditions(assessment))
    few = min(ENVIRONMENTS, assessment.experiment.replicates) < ENVIRONMENTS
    return found or (Verdict("undecided", "n") if few else None)


def _same_structure(assessment: Assessment, store: Store) -> Answer:
    grids = {kind: survivors_of(assessment, store, kind) for kind in KINDS}
    if not all(_complete(assessment, grid) for grid in grids.values()):
        return NOT_FINISHED
    if _too_few(assessment):
        return Answer("", Verdict("undecided", "n"), "fewer than 3 genomes, or one environment: nothing to compare")
    genomes = range(1, len(assessment.experiment.setting.donors) + 1)
    told, gaps, alike = [], {}, {}
    for kind, grid in grids.items():
        values = _pairwise(grid)
        alike[kind] = found_likeness(grid)
        gaps[kind] = jackknife_interval(lambda chosen, values=values: excess(values, chosen), genomes)  # type: ignore[misc]
        told.append(
            f"{kind} genomes: within {alike[kind].within:.3f}, between {alike[kind].between:.3f}, difference "
            f"{show(gaps[kind], '±+.3f')}, p {alike[kind].p:.2g}"
        )
    by_chance = chance(next(iter(grids["donor"].values())))
    measured = f"{'; '.join(told)}; chance {by_chance:.3f}"
    verdict = _judge(assessment, gaps["donor"])
    if verdict.word == "supported" and alike["donor"].p >= 0.05:
        return Answer(measured, Verdict("undecided", "p"), "p ≥ 0.05 by permutation")
    too = "; so do random genomes: any fixed basis does" if gaps["random"].low > DELTA else ""
    why = verdict.code or f"within a genome likeness is {describe(gaps['donor'])}"
    return Answer(measured, verdict, why + (too if verdict.word == "supported" else ""))


# Function and losses ------------------------------------------------------------------------------------------


def divergences(assessment: Assessment, store: Store, kind: str) -> dict[tuple[Cell, Cell], Any]:
    """Pair of cells -> the stored comparison of their networks; those that are there."""
    cells = {(run.id, run.replicate): key for key, run in _grid(assessment, store, kind).items()}
    found = {}
    for pair in comparisons(assessment.experiment, store):
        first, second = (cells.get((run.id, run.replicate)) for run in (pair.first, pair.second))
        if first and second and (result := store.result(pair.id, 0)):
            found[first, second] = result
    return found


def _function(assessment: Assessment, store: Store, structure: Answer) -> Answer:
    found = {kind: divergences(assessment, store, kind) for kind in KINDS}
    runs = len(assessment.experiment.setting.donors) * min(ENVIRONMENTS, assessment.experiment.replicates)
    if structure.verdict.word == "not run" or any(len(f) < runs * (runs - 1) // 2 for f in found.values()):
        return NOT_FINISHED
    if _too_few(assessment):
        return Answer("", Verdict("undecided", "n"), "fewer than 3 genomes, or one environment: nothing to compare")
    values = {kind: {pair: r["divergence"] for pair, r in rows.items()} for kind, rows in found.items()}
    genomes = range(1, len(assessment.experiment.setting.donors) + 1)
    closer = {
        kind: jackknife_interval(lambda chosen, kind=kind: -excess(values[kind], chosen), genomes)  # type: ignore[misc]
        for kind in KINDS
    }
    gap = jackknife_interval(lambda chosen: excess(values["random"], chosen) - excess(values["donor"], chosen), genomes)
    told = f"between − within, nats: donor {show(closer['donor'], '±+.3f')}, random {show(closer['random'], '±+.3f')}, "
    told += f"their difference {show(gap, '±+.3f')}; donor genomes: {_told(found['donor'])}"
    alike = _judge(assessment, gap)
    if structure.verdict.word == "refuted" or alike.word == "supported":
        why = "structure doesn't converge" if structure.verdict.word == "refuted" else "twins predict alike too"
        return Answer(told, Verdict("refuted"), why)
    if structure.verdict.word != "supported":
        return Answer(told, Verdict("undecided", "gap"), "asked only once E13 is supported")
    if alike.word == "refuted":
        return Answer(told, Verdict("supported"), "twins share structure and predict no more alike than others")
    return Answer(told, alike, alike.code)


def _told(found: Mapping[tuple[Cell, Cell], Any]) -> str:
    """Means of twins and of others, in different environments."""
    parts = []
    for what, same in (("twins", True), ("others", False)):
        rows = [r for (a, b), r in found.items() if (a[0] == b[0]) is same and a[1] != b[1]]
        kl, agree, cka = (np.mean([r[key] for r in rows]) for key in ("divergence", "agreement", "alignment"))
        parts.append(f"{what} {kl:.3f} nats, same prediction {agree:.0%}, CKA {cka:.3f}")
    return "; ".join(parts)


def _losses(assessment: Assessment, kind: str) -> NDArray[np.float64] | None:
    """Environments × genomes; None until every run is there."""
    genomes = range(1, len(assessment.experiment.setting.donors) + 1)
    rows = [assessment.arms["frozen", f"{kind} {genome}"].losses for genome in genomes]
    if any(len(row) < 2 or None in row for row in rows):
        return None
    return np.array(rows, dtype=np.float64).T


def _twins(assessment: Assessment) -> Answer:
    losses = {kind: _losses(assessment, kind) for kind in KINDS}
    shares = {kind: variance_share(found) for kind, found in losses.items() if found is not None}
    if len(shares) < len(KINDS):
        ended = all(assessment.arms["frozen", name].losses for group in assessment.experiment.twins for name in group)
        what = Verdict("undecided", "diverged or missing runs") if ended else Verdict("not run")
        return Answer("", what, what.code or "not finished")
    told = "the genome's share of the final losses' variance: " + "; ".join(
        f"{kind} {show(share, '±.0%')}" for kind, share in shares.items()
    )
    if undecided := _unmet(assessment):
        return Answer(told, undecided, undecided.code)
    donor, other = shares["donor"], shares["random"]
    if donor.high < 0.1 or donor.low > 0.9:
        smaller = "genome" if donor.high < 0.1 else "environment"
        return Answer(told, Verdict("refuted"), f"the {smaller} explains under a tenth")
    if donor.low <= 0.1 or donor.high >= 0.9:
        why = "the interval holds a tenth or nine tenths: more genomes and environments"
        return Answer(told, Verdict("undecided", "straddles"), why)
    if other.mean >= donor.mean:
        why = "random genomes, with the same embeddings, have as large a share: it may be the embeddings'"
        return Answer(told, Verdict("undecided", "mixed"), why)
    why = f"each explains more than a tenth; of random genomes, with the same embeddings, the share is {other.mean:.0%}"
    return Answer(told, Verdict("supported"), why)


# Figures and tables -------------------------------------------------------------------------------------------


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """Likeness of survivors, and where they are."""
    grids = {kind: survivors_of(assessment, store, kind) for kind in KINDS}
    matrices = {kind: (list(grid), likeness_matrix(grid)) for kind, grid in grids.items() if len(grid) > 1}
    return likeness_drawings(name, matrices, whole_likeness(assessment, grids), grids, assessment.experiment)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same as numbers; in the full table with spans of turned bases, relatives, and the gap by width."""
    grids = {kind: survivors_of(assessment, store, kind) for kind in (*KINDS, "half", "turned")}
    alike, several = whole_likeness(assessment, grids), assessment.experiment.replicates > 1
    both = several and all(_complete(assessment, grids[kind]) for kind in ("donor", "turned"))
    spans = {kind: span_likeness(grids[kind], kind == "turned") for kind in ("donor", "turned") if both}
    losses = {kind: _losses(assessment, kind) for kind in ("donor", "half", "random") if grids["half"]}
    family = {kind: found for kind, found in losses.items() if found is not None and "donor" in alike}
    shared = relatives(grids, family, alike["donor"]) if len(family) == 3 else {}
    return (*likeness_tables(alike, {k: grids[k] for k in KINDS}, spans, shared), *width_tables(assessment))


def whole_likeness(assessment: Assessment, grids: Mapping[str, Grid]) -> dict[str, Likeness]:
    """Kind -> its likeness, where its grid is complete and has several genomes and environments."""
    several = len(assessment.experiment.setting.donors) > 1 and assessment.experiment.replicates > 1
    return {kind: found_likeness(grids[kind]) for kind in KINDS if several and _complete(assessment, grids[kind])}
