"""Profile (E17): is it how many directions each matrix of the donor gets, or which ones they are?

A 2 × 2 design at equal trained values: ranks shared out by the donor's energy or evenly, directions the donor's or
random. Arms: "both" (the donor's ranks and directions), "vectors" (uniform ranks), "profile" (random directions in the
donor's ranks), "neither".
"""

from typing import Any

from ontogeny.lab.answers import Answer, answer_of
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.experiment import Arm, Contrast, Embeddings, Experiment
from ontogeny.lab.judge import Assessment
from ontogeny.lab.scales import published
from ontogeny.lab.statistics import Verdict
from ontogeny.lab.store import Store

NAME = "profile"
TITLE = "Profile: is it how many directions each matrix gets, or which ones?"
FLAW = "ranks by energy and the donor's directions were never varied apart; here each is, at equal trained values"

SCALES = {
    "paper": published("HuggingFaceTB/SmolLM2-135M", steps=200, not_stated=("hub_donors", "text", "rank", "steps"))
}

ENERGY = {"profile": "energy"}
ARMS = {
    "both": Arm("both", recipe=ENERGY, description="the donor's rank profile and its directions"),
    "vectors": Arm("vectors", description="the donor's directions, one rank for all"),
    "profile": Arm("profile", recipe=ENERGY, controls=("random",), description="the donor's ranks, random directions"),
    "neither": Arm("neither", controls=("random",), description="one rank for all, random directions"),
}
MODES: tuple[Embeddings, ...] = ("fresh", "frozen")

RULES = {
    "estimand": "gap = test loss(control) − test loss(treatment), nats a token, at the last declared step",
    "profile": "ranks by one share of every matrix's energy, chosen so that the cores' trained values are as many in "
    "all as at the uniform rank",
    "E17": "judged as: the donor's vectors are worth more than its rank profile. Supported if profile − vectors is "
    "supported with fresh embeddings; refuted if it is refuted there; what each is worth by itself (neither − profile, "
    "neither − vectors) stands beside it, and the same with the donor's embeddings frozen",
}


def declare(*, given: bool, table: str, **rest: Any) -> Experiment:
    """The experiment for one scale, text and set of donors. ``given``: the donors are the user's own."""
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(ARMS.values()),
        embeddings=dict.fromkeys(MODES, tuple(ARMS)),
        contrasts=tuple(contrast for mode in MODES for contrast in _contrasts(mode)),
        single_checkpoint=given and len(rest["setting"].donors) == 1,
        rules=RULES,
        table=table,
        alignments=(),
        **rest,
    )


def _contrasts(mode: Embeddings) -> list[Contrast]:
    return [
        Contrast(mode, "profile", "vectors", "are the vectors worth more than the profile?"),
        Contrast(mode, "neither", "vectors", "the donor's vectors by themselves"),
        Contrast(mode, "neither", "profile", "the donor's rank profile by itself"),
        Contrast(mode, "vectors", "both", "the profile, given the vectors"),
        Contrast(mode, "profile", "both", "the vectors, given the profile"),
    ]


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """E17."""
    parts = {name: answer_of(assessment, f"{name} (fresh)") for name in PARTS}
    told = "; ".join(answer.measured for answer in parts.values() if answer.measured)
    main = parts[PARTS[0]]
    if main.verdict.word == "not run":
        return answers_to_findings(assessment.experiment, {"E17": Answer(told, Verdict("not run"), main.why)})
    worth = ", ".join(f"{name.split(' − ')[1]} {parts[name].verdict.word}" for name in PARTS[1:])
    why = f"{main.why}; by themselves: {worth}"
    return answers_to_findings(assessment.experiment, {"E17": Answer(told, main.verdict, why)})


PARTS = ("profile − vectors", "neither − vectors", "neither − profile")
