"""How an experiment answers a claim: what was measured, the verdict, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ontogeny.lab.experiment import Experiment
from ontogeny.lab.judge import Assessment, ContrastSummary
from ontogeny.lab.statistics import Verdict
from ontogeny.lab.study import Study


@dataclass(frozen=True)
class Answer:
    """One claim's answer; ``why`` is a reason a reader can act on."""

    measured: str
    verdict: Verdict
    why: str


STUDY_REASONS = {  # codes whose words for networks (tables.REASONS) wouldn't be true of a study
    "gate": "what its rule asks for first isn't met",
    "straddles": "an interval holds a margin of its rule",
    "mixed": "the parts of its rule don't agree",
    "dose": "what follows depends on the dose",
    "data": "with fewer data less is found, so that data may be what lacks",
    "worlds differ": "its worlds contradict each other",
}
NOT_FINISHED = Answer("", Verdict("not run"), "not finished")


def findings(experiment: Experiment | Study, answers: Mapping[str, Answer]) -> dict[str, dict[str, str]]:
    """Claim id -> measured, scale, verdict and why, as the ledger shows them."""
    reasons = STUDY_REASONS if isinstance(experiment, Study) else {}
    told = {claim: replace(answer, why=reasons.get(answer.why, answer.why)) for claim, answer in answers.items()}
    return {claim: _finding(answer, experiment.scale) for claim, answer in told.items()}


def _finding(answer: Answer, scale: str) -> dict[str, str]:
    verdict = answer.verdict
    return {
        "measured": answer.measured,
        "scale": scale,
        "verdict": f"{verdict.word} ({scale})" if verdict.word != "not run" else "not run",
        "why": answer.why + (f"; {verdict.needed} replicates would decide" if verdict.needed else ""),
    }


def find_contrast(assessment: Assessment, name: str) -> ContrastSummary | None:
    """The contrast ``control − treatment (embeddings)``, or None where the table hasn't it."""
    return next((c for c in assessment.contrasts if c.contrast.name == name), None)


def answer_of(assessment: Assessment, name: str, missing: str = "in the full table (--table full)") -> Answer:
    """The answer that one primary contrast gives to a claim in its direction."""
    found = find_contrast(assessment, name)
    if found is None or found.interval is None:
        return Answer("", Verdict("not run"), missing if found is None else "not finished")
    contrast = found.contrast
    why = found.verdict.code or f"{contrast.treatment} is {found.word} than {contrast.control}"
    return Answer(measured(assessment, found), found.verdict, why)


def opposite(answer: Answer) -> Answer:
    """The answer to a claim that is the opposite of the one a contrast asks."""
    words = {"supported": "refuted", "refuted": "supported"}
    return replace(answer, verdict=replace(answer.verdict, word=words.get(answer.verdict.word, answer.verdict.word)))


def measured(assessment: Assessment, contrast: ContrastSummary) -> str:
    """A contrast's mean and interval in words."""
    if contrast.interval is None:
        return ""
    i, unit = contrast.interval, assessment.experiment.setting.measure.short
    return f"{contrast.contrast.name} {i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}] {unit}, n {i.n}"
