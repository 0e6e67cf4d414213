"""From stored results to verdicts: one assessment of a declared experiment, as plain data for terminal and report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ontogeny.lab.conduct import evaluated_runs, scores, searches
from ontogeny.lab.donors import audit_folder
from ontogeny.lab.experiment import Arm, Contrast, Embeddings, Experiment, Rates
from ontogeny.lab.rates import START, Search
from ontogeny.lab.statistics import (
    Interval,
    Verdict,
    describe,
    judge,
    paired_interval,
    simultaneous_level,
)
from ontogeny.lab.store import Store, read_json

AUDIT = 0.2  # nats by which step-0 losses of compared arms may differ


@dataclass(frozen=True)
class ArmSummary:
    """One arm in one embedding mode over its replicates. Losses in nats a token on the test split.

    ``losses`` by replicate, None where a run diverged or is missing; ``curve``: (step, mean, low, high), 95 %;
    ``tried``: (body, rest, tuning loss); ``shared``: the tuning loss at the rates every search starts from.
    """

    embeddings: Embeddings
    arm: str
    description: str
    rates: Rates | None
    second: Rates | None
    at_edge: bool
    tuned: bool
    tried: tuple[tuple[float, float, float], ...]
    shared: float | None
    losses: tuple[float | None, ...]
    interval: Interval | None
    step0: float | None
    passed_bigram: bool
    curve: tuple[tuple[int, float, float, float], ...]
    trainable_parameters: int | None
    parameters: int | None
    flops: int | None
    seconds: float | None
    frames: Mapping[str, float]

    @property
    def diverged(self) -> int:
        return sum(loss is None for loss in self.losses)


@dataclass(frozen=True)
class ContrastSummary:
    """A contrast's interval, verdict and one word for the headline; ``interval`` is None where no pair is complete."""

    contrast: Contrast
    differences: tuple[float, ...]
    interval: Interval | None
    verdict: Verdict
    word: str
    second_best_gap: float | None
    shared_gap: float | None


@dataclass(frozen=True)
class Assessment:
    """Everything a reader is shown of one experiment."""

    experiment: Experiment
    donors: tuple[Mapping[str, Any], ...]
    references: Mapping[str, float]
    arms: Mapping[tuple[str, str], ArmSummary]
    contrasts: tuple[ContrastSummary, ...]
    done: int
    expected: int

    @property
    def complete(self) -> bool:
        return self.expected > 0 and self.done == self.expected


def assess(experiment: Experiment, store: Store) -> Assessment:
    """Summarise what is stored of an experiment and apply its rules; unfinished experiments give what there is."""
    found = searches(experiment, store)
    runs = evaluated_runs(experiment, store)
    results = {
        key: [store.result(r.id, r.replicate) for r in runs.get(key, [])]
        for key in ((mode, arm.name) for mode, arm in experiment.cells())
    }
    references: dict[str, float] = next((r["references"] for rows in results.values() for r in rows if r), {})
    arms: dict[tuple[str, str], ArmSummary] = {
        (mode, arm.name): _summarise(experiment, store, mode, arm, found, results[mode, arm.name], references)
        for mode, arm in experiment.cells()
    }
    wanted = {(r.id, r.replicate) for cell in runs.values() for r in cell}
    unknown = sum(
        arm.replicates or experiment.replicates for mode, arm in experiment.cells() if (mode, arm.name) not in runs
    )
    donors = tuple(
        record
        for donor in dict.fromkeys(experiment.setting.donors)
        if (record := donor_record(store, experiment, donor))
    )
    trained = [donor for donor in donors if "recipe" in donor]  # a given donor that fails the gate is only marked
    passed = all(donor["passed_gate"] for donor in trained)
    contrasts = tuple(_judge(experiment, contrast, arms, passed) for contrast in experiment.contrasts)
    done = sum(store.result(*key) is not None for key in wanted)
    return Assessment(experiment, donors, references, arms, contrasts, done, len(wanted) + unknown)


def headlines(assessment: Assessment) -> list[str]:
    """A report's first lines: the donors' own standing, which arms passed the bigram, then one line a contrast."""
    lines = [_donor_line(donor, assessment.experiment) for donor in assessment.donors]
    compared = [c for c in assessment.contrasts if c.interval and (c.contrast.primary or c.contrast.check)]
    for mode in assessment.experiment.embeddings:
        here = [c for c in compared if c.contrast.embeddings == mode]
        names = dict.fromkeys(name for c in here for name in (c.contrast.treatment, c.contrast.control))
        arms = [assessment.arms[mode, name] for name in names]
        if arms:
            passed, failed = (", ".join(a.arm for a in arms if a.passed_bigram is so) for so in (True, False))
            lines.append(
                f"Embeddings {mode}: past the bigram ({assessment.references['bigram']:.2f}): {passed or 'no arm'}"
                + (f"; not: {failed}." if failed else ".")
            )
        lines += [_contrast_line(c) for c in here]
    return lines


def _donor_line(donor: Mapping[str, Any], experiment: Experiment) -> str:
    names = {record["id"]: record["name"] for record in experiment.donor_records if "name" in record}
    name = names.get(donor["id"], f"donor {donor.get('index')}")
    loss, bigram = donor["loss"], donor["references"]["bigram"]
    relation = "below" if loss < bigram else "above"
    mark = "" if donor["passed_gate"] else ": it doesn't beat the bigram by 0.3 nats, so read what follows with care"
    return f"{name}: its own loss on this text is {loss:.2f} nats a token, {relation} the bigram ({bigram:.2f}){mark}."


def _contrast_line(summary: ContrastSummary) -> str:
    contrast, i = summary.contrast, summary.interval
    assert i is not None
    words = {"better": "better than", "worse": "worse than", "equivalent": "equivalent to"}
    relation = words.get(summary.word, "undecided against")
    code = f" ({summary.verdict.code})" if summary.verdict.code else ""
    check = ", null by symmetry: a check of the harness" if contrast.check else ""
    return (
        f"Embeddings {contrast.embeddings}: {contrast.treatment} is {relation} {contrast.control} by "
        f"{i.mean:+.3f} nats [{i.low:+.3f}, {i.high:+.3f}], n {i.n}; that it is better: {summary.verdict.word}{code}"
        f"{check}."
    )


def donor_record(store: Store, experiment: Experiment, donor: str) -> dict[str, Any] | None:
    """A donor's stored losses, whether trained on the spot or given."""
    for folder in (donor, audit_folder(donor, experiment.setting)):
        path = store.root / "donors" / folder / "result.json"
        if path.exists():
            return read_json(path)
    return None


def _summarise(
    experiment: Experiment,
    store: Store,
    mode: Embeddings,
    arm: Arm,
    found: Mapping[tuple[Embeddings, str], Search],
    results: Sequence[Mapping[str, Any] | None],
    references: Mapping[str, float],
) -> ArmSummary:
    state = found[mode, arm.tuned_as or arm.name]
    tuned = (
        scores(experiment, store, mode, experiment.arm(arm.tuned_as or arm.name)) if experiment.rates is None else {}
    )
    complete = [r for r in results if r]
    losses = tuple(r["final"] if r else None for r in results)
    finite = [loss for loss in losses if loss is not None]
    interval = paired_interval(finite) if finite else None
    bigram = references.get("bigram", -math.inf)
    first = complete[0] if complete else {}
    return ArmSummary(
        embeddings=mode,
        arm=arm.name,
        description=arm.description,
        rates=state.best,
        second=state.second,
        at_edge=state.at_edge,
        tuned=experiment.rates is None,
        tried=tuple((r.body, r.rest, loss) for r, loss in sorted(tuned.items(), key=lambda item: item[1])),
        shared=tuned.get(START),
        losses=losses,
        interval=interval,
        step0=float(np.mean([r["step0_loss"] for r in complete])) if complete else None,
        passed_bigram=bool(finite) and interval is not None and interval.mean < bigram and None not in losses,
        curve=_curve(complete),
        trainable_parameters=first.get("trainable_parameters"),
        parameters=first.get("parameters"),
        flops=first.get("flops"),
        seconds=float(np.mean([r["seconds"] for r in complete])) if complete else None,
        frames={key: float(np.mean([r["frames"][key] for r in complete])) for key in first.get("frames", {})},
    )


def _curve(results: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, float, float, float], ...]:
    curve = []
    by_step: dict[int, list[float]] = {}
    for result in results:
        for step, loss in result["losses"]:
            by_step.setdefault(step, []).append(loss)
    for step, losses in sorted(by_step.items()):
        if len(losses) == len(results):
            interval = paired_interval(losses)
            curve.append((step, interval.mean, interval.low, interval.high))
    return tuple(curve)


def _judge(
    experiment: Experiment, contrast: Contrast, arms: Mapping[tuple[str, str], ArmSummary], donors_passed: bool
) -> ContrastSummary:
    control, treatment = (arms[contrast.embeddings, name] for name in (contrast.control, contrast.treatment))
    pairs = zip(control.losses, treatment.losses, strict=False)
    differences = tuple(a - b for a, b in pairs if a is not None and b is not None)
    if not differences:
        begun = control.step0 is not None and treatment.step0 is not None
        verdict = Verdict("undecided", "diverged or missing runs") if begun else Verdict("not run")
        return ContrastSummary(contrast, (), None, verdict, verdict.word, None, None)
    primary = sum(c.primary for c in experiment.contrasts if c.embeddings == contrast.embeddings)
    interval = paired_interval(differences, simultaneous_level(primary) if contrast.primary else 0.95)
    second = _tuning_gap(control, treatment, control.second, treatment.second)
    shared = _tuning_gap(control, treatment, START, START)
    word = describe(interval)
    if not contrast.primary:
        return ContrastSummary(contrast, differences, interval, Verdict("exploratory"), word, second, shared)
    return ContrastSummary(
        contrast,
        differences,
        interval,
        _verdict(experiment, interval, control, treatment, second, donors_passed),
        word,
        second,
        shared,
    )


def _verdict(
    experiment: Experiment,
    interval: Interval,
    control: ArmSummary,
    treatment: ArmSummary,
    second: float | None,
    donors_passed: bool,
) -> Verdict:
    if control.diverged or treatment.diverged:
        return Verdict("undecided", "diverged or missing runs")
    if experiment.audit and not starts_match(control, treatment):
        return Verdict("undecided", "audit: step-0 losses differ")
    return judge(
        interval,
        donors=len(set(experiment.setting.donors)),
        single_checkpoint=experiment.single_checkpoint,
        gates_passed=donors_passed and control.passed_bigram and treatment.passed_bigram,
        rates_resolved=not (control.at_edge or treatment.at_edge),
        second_best_gap=second,
        decisive_scale=experiment.decisive,
    )


def starts_match(first: ArmSummary, second: ArmSummary) -> bool:
    """Whether two arms start within 0.2 nats of each other."""
    return first.step0 is not None and second.step0 is not None and abs(first.step0 - second.step0) <= AUDIT


def _tuning_gap(control: ArmSummary, treatment: ArmSummary, a: Rates | None, b: Rates | None) -> float | None:
    """Gap on the tuning replicate at given rates of the two arms; None where one wasn't tried or diverged."""
    found = []
    for arm, rates in ((control, a), (treatment, b)):
        loss = next((loss for body, rest, loss in arm.tried if rates == Rates(body, rest)), math.inf)
        found.append(loss)
    return found[0] - found[1] if all(map(math.isfinite, found)) else None
