"""Newborn (G20, G36): what does a network in a genome know before its first step, and how soon does it learn?

Every arm at 0, 1, 10 and 50 steps: its loss on the test text and on text that the donors were trained on, and what a
linear readout of its last hidden states gets right, whatever the network itself says.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ontogeny.lab.answers import Answer
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.experiment import ERROR, Contrast, Embeddings, Experiment
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.experiments.newborn_figures import readout_drawings, step0_table
from ontogeny.lab.judge import ArmSummary, Assessment
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import Scale, Variant, published
from ontogeny.lab.statistics import DELTA, Interval, Verdict, describe, judge, paired_interval, simultaneous_level
from ontogeny.lab.store import Store

NAME = "newborn"
TITLE = "Newborn: what does a network in a genome know before its first step?"
FLAW = (
    "no experiment was published. With the donor's embeddings a network can be read whatever its layers do, so a "
    "random genome with the same embeddings stands beside the donor's; and a network that knows nothing must say so on "
    "the very text that the donor was trained on"
)

STEPS = (1, 10, 50)
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {},
    **{name: {"steps": STEPS[-1], "evaluate_at": STEPS} for name in ("demo", "laptop", "workstation")},
    "paper": published("HuggingFaceTB/SmolLM2-135M", steps=STEPS[-1], evaluate_at=STEPS),
}
MODES: tuple[Embeddings, ...] = ("fresh", "frozen")

RULES = {
    "estimand": "gap = test loss(control) − test loss(treatment), nats a token, after 50 steps; at step 0 the loss on "
    "test windows and on windows of the donors' training text, and the readout's error: a ridge readout of the last "
    "hidden states, fitted on train, its penalty chosen on tune, scored on test windows",
    "G20": "before the first step, embeddings fresh: what it knows = ln V − loss on test windows, the same on the "
    "donors' training text, and there the random arm's loss − the donor arm's; each at the level of three contrasts. "
    "Refuted if one has its lower bound > 0.02 nats, supported if all have their upper bound < 0.02",
    "G36": "before the first step, the donor's embeddings frozen: readout error(random) − readout error(donor). "
    "Supported if its lower 95 % bound > 0.01, refuted if its upper bound < 0.01; undecided, code gate, if neither "
    "readout beats the commonest token",
}


def variants(scale: Scale, table: str, text: tuple[str, ...], given: bool) -> dict[str, Variant]:
    """One donor family, whose arms are probed."""
    return {"": Variant(scale, text, probed=True)}


def declare(*, given: bool, table: str, **rest: Any) -> Experiment:
    """The experiment for one scale, text and set of donors. ``given``: the donors are the user's own."""
    asked = [
        ("random", "donor", "does the donor's genome learn sooner?"),
        ("rotated", "donor", "more than the geometry between its layers?"),
        ("coherent", "donor", "more than layers that agree?"),
        ("dense", "donor", "sooner than every weight free?"),
    ]
    return Experiment(
        name=NAME,
        title=TITLE,
        arms=tuple(PRIMARY.values()),
        embeddings={mode: tuple(PRIMARY) for mode in MODES},
        contrasts=tuple(Contrast(mode, *contrast) for mode in MODES for contrast in asked),
        single_checkpoint=given and len(rest["setting"].donors) == 1,
        rules=RULES,
        table=table,
        alignments=(),
        **rest,
    )


def findings(assessment: Assessment, store: Store) -> dict[str, dict[str, str]]:
    """G20 and G36."""
    return answers_to_findings(assessment.experiment, {"G20": _knows_nothing(assessment), "G36": _readable(assessment)})


def at_birth(assessment: Assessment, mode: Embeddings, arm: str, what: str) -> Float[np.ndarray, " replicates"] | None:
    """What an arm measures before its first step, by replicate; None until all replicates are there."""
    found = assessment.arms[mode, arm]
    series = found.curves if what == "loss" else found.further.get(what, {})
    values = series.get(0, ())
    return np.array(values) if len(values) == assessment.experiment.replicates else None


def _knows_nothing(assessment: Assessment) -> Answer:
    donor = {what: at_birth(assessment, "fresh", "donor", what) for what in ("loss", "seen")}
    random = at_birth(assessment, "fresh", "random", "seen")
    if donor["loss"] is None or donor["seen"] is None or random is None:
        return NOT_FINISHED
    uniform = assessment.references["uniform"]
    known = {
        "ln V − loss": uniform - donor["loss"],
        "on the donors' training text": uniform - donor["seen"],
        "there random − donor": random - donor["seen"],
    }
    intervals = {what: paired_interval(values, simultaneous_level(len(known))) for what, values in known.items()}
    told = ", ".join(f"{what} {i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}]" for what, i in intervals.items()) + " nats"
    verdicts = {what: _judge(assessment, interval, DELTA, gate=True) for what, interval in intervals.items()}
    if knowing := [what for what, verdict in verdicts.items() if verdict.word == "supported"]:
        return Answer(told, Verdict("refuted"), f"it knows something: {', '.join(knowing)}")
    unsure = next((verdict for verdict in verdicts.values() if verdict.word != "refuted"), None)
    if unsure:
        return Answer(told, unsure, unsure.code)
    return Answer(told, Verdict("supported"), "no better than the uniform guess, on text the donors have read too")


def _readable(assessment: Assessment) -> Answer:
    random, donor = (at_birth(assessment, "frozen", arm, "probe") for arm in ("random", "donor"))
    guess = at_birth(assessment, "frozen", "donor", "guess")
    if random is None or donor is None or guess is None:
        return NOT_FINISHED
    interval = paired_interval(random - donor)
    told = (
        f"random − donor {interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}] of next tokens, "
        f"n {interval.n}; donor {donor.mean():.3f}, random {random.mean():.3f}, the commonest token {guess.mean():.3f}"
    )
    readable = bool(min(random.mean(), donor.mean()) < guess.mean())
    verdict = _judge(assessment, interval, ERROR.delta, gate=readable)
    return Answer(told, verdict, verdict.code or f"the donor's genome is {describe(interval, ERROR.delta)}, unread")


NOT_FINISHED = Answer("", Verdict("not run"), "not finished")


def _judge(assessment: Assessment, interval: Interval, delta: float, *, gate: bool) -> Verdict:
    """The rule before the first step, where rates play no part and the gate is what can be read."""
    experiment = assessment.experiment
    trained = [donor for donor in assessment.donors if "recipe" in donor]
    return judge(
        interval,
        donors=len(set(experiment.setting.donors)),
        gates_passed=gate and all(donor["passed_gate"] for donor in trained),
        rates_resolved=True,
        decisive_scale=experiment.decisive,
        single_checkpoint=experiment.single_checkpoint,
        second_best_gap=1.0,
        delta=delta,
    )


def cells(assessment: Assessment) -> Mapping[tuple[str, str], ArmSummary]:
    """The arms that have been probed."""
    return {key: arm for key, arm in assessment.arms.items() if arm.further}


def figures(name: str, assessment: Assessment, store: Store) -> tuple[Drawing, ...]:
    """What a readout gets wrong, by step."""
    return readout_drawings(name, cells(assessment), assessment.experiment)


def tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """Everything that is measured before the first step."""
    return (step0_table(cells(assessment)),)
