"""Studies: experiments whose conditions are computed as they stand, without donors, arms or learning rates to tune.

What they share with the experiments on networks: a declaration before the first run, runs by content-addressed id in
the same store, intervals and rules of ``statistics``, the ledger and the report.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from ontogeny.canonical import digest, plain
from ontogeny.errors import InputError
from ontogeny.lab.engines import Mapper, every
from ontogeny.lab.scales import parse_settings
from ontogeny.lab.statistics import (
    MINIMUM_REPLICATES,
    Interval,
    Verdict,
    simultaneous_level,
    student_interval,
    unmet,
)
from ontogeny.lab.store import Store, begin, claim, finish
from ontogeny.lab.tasks import replicate_seed

RESOLVED = 0.95  # share of the replicates whose best learning rate must not lie at an end of the grid
KIND = "study"  # of a declaration; other declarations have none
PerReplicate = Float[np.ndarray, " replicates"]
Compute = Callable[[Mapping[str, Any], int], Mapping[str, Any]]  # a condition's options, a seed -> what was measured


@dataclass(frozen=True)
class Condition:
    """One cell of a study. ``options`` go to the study's ``compute`` as they are, with a seed for every replicate.

    All conditions of a replicate get the same seed, so that they share every stream that applies to them.
    """

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A declared study: stored as JSON before its first run, and never changed.

    ``version``: of what ``compute`` computes; a new one asks for new runs.
    """

    name: str
    title: str
    scale: str
    decisive: bool
    replicates: int
    version: int
    conditions: tuple[Condition, ...]
    settings: Mapping[str, Any]
    rules: Mapping[str, str]
    table: str = "primary"
    kind: str = KIND

    def runs(self) -> list["StudyRun"]:
        """Every condition × every replicate."""
        return [
            StudyRun(self.name, self.version, condition, replicate)
            for condition in self.conditions
            for replicate in range(1, self.replicates + 1)
        ]


@dataclass(frozen=True)
class StudyRun:
    """One condition × one replicate."""

    study: str
    version: int
    condition: Condition
    replicate: int

    @property
    def id(self) -> str:
        """16 hex digits of the recipe's sha256, the replicate left out."""
        return digest(self.recipe)[:16]

    @property
    def recipe(self) -> dict[str, Any]:
        """What determines the result, as plain JSON; a condition's name doesn't."""
        return {"study": self.study, "version": self.version, "options": plain(self.condition.options), "schema": 1}


@dataclass(frozen=True)
class Measurements:
    """What is stored of a study: condition -> what was measured, by replicate, None where a run is missing."""

    experiment: Study
    found: Mapping[str, tuple[Mapping[str, Any] | None, ...]]

    @property
    def done(self) -> int:
        return sum(one is not None for cell in self.found.values() for one in cell)

    @property
    def expected(self) -> int:
        return sum(map(len, self.found.values()))

    @property
    def complete(self) -> bool:
        return self.done == self.expected

    def values(self, condition: str, quantity: str) -> Float[np.ndarray, "replicates ..."]:
        """A quantity of a finished condition: a number or a list of them for every replicate."""
        return np.array([one[quantity] for one in self.found[condition] if one is not None], dtype=float)

    def named(self, start: str) -> list[str]:
        """The conditions whose names begin so, in order of declaration."""
        return [condition.name for condition in self.experiment.conditions if condition.name.startswith(start)]


def shown(interval: Interval, digits: int = 3) -> str:
    """``+0.123 [+0.100, +0.146]``."""
    return f"{interval.mean:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def listed(intervals: Mapping[str, Interval]) -> str:
    """``name +0.123 [+0.100, +0.146], …``."""
    return ", ".join(f"{name} {shown(interval)}" for name, interval in intervals.items())


def simultaneous(values: PerReplicate, contrasts: int = 1) -> Interval:
    """Student's t interval of one of so many contrasts that a rule looks at at once (Bonferroni)."""
    return student_interval(values, simultaneous_level(contrasts))


def reason(verdict: Verdict, holds: str) -> str:
    """Why: the code of what is missing, or what a rule's contrasts say together, which isn't so where it is refuted."""
    return verdict.code or (f"not so: {holds}" if verdict.word == "refuted" else holds)


def all_hold(verdicts: Sequence[Verdict]) -> Verdict:
    """Of several parts that all have to hold: the first that is refuted, else the first that is undecided."""
    order = ("refuted", "undecided", "supported")
    return min(verdicts, key=lambda verdict: order.index(verdict.word))


def rates_resolved(found: Measurements, conditions: Sequence[str], quantity: str = "resolved") -> bool:
    """Whether in each of these conditions 95 % of the replicates at least have their best rate inside the grid."""
    return bool(min(found.values(condition, quantity).mean() for condition in conditions) >= RESOLVED)


def judge_measured(
    intervals: Collection[Interval],
    *,
    delta: float,
    decisive_scale: bool,
    gates_passed: bool = True,
    resolved: bool = True,
) -> Verdict:
    """The rule where nothing is tuned and a claim asks several quantities to lie above delta, all of them.

    Supported: every lower bound > delta, over at least 5 replicates. Refuted: some upper bound < delta.
    """
    n = min(interval.n for interval in intervals)
    if missing := unmet(n, MINIMUM_REPLICATES, gates_passed, resolved, decisive_scale):
        return missing
    if any(interval.high < delta for interval in intervals):
        return Verdict("refuted")
    if all(interval.low > delta for interval in intervals):
        return Verdict("supported")
    return Verdict("undecided", "straddles")


def declare_study(module: ModuleType, scale: str, settings: Sequence[str] = ()) -> Study:
    """A study's declaration at one of its own scales, with ``KEY=VALUE`` settings over the preset.

    InputError for a scale that it hasn't, and for settings that it hasn't.
    """
    if scale not in module.SCALES:
        raise InputError(f"{module.NAME}: no scale {scale!r}; it runs at {', '.join(module.SCALES)}")
    chosen = parse_settings(module.SCALES[scale], settings)
    return Study(
        name=module.NAME,
        title=module.TITLE,
        scale=scale,
        decisive=scale != "smoke",
        replicates=chosen.replicates,
        version=module.VERSION,
        conditions=tuple(module.conditions(chosen)),
        settings=plain(chosen),
        rules=module.RULES,
    )


def study_from_json(value: Mapping[str, Any]) -> Study:
    """The study of a stored declaration."""
    return Study(**dict(value) | {"conditions": tuple(Condition(**condition) for condition in value["conditions"])})


def conduct_study(study: Study, compute: Compute, store: Store, mapper: Mapper, report: Callable[..., None]) -> None:
    """Run everything that the store doesn't have yet, and report progress as (phase, done, total)."""
    function = partial(run_condition, compute=compute, store=store)
    for _ in every(mapper, function, study.runs(), partial(report, "runs")):
        pass


def run_condition(run: StudyRun, compute: Compute, store: Store) -> dict[str, Any]:
    """One condition × one replicate -> one result, stored; one that is stored already is read."""
    from ontogeny.lab.run import host

    directory = store.run_directory(run.id, run.replicate)
    with claim(directory):
        if (result := store.result(run.id, run.replicate)) is not None:
            return result
        identity = {"kind": "measurement", "id": run.id, "replicate": run.replicate, "host": host()}
        begin(directory, {"recipe": run.recipe, "replicate": run.replicate, "host": identity["host"]})
        started = time.monotonic()
        measured = compute(run.condition.options, replicate_seed(run.replicate))
        seconds = time.monotonic() - started
        result = identity | run.recipe | {"condition": run.condition.name, "measured": measured, "seconds": seconds}
        return finish(directory, result)


def gather(study: Study, store: Store) -> Measurements:
    """What a store has of a study."""
    found: dict[str, list[Mapping[str, Any] | None]] = {condition.name: [] for condition in study.conditions}
    for run in study.runs():
        result = store.result(run.id, run.replicate)
        found[run.condition.name].append(None if result is None else result["measured"])
    return Measurements(study, {name: tuple(cell) for name, cell in found.items()})


def study_results(study: Study, store: Store) -> list[dict[str, Any]]:
    """Every result that a study has in a store."""
    return [result for run in study.runs() if (result := store.result(run.id, run.replicate)) is not None]
