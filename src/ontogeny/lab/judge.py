"""From stored results to verdicts: one assessment of a declared experiment, as plain data for terminal and report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ontogeny.files import read_json
from ontogeny.lab.conduct import evaluated_runs, hopeless, searches, unknown_runs
from ontogeny.lab.donors import audit_folder, donor_name, learnt_nothing
from ontogeny.lab.experiment import Arm, Contrast, Embeddings, Experiment, Measure, Rates
from ontogeny.lab.rates import START, Search
from ontogeny.lab.statistics import (
    Interval,
    Verdict,
    describe,
    judge,
    paired_interval,
    simultaneous_level,
)
from ontogeny.lab.store import Store

AUDIT = 0.2  # nats by which step-0 losses of compared arms may differ


@dataclass(frozen=True)
class ArmSummary:
    """One arm in one embedding mode over its replicates. Losses are its setting's measure on the test split.

    ``losses`` by replicate, None where a run diverged or is missing; ``curve``: (step, mean, low, high), 95 %;
    ``curves``: step -> the replicates' losses; ``further``: the same of whatever else was evaluated, by name;
    ``tried``: (body, rest, tuning loss); ``shared``: the tuning loss at the
    rates every search starts from; ``passed_gate``: whether the mean beats the measure's reference.
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
    passed_gate: bool
    curve: tuple[tuple[int, float, float, float], ...]
    curves: Mapping[int, tuple[float, ...]]
    references: Mapping[str, float]
    trainable_parameters: int | None
    parameters: int | None
    flops: int | None
    seconds: float | None
    frames: Mapping[str, float]
    further: Mapping[str, Mapping[int, tuple[float, ...]]]

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
    runs = evaluated_runs(experiment, store, found)
    results = {
        key: [store.result(r.id, r.replicate) for r in runs.get(key, [])]
        for key in ((mode, arm.name) for mode, arm in experiment.cells())
    }
    arms: dict[tuple[str, str], ArmSummary] = {
        (mode, arm.name): _summarise(experiment, mode, arm, found, results[mode, arm.name])
        for mode, arm in experiment.cells()
    }
    main = [arms[mode, arm.name].references for mode, arm in experiment.cells() if not arm.setting]
    references = next((found for found in main if found), {})
    wanted = {(r.id, r.replicate) for cell in runs.values() for r in cell if not hopeless(r, store)}
    unknown = unknown_runs(experiment, runs)
    donors = donor_records(experiment, store)
    contrasts = tuple(_judge(experiment, contrast, arms, donors) for contrast in experiment.contrasts)
    done = sum(store.result(*key) is not None for key in wanted)
    return Assessment(experiment, tuple(donors.values()), references, arms, contrasts, done, len(wanted) + unknown)


def headlines(assessment: Assessment) -> list[str]:
    """A report's first lines: the donors' own standing, which arms passed the gate, then one line a contrast."""
    measure = assessment.experiment.setting.measure
    lines = [_donor_line(donor, assessment.experiment) for donor in assessment.donors]
    compared = [c for c in assessment.contrasts if c.interval and (c.contrast.primary or c.contrast.check)]
    for mode in assessment.experiment.embeddings:
        here = [c for c in compared if c.contrast.embeddings == mode]
        names = dict.fromkeys(name for c in here for name in (c.contrast.treatment, c.contrast.control))
        arms = [assessment.arms[mode, name] for name in names]
        if arms:
            passed, failed = (", ".join(a.arm for a in arms if a.passed_gate is so) for so in (True, False))
            lines.append(
                f"Embeddings {mode}: past the {measure.gate} ({assessment.references[measure.gate]:.2f}): "
                + (passed or "no arm")
                + (f"; not: {failed}." if failed else ".")
            )
        lines += [_contrast_line(c, measure) for c in here]
    return lines


def _donor_line(donor: Mapping[str, Any], experiment: Experiment) -> str:
    loss, bigram, unigram = donor["loss"], donor["references"]["bigram"], donor["references"]["unigram"]
    own = f"{donor_name(donor, experiment)}: its own loss on this text is {loss:.2f} nats a token"
    if learnt_nothing(donor):
        return f"{own}, not below the unigram ({unigram:.2f}): it has learnt nothing, so what follows tests no donor."
    relation = "below" if loss < bigram else "above"
    mark = "" if donor["passed_gate"] else ": it doesn't beat the bigram by 0.3 nats, so read what follows with care"
    return f"{own}, {relation} the bigram ({bigram:.2f}){mark}."


def _contrast_line(summary: ContrastSummary, measure: Measure) -> str:
    contrast, i = summary.contrast, summary.interval
    assert i is not None
    words = {"better": "better than", "worse": "worse than", "equivalent": "equivalent to"}
    relation = words.get(summary.word, "undecided against")
    code = f" ({summary.verdict.code})" if summary.verdict.code else ""
    check = ", null by symmetry: a check of the harness" if contrast.check else ""
    return (
        f"Embeddings {contrast.embeddings}: {contrast.treatment} is {relation} {contrast.control} by "
        f"{i.mean:+.3f} {measure.short} [{i.low:+.3f}, {i.high:+.3f}], n {i.n}; that it is better: "
        f"{summary.verdict.word}{code}{check}."
    )


def donor_records(experiment: Experiment, store: Store) -> dict[str, dict[str, Any]]:
    """Every donor's stored losses, whether trained on the spot or given, those of all settings."""
    found: dict[str, dict[str, Any]] = {}
    for setting in experiment.all_settings().values():
        for donor in dict.fromkeys(setting.donors + setting.others):
            paths = [store.root / "donors" / name / "result.json" for name in (donor, audit_folder(donor, setting))]
            if stored := next((path for path in paths if path.exists()), None):
                found.setdefault(donor, read_json(stored))
    return found


def _summarise(
    experiment: Experiment,
    mode: Embeddings,
    arm: Arm,
    found: Mapping[tuple[Embeddings, str], Search],
    results: Sequence[Mapping[str, Any] | None],
) -> ArmSummary:
    state = found[mode, arm.tuned_as or arm.name]
    complete = [r for r in results if r]
    losses = tuple(r["final"] if r else None for r in results)
    finite = [loss for loss in losses if loss is not None]
    interval = paired_interval(finite) if finite else None
    first: Mapping[str, Any] = complete[0] if complete else {}
    measure = experiment.setting_of(arm).measure
    gate = first.get("references", {}).get(measure.gate, -math.inf)
    curves = _by_step([r["losses" if measure.key == "loss" else f"{measure.key}s"] for r in complete])
    return ArmSummary(
        embeddings=mode,
        arm=arm.name,
        description=arm.description,
        rates=state.best and arm.scaled(state.best),
        second=state.second,
        at_edge=state.at_edge,
        tuned=experiment.rates is None,
        tried=tuple((r.body, r.rest, loss) for r, loss in sorted(state.scores.items(), key=lambda item: item[1])),
        shared=state.scores.get(START),
        losses=losses,
        interval=interval,
        step0=float(np.mean([r["step0_loss"] for r in complete])) if complete else None,
        passed_gate=bool(finite) and interval is not None and interval.mean < gate and None not in losses,
        curve=tuple((step, *_bounds(values)) for step, values in curves.items()),
        curves=curves,
        references=first.get("references", {}),
        trainable_parameters=first.get("trainable_parameters"),
        parameters=first.get("parameters"),
        flops=first.get("flops"),
        seconds=float(np.mean([r["seconds"] for r in complete])) if complete else None,
        frames={key: float(np.mean([r["frames"][key] for r in complete])) for key in first.get("frames", {})},
        further={key: _by_step([r["further"][key] for r in complete]) for key in first.get("further", {})},
    )


def _by_step(rows: Sequence[Sequence[Sequence[int | float]]]) -> dict[int, tuple[float, ...]]:
    """Step -> the value in every replicate; steps that all of them have."""
    by_step: dict[int, list[float]] = {}
    for replicate in rows:
        for step, value in replicate:
            by_step.setdefault(int(step), []).append(value)
    return {step: tuple(values) for step, values in sorted(by_step.items()) if len(values) == len(rows)}


def _bounds(values: Sequence[float]) -> tuple[float, float, float]:
    interval = paired_interval(values)
    return interval.mean, interval.low, interval.high


def _judge(
    experiment: Experiment,
    contrast: Contrast,
    arms: Mapping[tuple[str, str], ArmSummary],
    donors: Mapping[str, Mapping[str, Any]],
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
    going_on = any(experiment.arm(arm.arm).after for arm in (control, treatment))  # at the rates of another phase
    second = None if going_on else _tuning_gap(control, treatment, control.second, treatment.second)
    shared = None if going_on else _tuning_gap(control, treatment, START, START)
    word = describe(interval, experiment.setting_of(experiment.arm(contrast.treatment)).measure.delta)
    if not contrast.primary:
        return ContrastSummary(contrast, differences, interval, Verdict("exploratory"), word, second, shared)
    return ContrastSummary(
        contrast,
        differences,
        interval,
        _verdict(experiment, arms, donors, interval, [contrast], 1.0 if going_on else second),
        word,
        second,
        shared,
    )


def judge_derived(
    assessment: Assessment, interval: Interval, contrasts: Sequence[ContrastSummary], second_best_gap: float | None
) -> Verdict:
    """The rule for a number made of several contrasts, such as a difference of gaps: every gate of all of them."""
    donors = {donor["id"]: donor for donor in assessment.donors}
    declared = [summary.contrast for summary in contrasts]
    return _verdict(assessment.experiment, assessment.arms, donors, interval, declared, second_best_gap)


def _verdict(
    experiment: Experiment,
    arms: Mapping[tuple[str, str], ArmSummary],
    donors: Mapping[str, Mapping[str, Any]],
    interval: Interval,
    contrasts: Sequence[Contrast],
    second: float | None,
) -> Verdict:
    pairs = [(arms[c.embeddings, c.control], arms[c.embeddings, c.treatment]) for c in contrasts]
    if any(arm.diverged for pair in pairs for arm in pair):
        return Verdict("undecided", "diverged or missing runs")
    fresh = [pair for pair in pairs if not any(experiment.arm(arm.arm).starts_trained for arm in pair)]
    if experiment.audit and not all(starts_match(*pair) for pair in fresh):
        return Verdict("undecided", "audit: step-0 losses differ")
    return judge(
        interval,
        single_checkpoint=experiment.single_checkpoint,
        second_best_gap=second,
        delta=experiment.setting_of(experiment.arm(contrasts[0].treatment)).measure.delta,
        **_conditions(experiment, [arm for pair in pairs for arm in pair], donors),
    )


def conditions(
    assessment: Assessment, contrasts: Sequence[ContrastSummary], arms: Sequence[tuple[Embeddings, str]] = ()
) -> dict[str, Any]:
    """What every rule asks of the arms of some contrasts, and of further ``arms`` (embeddings, name): ``donors,
    gates_passed, rates_resolved, decisive_scale``."""
    names = [(c.contrast.embeddings, n) for c in contrasts for n in (c.contrast.control, c.contrast.treatment)]
    names += arms
    donors = {donor["id"]: donor for donor in assessment.donors}
    return _conditions(assessment.experiment, [assessment.arms[name] for name in names], donors)


def _conditions(
    experiment: Experiment, arms: Sequence[ArmSummary], donors: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    settings = [experiment.setting_of(experiment.arm(arm.arm)) for arm in arms]
    used = {donor for setting in settings for donor in (*setting.donors, *setting.others)}
    trained = [donors[donor] for donor in used if "recipe" in donors.get(donor, {})]  # a given one is only marked
    return {
        "donors": min(len(set(setting.donors)) for setting in settings),
        "gates_passed": all(d["passed_gate"] for d in trained) and all(arm.passed_gate for arm in arms),
        "rates_resolved": not any(arm.at_edge for arm in arms),
        "decisive_scale": experiment.decisive,
    }


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
