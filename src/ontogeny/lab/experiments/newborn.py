"""Newborn (G20, G36): what does a network in a genome know before its first step, and how soon does it learn?

Every arm at 0, 1, 10 and 50 steps: its loss on the test text and on train text, and what a linear readout of its last
hidden states gets right, whatever the network itself says. "Opened" arms ask what a genome file gives away: their cores
are guessed from it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ontogeny.lab.answers import NOT_FINISHED, Answer
from ontogeny.lab.answers import findings as answers_to_findings
from ontogeny.lab.experiment import ERROR, Arm, Contrast, Embeddings, Experiment
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.experiments.newborn_figures import readout_drawings, step0_table
from ontogeny.lab.judge import ArmSummary, Assessment
from ontogeny.lab.report.figures import Drawing
from ontogeny.lab.report.tables import Table
from ontogeny.lab.scales import Scale, Variant, published
from ontogeny.lab.statistics import Interval, Verdict, describe, judge, paired_interval, simultaneous_level
from ontogeny.lab.store import Store

NAME = "newborn"
TITLE = "Newborn: what does a network in a genome know before its first step?"
FLAW = (
    "no experiment was published. At the size that weights start with, layers hardly change what an embedding says, so "
    "that any two genomes read alike: here they are set beside each other at a trained network's size too. And that a "
    "fresh network says nothing proves nothing of the file: here it is opened, as an attacker would"
)

STEPS = (1, 10, 50)
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {},
    **{name: {"steps": STEPS[-1], "evaluate_at": STEPS} for name in ("demo", "laptop", "workstation")},
    "paper": published(
        "HuggingFaceTB/SmolLM2-135M",
        steps=STEPS[-1],
        evaluate_at=STEPS,
        not_stated=("hub_donors", "text", "rank", "steps"),
    ),
}
MODES: tuple[Embeddings, ...] = ("fresh", "frozen")

OPENED = Arm("opened", recipe={"rank": "50%"}, core="guessed", description="the genome file's bases, values guessed")
PROBED = {
    "donor scaled": replace(
        PRIMARY["donor"], name="donor scaled", core="scaled", description="the donor's, at a trained network's size"
    ),
    "random scaled": replace(
        PRIMARY["random"], name="random scaled", core="scaled", description="random, at a trained network's size"
    ),
    "opened": OPENED,
    "opened rebased": replace(
        OPENED, name="opened rebased", controls=("in-subspace",), description="the same spans in random bases, guessed"
    ),
    "opened paired": replace(
        OPENED,
        name="opened paired",
        recipe={"rank": "50%", "basis": "singular"},
        description="ordered pairs, which the file doesn't keep, guessed",
    ),
}

RULES = {
    "estimand": "gap = test loss(control) − test loss(treatment), nats a token, after 50 steps. Before the first step "
    "the readout's error: a ridge readout of the last hidden states, fitted on train, its penalty chosen on tune, "
    "scored on test windows; embeddings are the donor's",
    "G20": "what the file gives away beyond its spans: readout error(opened rebased) − readout error(opened). Refuted "
    "if its lower bound > 0.01; supported if its upper bound < 0.01 and the same of ordered pairs (opened paired) has "
    "its lower bound > 0.01, so that a leak would have been seen; else undecided, code blind. Both at the level of two "
    "contrasts. Beside it ln V − loss of a fresh donor arm, on test and on train text, which is null by symmetry",
    "G36": "readout error(random scaled) − readout error(donor scaled). Supported if its lower 95 % bound > 0.01, "
    "refuted if its upper bound < 0.01; undecided, code gate, if neither readout beats the commonest token, or neither "
    "differs by more than 0.01 from a readout of the embeddings: then the layers don't speak",
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
        arms=(*PRIMARY.values(), *PROBED.values()),
        embeddings={"fresh": tuple(PRIMARY), "frozen": (*PRIMARY, *PROBED)},
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
    errors = {
        arm: at_birth(assessment, "frozen", arm, "probe") for arm in ("opened", "opened rebased", "opened paired")
    }
    opened, rebased, paired = errors.values()
    if opened is None or rebased is None or paired is None:
        return NOT_FINISHED
    leak, seen = (paired_interval(rebased - found, simultaneous_level(2)) for found in (opened, paired))
    told = f"given away beyond the spans {_shown(leak)} of next tokens, by ordered pairs {_shown(seen)}"
    for what, text in (("loss", "test"), ("seen", "train")):
        if (loss := at_birth(assessment, "fresh", "donor", what)) is not None:
            told += f"; ln V − loss on {text} text {assessment.references['uniform'] - loss.mean():+.3f} nats"
    verdict = _judge(assessment, leak, gate=True)
    if verdict.word == "supported":
        return Answer(told, Verdict("refuted"), "the file's bases say more than their spans do")
    if verdict.word == "refuted" and seen.low <= ERROR.delta:
        return Answer(
            told, Verdict("undecided", "blind"), "no leak is seen, not even of ordered pairs: the test is blind"
        )
    if verdict.word == "refuted":
        return Answer(told, Verdict("supported"), "the spans are all there is, and a leak would have been seen")
    return Answer(told, verdict, verdict.code)


def _readable(assessment: Assessment) -> Answer:
    found = {
        arm: at_birth(assessment, "frozen", arm, "probe")
        for arm in ("random scaled", "donor scaled", "random", "donor")
    }
    beside = {what: at_birth(assessment, "frozen", "donor scaled", what) for what in ("guess", "embedded")}
    if any(values is None for values in (*found.values(), *beside.values())):
        return NOT_FINISHED
    errors = {arm: float(values.mean()) for arm, values in found.items() if values is not None}
    guess, embedded = (float(values.mean()) for values in beside.values() if values is not None)
    scaled = np.array(found["random scaled"]) - np.array(found["donor scaled"])
    interval = paired_interval(scaled)
    told = f"random − donor {_shown(interval)} of next tokens; " + ", ".join(f"{a} {e:.3f}" for a, e in errors.items())
    told += f"; the embeddings {embedded:.3f}, the commonest token {guess:.3f}"
    pair = errors["random scaled"], errors["donor scaled"]
    speaks = min(pair) < guess and max(abs(error - embedded) for error in pair) > ERROR.delta
    verdict = _judge(assessment, interval, gate=speaks)
    return Answer(told, verdict, verdict.code or f"the donor's genome is {describe(interval, ERROR.delta)}, unread")


def _shown(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _judge(assessment: Assessment, interval: Interval, *, gate: bool) -> Verdict:
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
        delta=ERROR.delta,
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
