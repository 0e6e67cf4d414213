"""What the experiments of a store answer, claim by claim."""

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
    """Claim id -> finding, from the newest declaration of the most decisive scale that has an answer."""
    declared = [from_json(value) for _, value in store.experiments()]
    found: dict[str, Finding] = {}
    for experiment in sorted(declared, key=lambda e: (list(SCALES).index(e.scale), e.table == "full")):
        answers = findings(assess(experiment, store), store)
        found |= {claim: finding for claim, finding in answers.items() if finding["verdict"] != "not run"}
    return found
