"""Data (E16): do donors of another corpus hand down the same structure, and is what they share the useful part?

Two corpora, a family of donors on each, one tokenizer. On each corpus fresh networks are trained inside its own donors'
subspaces, inside the other corpus's, inside what all donors share, inside what only the own corpus has, and inside
random ones. Arms on the second corpus end in "B".
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ontogeny.errors import InputError
from ontogeny.lab.answers import Answer, answer_of
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.conduct import overlap_tasks
from ontogeny.lab.experiment import Arm, Contrast, Experiment, Setting
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.judge import Assessment
from ontogeny.lab.scales import OUR_CHOICE, Scale, Variant
from ontogeny.lab.statistics import Verdict
from ontogeny.lab.store import Store

NAME = "data"
TITLE = "Data: do donors of another corpus hand down the same structure?"
FLAW = (
    "the published donors saw one corpus and the arms another, so that neither convergence over data nor the corpus's "
    "own share can be read off; here donors are swapped between two corpora, with one tokenizer for both"
)

SCALES = {  # no published run: donors of Pythia-160M's shape, trained on the spot
    "paper": {
        "hub_donors": (),
        "donors": 5,
        "donor_steps": 20_000,
        "not_stated": ("text", "donors", "donor_steps", "steps", "rank", *OUR_CHOICE),
    }
}
PAPER_CORPORA = ("HuggingFaceFW/fineweb-edu", "wikimedia/wikipedia")
CORPORA = ("stdlib:code", "stdlib:prose")  # the main one, and the other
ARMS = {
    "donor": PRIMARY["donor"],
    "swapped": Arm("swapped", donors="other", description="the other corpus's donors"),
    "random": PRIMARY["random"],
    "common": Arm("common", controls=("mean-only",), donors="both", description="what donors of both corpora share"),
    "specific": Arm(
        "specific",
        controls=("corpus-specific",),
        donors="both",
        description="what donors of this corpus share beyond those of the other",
    ),
}

RULES = {
    "estimand": "gap = test loss(control) − test loss(treatment), nats a token, at the last declared step",
    "E16": "on both corpora: supported if random − swapped is supported (the other corpus's donors are worth having) "
    "and swapped − donor is refuted (the own corpus's are worth no more than 0.02 nats over them); refuted if on one "
    "corpus swapped − donor is supported, or random − swapped is refuted while random − donor is supported; undecided, "
    "code gap, if no donor is worth more than random; overlap within and between corpora stands beside it",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """A family on each of two corpora, with one tokenizer."""
    if given:
        raise InputError("data: its donors are trained on the two corpora; leave --donor out, give two --text instead")
    if len(text) not in (0, 2):
        raise InputError(f"data: expected two corpora, found {len(text)}; give --text twice, or not at all")
    first, second = text or (PAPER_CORPORA if scale.name == "paper" else CORPORA)
    both = (first, second)
    return {
        "": Variant(scale, (first,), tokenizer_text=both, others="B"),
        # donors of its own streams: networks that share an initialisation overlap (0.42, chance 0.22, at smoke)
        "B": Variant(scale, (second,), tokenizer_text=both, others="", first_donor=scale.donors + 1),
    }


def declare(*, given: bool, table: str, settings: Mapping[str, Setting], **rest: Any) -> Experiment:
    """The experiment for one scale and two corpora."""
    arms = [
        replace(arm, name=name_on(arm.name, corpus), setting=corpus) for corpus in ("", "B") for arm in ARMS.values()
    ]
    modes: dict[str, tuple[str, ...]] = {"fresh": tuple(arm.name for arm in arms)}
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(arms),
        embeddings=modes,
        contrasts=tuple(contrast for corpus in ("", "B") for contrast in _contrasts(corpus)),
        single_checkpoint=False,
        rules=RULES,
        table=table,
        settings=dict(settings),
        alignments=("none",),
        **rest,
    )


def name_on(arm: str, corpus: str) -> str:
    """An arm's name on a corpus."""
    return f"{arm} {corpus}".strip()


def _contrasts(corpus: str) -> list[Contrast]:
    asked = [
        ("random", "donor", "are the own corpus's donors worth having?", True),
        ("random", "swapped", "are the other corpus's donors worth having?", True),
        ("swapped", "donor", "does the donors' corpus matter?", True),
        ("random", "common", "is what all donors share worth having?", False),
        ("common", "donor", "what has the own donor beyond what all share?", False),
        ("random", "specific", "is what only this corpus's donors share worth having?", False),
    ]
    return [
        Contrast("fresh", name_on(control, corpus), name_on(treatment, corpus), question, primary=primary)
        for control, treatment, question, primary in asked
    ]


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """E16."""
    return answers_to_findings(assessment.experiment, {"E16": _converge(assessment, store)})


def _converge(assessment: Assessment, store: Store) -> Answer:
    asked = {
        (control, treatment, corpus): answer_of(
            assessment, f"{name_on(control, corpus)} − {name_on(treatment, corpus)} (fresh)"
        )
        for corpus in ("", "B")
        for control, treatment in (("random", "donor"), ("random", "swapped"), ("swapped", "donor"))
    }
    words = {key: answer.verdict.word for key, answer in asked.items()}
    told = "; ".join(
        [*(answer.measured for answer in asked.values() if answer.measured), *_overlaps(assessment, store)]
    )
    if "not run" in words.values():
        return Answer(told, Verdict("not run"), "not finished")
    for corpus in ("", "B"):
        own, other, matters = (words[key] for key in asked if key[2] == corpus)
        if matters == "supported" or (own == "supported" and other == "refuted"):
            return Answer(told, Verdict("refuted"), f"the donors' corpus matters on {corpus or 'A'}")
    if all(word == "refuted" for (control, _, _), word in words.items() if control == "random"):
        return Answer(told, Verdict("undecided", "gap"), "no donor of either corpus is worth more than random")
    converged = all(
        words["random", "swapped", corpus] == "supported" and words["swapped", "donor", corpus] == "refuted"
        for corpus in ("", "B")
    )
    if converged:
        return Answer(told, Verdict("supported"), "the other corpus's donors serve as well, on both corpora")
    unsure = next((a for a in asked.values() if a.verdict.word == "undecided"), None)
    return Answer(told, unsure.verdict if unsure else Verdict("undecided", "mixed"), unsure.why if unsure else "mixed")


def _overlaps(assessment: Assessment, store: Store) -> list[str]:
    """Mean overlap of donors within and between corpora, beside chance."""
    families = [set(setting.donors) for setting in assessment.experiment.all_settings().values()]
    rows: dict[str, list[Mapping[str, float]]] = {}
    for task in overlap_tasks(assessment.experiment):
        result = store.result(task.id, 0)
        within = any({task.first, task.second} <= family for family in families)
        rows.setdefault("within" if within else "between", []).extend(result["rows"] if result else [])
    return [
        f"overlap {where} corpora {_mean(found, 'overlap'):.3f}, chance {_mean(found, 'chance'):.3f}, "
        f"mean z {_mean(found, 'z'):.1f}"
        for where, found in rows.items()
        if found
    ]


def _mean(rows: list[Mapping[str, float]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))
