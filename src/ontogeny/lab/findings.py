"""What the experiments of a store answer, claim by claim."""

import re
from collections.abc import Mapping
from typing import Any

from ontogeny.errors import InputError
from ontogeny.lab.answers import NOT_FINISHED
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.claims import load_claims, roll_ups
from ontogeny.lab.experiment import from_json
from ontogeny.lab.experiments import EXPERIMENTS, STUDIES
from ontogeny.lab.judge import Assessment, assess
from ontogeny.lab.scales import SCALES
from ontogeny.lab.store import Store
from ontogeny.lab.study import KIND, Measurements, gather, study_from_json

Finding = dict[str, str]  # measured, scale, verdict, why


def read(declaration: Mapping[str, Any], store: Store) -> Assessment | Measurements:
    """What a store has of a stored declaration: of an experiment on networks, or of a study.

    InputError for a scale that no experiment has, and for a name that can't be part of a file's.
    """
    name, scale = declaration.get("name"), declaration.get("scale")
    if not (isinstance(name, str) and re.fullmatch(r"\w[\w .-]{0,100}", name)) or str(scale) not in SCALES:
        raise InputError(
            f"{store.root}: a declaration of {name!r} at scale {scale!r}, which no experiment has; move it aside: "
            "experiments/ has a file for each"
        )
    if declaration.get("kind") == KIND:
        return gather(study_from_json(declaration), store)
    return assess(from_json(declaration), store)


def findings(assessment: Assessment | Measurements, store: Store) -> dict[str, Finding]:
    """Claim id -> finding of one experiment; none for a user's own, which answers no claim of the ledger."""
    experiment = assessment.experiment
    if isinstance(assessment, Measurements):
        answers = STUDIES[experiment.name].ANSWERS if experiment.name in STUDIES else {}
        done = assessment.complete
        return answers_to_findings(experiment, {c: a(assessment) if done else NOT_FINISHED for c, a in answers.items()})
    module = EXPERIMENTS.get(experiment.name)
    found: dict[str, Finding] = module.findings(assessment, store) if module else {}
    return found


def store_findings(store: Store) -> dict[str, Finding]:
    """Claim id -> finding, where there is an answer: of the most decisive scale, of the claim's own experiment, of a
    finished one, of a full table, of the newest declaration, in that order; and of rows that roll
    others up."""
    own = {claim.id: claim.experiment for claim in load_claims()}
    found: dict[str, tuple[Any, Finding]] = {}
    for age, (_, declaration) in enumerate(store.experiments()):
        assessment = read(declaration, store)
        experiment = assessment.experiment
        scale, full = list(SCALES).index(experiment.scale), experiment.table == "full"
        for claim, finding in findings(assessment, store).items():
            order = (scale, own[claim] == experiment.name, assessment.complete, full, age)
            if finding["verdict"] != "not run" and (claim not in found or order > found[claim][0]):
                found[claim] = (order, finding)
    answered = {claim: finding for claim, (_, finding) in found.items()}
    return answered | roll_ups(answered)
