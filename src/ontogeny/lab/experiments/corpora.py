"""Corpora (E23): does any rich text build the same of one genome, with different knowledge?

Genomes × corpora × environments: every donor's genome is developed on several rich corpora and on poor ones made of the
first, each in two environments (initialisation and data order), with the embeddings of its donor, frozen. Arm
"donor 2 B" is the second donor's genome on corpus B; "random 2" a random genome on the first corpus, beside it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any, NamedTuple

import numpy as np

from ontogeny.lab.answers import NOT_FINISHED, Answer
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.conduct import comparisons, evaluated_runs
from ontogeny.lab.experiment import Arm, Contrast, Experiment, Run, Setting
from ontogeny.lab.experiments import development
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.experiments.corpora_figures import Row, corpora_drawings, corpora_tables
from ontogeny.lab.experiments.development import KINDS, PROCESS
from ontogeny.lab.judge import Assessment, conditions
from ontogeny.lab.likeness import jackknife_interval
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table, show
from ontogeny.lab.scales import Scale, Variant
from ontogeny.lab.statistics import DELTA, Interval, Verdict, paired_interval, unmet
from ontogeny.lab.store import Store
from ontogeny.lab.survivors import Survivors, chance, likeness_matrix, survivors
from ontogeny.training.develop import schedule

NAME = "corpora"
TITLE = "Corpora: does any rich text build the same of one genome, with different knowledge?"
FLAW = (
    "no number was published, and likeness over corpora says nothing by itself: here one genome on one corpus twice "
    "stands above it, other genomes on the same corpus below, and poor corpora beside"
)

SCALES = development.SCALES | {  # so that its runs on the first corpus, and its donors, are found again
    "paper": development.SCALES["paper"]
    | {"not_stated": ("hub_donors", "text", "rank", "steps", *development.SCALES["paper"]["not_stated"])}
}
EMBEDDED = ("stdlib:code", "stdlib:prose")  # rich corpora where fewer than ENOUGH are given
ENOUGH = 4  # rich corpora that the claim asks for
POOR = ("shuffled", "1%", "page")  # of the first corpus
PAGE = 512  # tokens
ENVIRONMENTS = 2

RULES = {
    "corpora": "each text given is a rich corpus of its own, the first is the donors'; up to four the embedded ones "
    "follow. Poor ones are made of the first: the words of every document in random order (shuffled), 1 % of the "
    "tokens a hundred times (1%), and about 512 tokens again and again (page); they have no gate and no verdict",
    "process": "as in development: 39.1 % of every matrix's directions left after six rounds, chosen by |∂L/∂C|; the "
    "donor's embeddings and head frozen, and its tokenizer, on every corpus",
    "rates": "tuned on the first corpus, once for donor and once for random genomes, and shared over corpora: every "
    "verdict is conditional on that",
    "likeness": "cosine of two runs' survivors over all matrices, index by index in singular-value order, in different "
    "environments; 0.391 by chance. Same: one genome, one corpus. Across: one genome, two rich corpora. Between: two "
    "genomes, one rich corpus, so what the order alone gives",
    "prediction": "mean of both KL of two networks, nats a token, on test windows of the corpus of the one named "
    "first; across is compared with same on the same text",
    "E23": "donor genomes, all of it on these corpora and in these two environments, and only if every donor genome "
    "passes the bigram of every rich corpus. Supported if the corpus's effect on likeness, same − across, has its "
    "upper 95 % bound < 0.02, the genome's, across − between, its lower bound > 0.02, and divergence across − same its "
    "lower bound > 0.02 nats (different knowledge), on at least four rich corpora (else undecided, code corpora). "
    "Refuted if the corpus's effect has its lower bound > 0.02 (the corpus decides too), the genome's its upper bound "
    "< 0.02 (nothing is built that other genomes don't build), or that divergence its upper bound < 0.02. Student's t "
    "over genomes; the genome's effect by the jackknife, since its pairs share genomes",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """Rich corpora, then poor ones; one family of donors, that of the first corpus."""
    sources = text or (scale.text,)
    first, *others = list(dict.fromkeys((*sources, *EMBEDDED)))[: max(ENOUGH, len(sources))]
    rich = {ascii_uppercase[i]: Variant(scale, (first,), learnt=(other,)) for i, other in enumerate(others, start=1)}
    read = scale.steps * scale.batch  # windows; divided by whole numbers of them, so that repeats fit
    few = {"1%": max(1, read // 100), "page": max(1, PAGE // scale.length)}
    return {
        "": Variant(scale, (first,)),
        **rich,
        "shuffled": Variant(scale, (first,), shuffled=True),
        **{name: Variant(scale, (first,), repeats=max(1, read // windows)) for name, windows in few.items()},
    }


def declare(*, given: bool, table: str, settings: Mapping[str, Setting], **rest: Any) -> Experiment:
    """The experiment for one scale, its corpora and set of donors. ``given``: the donors are the user's own."""
    schedule(rest["setting"].steps, **PROCESS)  # told now rather than in the first run
    corpora = ["", *settings]
    rich = [corpus for corpus in corpora if corpus not in POOR]
    learnt = {"donor": corpora, "random": corpora if table == "full" else rich[:2]}
    genomes = range(1, len(rest["setting"].donors) + 1)
    arms = {kind: replace(PRIMARY[kind], develop=PROCESS, recipe={"basis": "singular"}) for kind in KINDS}
    twins = []
    for kind in KINDS:
        for g in genomes:
            own = [_on(arms[kind], g, corpus, min(ENVIRONMENTS, rest["replicates"])) for corpus in learnt[kind]]
            arms |= {arm.name: arm for arm in own}
            twins.append(tuple(arm.name for arm in own if arm.setting not in POOR))
            twins += [(own[0].name, arm.name) for arm in own if arm.setting in POOR]
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(arms.values()),
        embeddings={"frozen": tuple(arms)},
        contrasts=(Contrast("frozen", "random", "donor", "does the donor's genome end better than a random one?"),),
        single_checkpoint=given and len(genomes) == 1,
        not_applicable={"E23": ONE_GENOME} if len(genomes) == 1 else {},
        rules=RULES,
        table=table,
        settings=dict(settings),
        alignments=(),
        twins=tuple(twins),
        **rest,
    )


ONE_GENOME = "one donor, so one genome: none beside it on one corpus; give --donor more than once"


def _on(kind: Arm, genome: int, corpus: str, environments: int) -> Arm:
    """A kind's genome on a corpus; on the first it is development's arm."""
    return replace(
        kind,
        name=f"{kind.name} {genome} {corpus}".strip(),
        donor=genome - 1,
        draw=genome if kind.name == "random" else None,
        tuned_as=kind.name,
        replicates=environments,
        setting=corpus,
        description=f"genome {genome} on corpus {corpus or 'A'} in {environments} environments",
    )


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """E23."""
    experiment = assessment.experiment
    if experiment.not_applicable:
        answer = Answer("", Verdict("undecided", "not applicable"), ONE_GENOME)
    else:
        answer = _same_architecture(assessment, store)
    return answers_to_findings(experiment, {"E23": answer})


# What is compared ---------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    genome: int
    corpus: str
    environment: int


Values = Mapping[tuple[Cell, Cell], float]  # pairs of runs, the corpora of each in the declaration's order


def arms_of(experiment: Experiment, kind: str) -> list[Arm]:
    """A kind's genomes on every corpus."""
    return [arm for arm in experiment.arms if arm.tuned_as == kind]


def grid(assessment: Assessment, store: Store, kind: str) -> dict[Cell, Run]:
    """The runs of a kind's genomes."""
    cells = evaluated_runs(assessment.experiment, store)
    return {
        Cell((arm.donor or 0) + 1, arm.setting, run.replicate): run
        for arm in arms_of(assessment.experiment, kind)
        for run in cells.get(("frozen", arm.name), [])
    }


def survivors_of(assessment: Assessment, store: Store, kind: str) -> dict[Cell, Survivors]:
    """What lives in the end, of every run of a kind's genomes that ended without diverging."""
    found = {cell: store.result(run.id, run.replicate) for cell, run in grid(assessment, store, kind).items()}
    return {cell: survivors(result) for cell, result in found.items() if result and result["final"] is not None}


def likenesses(living: Mapping[Cell, Survivors]) -> Values:
    """Of every two runs in different environments."""
    if not living:
        return {}
    matrix, cells = likeness_matrix(living), list(living)
    pairs = ((i, j) for j in range(len(cells)) for i in range(j) if cells[i].environment != cells[j].environment)
    return {(cells[i], cells[j]): float(matrix[i, j]) for i, j in pairs}


def divergences(assessment: Assessment, store: Store, kind: str) -> Values:
    """Of a genome's runs in different environments, on the first one's text: rich ones, and poor ones beside A."""
    cells = {(run.id, run.replicate): cell for cell, run in grid(assessment, store, kind).items()}
    found = {}
    for pair in comparisons(assessment.experiment, store):
        first, second = (cells.get((run.id, run.replicate)) for run in (pair.first, pair.second))
        if first and second and first.environment != second.environment and (result := store.result(pair.id, 0)):
            found[first, second] = float(result["divergence"])
    return found


def rich(values: Values) -> Values:
    """The pairs on rich corpora."""
    return {pair: value for pair, value in values.items() if not {cell.corpus for cell in pair} & set(POOR)}


@dataclass(frozen=True)
class Effects:
    """Mean likeness, and the effect of the corpus, same − across, and of the genome, across − between."""

    same: float
    across: float
    between: float
    corpus: Interval
    genome: Interval


def effects(alike: Values) -> Effects:
    """Of three genomes or more on two corpora or more."""
    genomes = _genomes(alike)

    def same(chosen: Collection[int]) -> float:
        return _mean(alike, chosen, genome=True, corpus=True)

    def across(chosen: Collection[int]) -> float:
        return _mean(alike, chosen, genome=True, corpus=False)

    def between(chosen: Collection[int]) -> float:
        return _mean(alike, chosen, genome=False, corpus=True)

    by_corpus = paired_interval([same([g]) - across([g]) for g in genomes])
    by_genome = jackknife_interval(lambda chosen: across(chosen) - between(chosen), genomes)
    return Effects(same(genomes), across(genomes), between(genomes), by_corpus, by_genome)


def _genomes(values: Values) -> list[int]:
    return sorted({cell.genome for pair in values for cell in pair})


def _mean(values: Values, chosen: Collection[int], *, genome: bool, corpus: bool) -> float:
    """Over pairs of the chosen genomes: of one genome or of two, on one corpus or on two."""
    return float(
        np.mean(
            [
                value
                for (a, b), value in values.items()
                if {a.genome, b.genome} <= set(chosen)
                and (a.genome == b.genome) is genome
                and (a.corpus == b.corpus) is corpus
            ]
        )
    )


def knowledge(apart: Values) -> Interval:
    """Divergence across corpora − on the same corpus, nats a token, both on one text; over genomes."""
    found = []
    for g in _genomes(apart):
        own = {(a, b): value for (a, b), value in apart.items() if a.genome == b.genome == g}
        same = {a.corpus: value for (a, b), value in own.items() if a.corpus == b.corpus}
        more = [value - same[a.corpus] for (a, b), value in own.items() if a.corpus != b.corpus]
        found.append(float(np.mean(more)))
    return paired_interval(found)


# The verdict --------------------------------------------------------------------------------------------------


def _same_architecture(assessment: Assessment, store: Store) -> Answer:
    experiment = assessment.experiment
    if not assessment.complete:
        return NOT_FINISHED
    genomes = len(experiment.setting.donors)
    if genomes < 3 or experiment.replicates < ENVIRONMENTS:
        return Answer("", Verdict("undecided", "n"), "fewer than 3 genomes, or one environment: nothing to compare")
    living = {kind: survivors_of(assessment, store, kind) for kind in KINDS}
    whole = [
        kind for kind in KINDS if all(c in living[kind] or c.corpus in POOR for c in grid(assessment, store, kind))
    ]
    if "donor" not in whole:
        return Answer("", Verdict("undecided", "diverged or missing runs"), "a run on a rich corpus diverged")
    arms = [arm for arm in arms_of(experiment, "donor") if arm.setting not in POOR]
    corpora, apart = len(arms) // genomes, rich(divergences(assessment, store, "donor"))
    if len(apart) < genomes * corpora**2:
        return NOT_FINISHED
    found = {kind: effects(rich(likenesses(living[kind]))) for kind in whole}
    knows = knowledge(apart)
    told = [_told(f"{kind} genomes", each) for kind, each in found.items()]
    told.append(f"chance {chance(next(iter(living['donor'].values()))):.3f}")
    told.append(f"divergence across − same {show(knows, '±+.3f')} nats; {corpora} rich corpora")
    measured = "; ".join(told)
    asked = conditions(assessment, [], [("frozen", arm.name) for arm in arms])
    if undecided := unmet(n=genomes, **asked):
        return Answer(measured, undecided, undecided.code)
    verdict, why = decide(found["donor"].corpus, found["donor"].genome, knows, corpora)
    return Answer(measured, verdict, why)


def _told(what: str, found: Effects) -> str:
    return (
        f"{what}: same corpus {found.same:.3f}, across {found.across:.3f}, other genomes {found.between:.3f}, corpus's "
        f"effect {show(found.corpus, '±+.3f')}, genome's {show(found.genome, '±+.3f')}"
    )


def decide(corpus: Interval, genome: Interval, knows: Interval, corpora: int) -> tuple[Verdict, str]:
    """The rule, once every condition holds, and why."""
    against = {
        "the corpus decides too": corpus.low > DELTA,
        "nothing is built that other genomes don't build": genome.high < DELTA,
        "networks of two corpora predict as alike as those of one": knows.high < DELTA,
    }
    if why := next((why for why, holds in against.items() if holds), ""):
        return Verdict("refuted"), why
    if corpus.high < DELTA < min(genome.low, knows.low):
        if corpora < ENOUGH:
            return Verdict("undecided", "corpora"), f"it holds, on fewer than {ENOUGH} rich corpora: give more --text"
        return Verdict("supported"), "the genome decides what survives, the corpus what is predicted"
    return Verdict("undecided", "straddles"), "an interval holds the smallest difference that counts"


# Beside it ----------------------------------------------------------------------------------------------------


def beside(values: Values) -> dict[str, Interval]:
    """Corpus -> mean of a genome's runs there beside its runs on the first corpus; intervals over genomes."""
    found: dict[str, dict[int, list[float]]] = {}
    for (a, b), value in values.items():
        if a.genome == b.genome and a.corpus == "":
            found.setdefault(b.corpus, {}).setdefault(a.genome, []).append(value)
    return {corpus: paired_interval([float(np.mean(each)) for each in own.values()]) for corpus, own in found.items()}


def by_corpora(alike: Values) -> dict[tuple[str, str], float]:
    """Two corpora, or one twice -> mean likeness of one genome's runs on them."""
    found: dict[tuple[str, str], list[float]] = {}
    for (a, b), value in alike.items():
        if a.genome == b.genome:
            found.setdefault((a.corpus, b.corpus), []).append(value)
    return {pair: float(np.mean(each)) for pair, each in found.items()}


def _rows(assessment: Assessment, alike: Mapping[str, Values], store: Store) -> list[Row]:
    """Every corpus under every kind of genome: its text, and its runs beside those on the first corpus."""
    experiment = assessment.experiment
    texts = {"": experiment.text, **experiment.text.get("settings", {})}
    found = []
    for kind in KINDS:
        like, apart = beside(alike[kind]), beside(divergences(assessment, store, kind))
        for corpus in dict.fromkeys(arm.setting for arm in arms_of(experiment, kind)):
            setting = experiment.all_settings()[corpus]
            tokens = setting.steps * setting.batch * setting.length // setting.repeats
            losses = [
                float(np.mean(ended))
                for arm in arms_of(experiment, kind)
                if arm.setting == corpus
                and (ended := [loss for loss in assessment.arms["frozen", arm.name].losses if loss is not None])
            ]
            loss = paired_interval(losses) if losses else None
            source = texts.get(corpus, {}).get("source", "")
            found.append(Row(kind, corpus, source, tokens, loss, like.get(corpus), apart.get(corpus)))
    return found


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """Likeness of corpora, and every corpus beside the first."""
    alike = {kind: likenesses(survivors_of(assessment, store, kind)) for kind in KINDS}
    maps = {kind: by_corpora(values) for kind, values in alike.items() if values}
    return corpora_drawings(name, maps, _rows(assessment, alike, store), assessment.experiment)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The same as numbers."""
    alike = {kind: likenesses(survivors_of(assessment, store, kind)) for kind in KINDS}
    maps = {kind: by_corpora(values) for kind, values in alike.items() if values}
    return corpora_tables(maps, _rows(assessment, alike, store))
