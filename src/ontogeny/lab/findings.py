"""What the experiments of a store answer, claim by claim."""

from typing import Any

from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiment import from_json
from ontogeny.lab.experiments import EXPERIMENTS
from ontogeny.lab.judge import Assessment, assess
from ontogeny.lab.scales import SCALES
from ontogeny.lab.store import Store

Finding = dict[str, str]  # measured, scale, verdict, why


def findings(assessment: Assessment, store: Store) -> dict[str, Finding]:
    """Claim id -> finding of one experiment; none for a user's own, which answers no claim of the ledger."""
    module = EXPERIMENTS.get(assessment.experiment.name)
    found: dict[str, Finding] = module.findings(assessment, store) if module else {}
    return found


def store_findings(store: Store) -> dict[str, Finding]:
    """Claim id -> finding, where there is an answer: of the most decisive scale, of the claim's own experiment, of a
    finished one, of a full table, of the newest declaration, in that order."""
    own = {claim.id: claim.experiment for claim in load_claims()}
    found: dict[str, tuple[Any, Finding]] = {}
    for age, (_, declaration) in enumerate(store.experiments()):
        experiment = from_json(declaration)
        assessment = assess(experiment, store)
        scale, full = list(SCALES).index(experiment.scale), experiment.table == "full"
        for claim, finding in findings(assessment, store).items():
            order = (scale, own[claim] == experiment.name, assessment.complete, full, age)
            if finding["verdict"] != "not run" and (claim not in found or order > found[claim][0]):
                found[claim] = (order, finding)
    return {claim: finding for claim, (_, finding) in found.items()}
