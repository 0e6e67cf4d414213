"""Development (E12–E15): overproduce, prune by use, consolidate; does a genome decide what survives?

Genomes × environments: every genome is developed in several environments (initialisation and data order), donor
genomes and random ones alike, each genome with the embeddings of its donor, frozen. Arms "donor 1" … are one donor's
genome, "random 1" … one random genome; "donor" and "random" take the replicate's own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ontogeny.lab.answers import Answer, answer_of, find_contrast
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.conduct import comparisons, evaluated_runs
from ontogeny.lab.experiment import Contrast, Experiment, Run
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.experiments.development_figures import likeness_drawings, likeness_tables
from ontogeny.lab.judge import Assessment, conditions
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.scales import published
from ontogeny.lab.statistics import (
    DELTA,
    Interval,
    Likeness,
    VarianceComponent,
    Verdict,
    describe,
    judge,
    likeness,
    paired_interval,
    unmet,
    variance_component,
)
from ontogeny.lab.store import Store
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

RULES = {
    "estimand": "gap = test loss(control) − test loss(treatment), nats a token, at the last declared step; the donor's "
    "embeddings and head frozen, as published",
    "process": "every direction of the genome lives at first; six rounds, spread evenly from a sixth to two thirds of "
    "the steps (ours: not stated), leave 39.1 % in every matrix, those with the largest |∂L/∂C| over the round's "
    "steps, summed over a direction's row and column of the core; survivors train on",
    "likeness": "cosine of two runs' survivors over all matrices, index by index in singular-value order; 0.391 by "
    "chance. Between genomes it is what the order alone gives. p by permuting genome labels over runs",
    "E12": "supported if random − donor is supported",
    "E13": "likeness within donor genomes − within random genomes, both developed in the same environments, paired by "
    "genome: supported if the lower 95 % bound > 0.02 and donor genomes are more alike within than between (p < 0.05); "
    "else undecided, code order; refuted if the upper bound < 0.02",
    "E14": "refuted if E13 is, or if twins also predict alike: divergence (mean of both KL) between donor genomes − "
    "within, over genomes: lower 95 % bound > 0.02 nats; supported if E13 is and the upper bound < 0.02",
    "E15": "variance of the donor genomes' final losses, genomes × environments without repetition: supported if the "
    "95 % interval of both components excludes 0; refuted if one's upper bound is below a tenth of the whole",
}


def declare(*, given: bool, table: str, **rest: Any) -> Experiment:
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
        for name, change in ALTERNATIVES.items():
            arms |= {f"{k} {name}": replace(arms[k], name=f"{k} {name}", develop=PROCESS | change) for k in KINDS}
            asked.append((f"random {name}", f"donor {name}", f"and pruned {name}?", False))
        asked += [
            ("coherent", "donor", "more than layers that agree?", True),
            ("rotated", "donor", "more than the geometry between layers?", True),
            ("donor in one round", "donor", "is it worth the rounds?", False),
            ("donor at random", "donor", "is it worth choosing?", False),
        ]
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(replace(arm, recipe={"basis": "singular"}) for arm in arms.values()),
        embeddings={"frozen": tuple(arms)},
        contrasts=tuple(Contrast("frozen", *contrast) for contrast in asked),
        single_checkpoint=given and len(setting.donors) == 1,
        not_applicable=dict.fromkeys(("E13", "E14", "E15"), ONE_GENOME) if len(setting.donors) == 1 else {},
        rules=RULES,
        table=table,
        alignments=(),
        twins=tuple(twins.values()),
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

Grid = dict[tuple[int, int], dict[str, NDArray[np.bool_]]]  # (genome, environment) -> site -> what lives


def survivors(assessment: Assessment, store: Store, kind: str) -> Grid:
    """What lives in the end, of every finished run of a kind's genomes."""
    found = {}
    for (genome, environment), run in _grid(assessment, store, kind).items():
        if result := store.result(run.id, run.replicate):
            found[genome, environment] = {site: _alive(entry) for site, entry in result["lived"].items()}
    return found


def _grid(assessment: Assessment, store: Store, kind: str) -> dict[tuple[int, int], Run]:
    cells = evaluated_runs(assessment.experiment, store)
    return {
        (genome, run.replicate): run
        for genome in range(1, len(assessment.experiment.setting.donors) + 1)
        for run in cells.get(("frozen", f"{kind} {genome}"), [])
    }


def _alive(entry: dict[str, Any]) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(entry["lived"][-1]), np.uint8))
    return bits[: entry["directions"]].astype(bool)


def likeness_matrix(grid: Grid) -> NDArray[np.float64]:
    """Cosine of the survivors of every two runs, all matrices together, in the grid's order."""
    rows = np.array([np.concatenate(list(sites.values())) for sites in grid.values()], dtype=np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found: NDArray[np.float64] = rows @ rows.T
    return found


def _complete(assessment: Assessment, grid: Grid | dict[tuple[int, int], Run]) -> bool:
    experiment = assessment.experiment
    return len(grid) == len(experiment.setting.donors) * min(ENVIRONMENTS, experiment.replicates)


def found_likeness(grid: Grid) -> Likeness:
    """Within and between genomes, and p."""
    return likeness(likeness_matrix(grid), [genome for genome, _ in grid])


def _within(matrix: NDArray[np.float64], genomes: Sequence[int]) -> dict[int, float]:
    """Mean likeness of a genome's own runs, genome by genome."""
    labels = np.array(genomes)
    own = {g: matrix[np.ix_(labels == g, labels == g)] for g in dict.fromkeys(genomes)}
    return {g: float(block[np.triu_indices(len(block), 1)].mean()) for g, block in own.items()}


def _judge(assessment: Assessment, interval: Interval) -> Verdict:
    """The rule for a number over genomes; every gate of the two kinds' arms."""
    main = find_contrast(assessment, "random − donor (frozen)")
    assert main is not None
    return judge(
        interval,
        second_best_gap=1.0,  # likeness isn't measured at other rates: the rule's last condition doesn't apply
        single_checkpoint=False,
        delta=DELTA,
        **conditions(assessment, [main]),
    )


def _same_structure(assessment: Assessment, store: Store) -> Answer:
    grids = {kind: survivors(assessment, store, kind) for kind in KINDS}
    if not all(_complete(assessment, grid) for grid in grids.values()):
        return Answer("", Verdict("not run"), "not finished")
    alike = {kind: found_likeness(grid) for kind, grid in grids.items()}
    within = {k: _within(likeness_matrix(grid), [g for g, _ in grid]) for k, grid in grids.items()}
    gap = paired_interval([within["donor"][g] - within["random"][g] for g in within["donor"]])
    told = "; ".join(
        f"{kind} genomes: within {found.within:.3f}, between {found.between:.3f}, p {found.p:.2g}"
        for kind, found in alike.items()
    )
    told += f"; donor − random within {show(gap, '±+.3f')}; chance {_chance(grids['donor']):.3f}"
    verdict = _judge(assessment, gap)
    if verdict.word == "supported" and alike["donor"].p >= 0.05:
        return Answer(told, Verdict("undecided", "order"), "the order of singular values explains it: p ≥ 0.05")
    return Answer(told, verdict, verdict.code or f"within a donor's genome likeness is {describe(gap)}")


def _chance(grid: Grid) -> float:
    """The cosine that masks with as many survivors in every matrix have by chance."""
    one = next(iter(grid.values()))
    lived = sum(int(kept.sum()) for kept in one.values())
    return sum(int(kept.sum()) ** 2 / len(kept) for kept in one.values()) / lived


# Function and losses ------------------------------------------------------------------------------------------


def divergences(assessment: Assessment, store: Store, kind: str) -> dict[tuple[tuple[int, int], tuple[int, int]], Any]:
    """Pair of (genome, environment) -> the stored comparison of their networks; those that are there."""
    cell = {(run.id, run.replicate): key for key, run in _grid(assessment, store, kind).items()}
    found = {}
    for pair in comparisons(assessment.experiment, store):
        keys = [cell.get((run.id, run.replicate)) for run in (pair.first, pair.second)]
        if None not in keys and (result := store.result(pair.id, 0)):
            found[keys[0], keys[1]] = result
    return found  # type: ignore[return-value]


def _function(assessment: Assessment, store: Store, structure: Answer) -> Answer:
    found = divergences(assessment, store, "donor")
    runs = len(assessment.experiment.setting.donors) * min(ENVIRONMENTS, assessment.experiment.replicates)
    if len(found) < runs * (runs - 1) // 2:
        return Answer("", Verdict("not run"), "not finished")
    closer = []
    for genome in dict.fromkeys(g for (g, _), _ in found):
        own = [r["divergence"] for (a, b), r in found.items() if a[0] == b[0] == genome]
        other = [
            r["divergence"] for (a, b), r in found.items() if (a[0] == genome) != (b[0] == genome) and a[1] != b[1]
        ]
        closer.append(float(np.mean(other) - np.mean(own)))
    gap = paired_interval(closer)
    agree = {same: [r for (a, b), r in found.items() if (a[0] == b[0]) is same] for same in (True, False)}
    told = f"divergence between − within genomes {show(gap, '±+.3f')} nats; " + "; ".join(
        f"{'twins' if same else 'others'}: {np.mean([r['divergence'] for r in rows]):.3f} nats, same prediction "
        f"{np.mean([r['agreement'] for r in rows]):.0%}, CKA {np.mean([r['alignment'] for r in rows]):.3f}"
        for same, rows in agree.items()
    )
    alike = _judge(assessment, gap)
    if structure.verdict.word == "refuted" or alike.word == "supported":
        why = "structure doesn't converge" if structure.verdict.word == "refuted" else "twins predict alike too"
        return Answer(told, Verdict("refuted"), why)
    if structure.verdict.word != "supported":
        return Answer(told, Verdict("undecided", "gap"), "asked only once E13 is supported")
    if alike.word == "refuted":
        return Answer(told, Verdict("supported"), "twins share structure and predict no more alike than others")
    return Answer(told, alike, alike.code)


def components(assessment: Assessment) -> dict[str, VarianceComponent] | None:
    """Variance between genomes and between environments of the donor genomes' final losses."""
    rows = _losses(assessment)
    if any(loss is None for row in rows for loss in row) or len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        return None
    losses = np.array(rows, dtype=np.float64).T  # environments × genomes
    return {"genome": variance_component(losses), "environment": variance_component(losses.T)}


def _losses(assessment: Assessment) -> list[tuple[float | None, ...]]:
    """Genome by genome, environment by environment."""
    genomes = range(1, len(assessment.experiment.setting.donors) + 1)
    return [assessment.arms["frozen", f"donor {genome}"].losses for genome in genomes]


def _twins(assessment: Assessment) -> Answer:
    found = components(assessment)
    if found is None:
        return Answer("", Verdict("not run"), "not finished")
    rows = _losses(assessment)
    total = float(np.array(rows, dtype=np.float64).var(ddof=1))
    told = "; ".join(f"{name} {part.variance:.2g} [{part.low:.2g}, {part.high:.2g}]" for name, part in found.items())
    told = f"variance of the final loss, nats²: {told}; in all {total:.2g}"
    main = find_contrast(assessment, "random − donor (frozen)")
    assert main is not None
    if undecided := unmet(n=len(rows), **conditions(assessment, [main])):
        return Answer(told, undecided, undecided.code)
    small = [name for name, part in found.items() if part.high < 0.1 * total]
    if small:
        return Answer(told, Verdict("refuted"), f"the {' and the '.join(small)} explains less than a tenth")
    unsure = [name for name, part in found.items() if part.low <= 0]
    if unsure:
        return Answer(told, Verdict("undecided", "straddles"), f"the {' and the '.join(unsure)} may explain nothing")
    return Answer(told, Verdict("supported"), "genome and environment each explain a part")


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """Likeness of survivors, and where they are."""
    grids = {kind: survivors(assessment, store, kind) for kind in KINDS}
    matrices = {kind: (list(grid), likeness_matrix(grid)) for kind, grid in grids.items() if len(grid) > 1}
    return likeness_drawings(name, matrices, grids, assessment.experiment)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same as numbers."""
    grids = {kind: survivors(assessment, store, kind) for kind in KINDS}
    alike = {
        kind: found_likeness(grid) for kind, grid in grids.items() if _complete(assessment, grid) and len(grid) > 2
    }
    return likeness_tables(alike, grids)
