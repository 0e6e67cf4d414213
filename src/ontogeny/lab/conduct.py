"""Carry out a declared experiment: donors, overlaps, rates, evaluated runs; whatever is stored is not run again."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from ontogeny.files import read_json
from ontogeny.lab.comparisons import Comparison, compare_networks
from ontogeny.lab.donors import DonorRecipe, audit_donor, audit_folder, learnt_nothing, train_donor, warning
from ontogeny.lab.engines import Mapper, every, work
from ontogeny.lab.experiment import Arm, Embeddings, Experiment, Rates, Run, Setting
from ontogeny.lab.networks import Lab
from ontogeny.lab.overlaps import ALIGNMENTS, OverlapTask, measure_overlap
from ontogeny.lab.rates import Axis, Search, search
from ontogeny.lab.stacks import Stack, run_stack, stacks
from ontogeny.lab.store import Store

Cell = tuple[Embeddings, str]
Report = Callable[[str, int, int], None]  # phase, done, total


@dataclass(frozen=True)
class Plan:
    """An experiment ready to be conducted. ``recipes``: donors to train; none where the user gave checkpoints."""

    experiment: Experiment
    lab: Lab
    recipes: tuple[DonorRecipe, ...]


def conduct(
    plan: Plan,
    mapper: Mapper,
    report: Report = lambda phase, done, total: None,
    warn: Callable[[str], None] = lambda line: None,
) -> None:
    """Run everything that the store doesn't have yet, phase by phase, and report progress.

    ``warn`` is told of donors that have learnt nothing, before any arm trains.
    """
    experiment, lab = plan.experiment, plan.lab
    if plan.recipes:
        donors = every(mapper, partial(train_donor, lab=lab), plan.recipes, partial(report, "donors"))
    else:
        donors = every(mapper, partial(_audit, lab=lab), audits(experiment), partial(report, "donors"))
    for line in sorted([warning(donor, experiment) for donor in donors if learnt_nothing(donor)]):
        warn(line)
    _all(mapper, partial(measure_overlap, lab=lab), overlap_tasks(experiment), partial(report, "overlaps"))
    _train(experiment, lab, mapper, report)
    if pairs := comparisons(experiment, lab.store):
        _all(mapper, partial(compare_networks, lab=lab), pairs, partial(report, "comparisons"))


def audits(experiment: Experiment) -> list[tuple[str, Setting]]:
    """Every given donor with a setting whose text it is measured on."""
    found: dict[tuple[str, str], tuple[str, Setting]] = {}
    for setting in experiment.all_settings().values():  # the first of a text: later ones may read a part of it
        for donor in setting.donors:
            found.setdefault((donor, setting.tokens), (donor, setting))
    return list(found.values())


def _audit(pair: tuple[str, Setting], lab: Lab) -> dict[str, Any]:
    return audit_donor(*pair, lab)


def overlap_tasks(experiment: Experiment) -> list[OverlapTask]:
    """Every pair of donors of a setting, those of another corpus included, at every rank that an arm uses.

    Raw and aligned both ways, unless the experiment says which; in the demo raw alone.
    """
    alignments = ALIGNMENTS[:1] if experiment.scale == "demo" else ALIGNMENTS
    if experiment.alignments is not None:
        alignments = tuple(align for align in ALIGNMENTS if align in experiment.alignments)
    found: dict[OverlapTask, None] = {}
    for name, setting in experiment.all_settings().items():
        pairs = combinations(dict.fromkeys(setting.donors + setting.others), 2)
        ranks = {setting.rank: None} | {
            str(arm.recipe["rank"]): None for arm in experiment.arms if arm.setting == name and "rank" in arm.recipe
        }
        found |= {OverlapTask(a, b, rank, align): None for a, b in pairs for rank in ranks for align in alignments}
    return list(found)


def tuned_cells(experiment: Experiment) -> list[tuple[Embeddings, Arm]]:
    """The cells with rates of their own."""
    return [(mode, arm) for mode, arm in experiment.cells() if arm.tuned_as is None]


def axes(mode: Embeddings, arm: Arm) -> tuple[Axis, ...]:
    """The rates that an arm has: with frozen embeddings the body's alone is tuned, with a frozen body the rest's."""
    if arm.constraint in ("donor-body", "random-body"):
        return ("rest",)
    return ("body",) if mode == "frozen" else ("body", "rest")


def _train(experiment: Experiment, lab: Lab, mapper: Mapper, report: Report) -> None:
    """All rate searches side by side, and the evaluated runs of each cell as soon as its rates are found.

    One queue that grows with what is found, so that no worker waits for the last run of a round.
    """
    queue: list[Stack] = []
    wanted: dict[tuple[str, int], Run] = {}  # evaluated runs known by now
    searching: dict[Cell, set[str]] = {cell: set() for cell in searches(experiment, lab.store)}  # ids asked for
    done, total = {"tuning": 0, "runs": 0}, {"tuning": 0, "runs": 0}

    def ask(cells: list[Cell]) -> list[Run]:
        asked: list[Run] = []
        for mode, name in cells:
            state = _search(experiment, lab.store, mode, experiment.arm(name))
            runs = [experiment.tuning_run(mode, experiment.arm(name), rates) for rates in state.needed]
            new = [r for r in runs if r.id not in searching[mode, name]]
            searching[mode, name] |= {r.id for r in new}
            asked += new
            total["tuning"] += len(new)
            if state.best:
                del searching[mode, name]
        if any(cell not in searching for cell in cells):
            found = evaluated_runs(experiment, lab.store)
            wanted.update({(r.id, r.replicate): r for cell in found.values() for r in cell})
            total["runs"] = len(wanted) + unknown_runs(experiment, found)
        return asked

    def begin() -> list[Run]:
        ready = [key for key, r in wanted.items() if key not in begun and _can_start(r, lab.store)]
        begun.update(ready)
        return [wanted[key] for key in ready]

    begun: set[tuple[str, int]] = set()
    queue += stacks(ask(list(searching)) + begin(), lab.stack)
    for phase in done:
        report(phase, 0, total[phase])
    for stack, _ in work(mapper, partial(run_stack, lab=lab), queue):
        ended = {one.id for one in stack}
        queue += stacks(ask([cell for cell, asked in searching.items() if ended & asked]) + begin(), lab.stack)
        for one in stack:
            phase = "runs" if (one.id, one.replicate) in begun else "tuning"
            done[phase] += 1
            report(phase, done[phase], total[phase])


def _can_start(run: Run, store: Store) -> bool:
    """Whether what it goes on from has ended, and with a network."""
    parent = run.parent
    return parent is None or (store.result(parent.id, parent.replicate) is not None and not hopeless(run, store))


def searches(experiment: Experiment, store: Store) -> dict[Cell, Search]:
    """Where every cell's search stands, from what is stored."""
    return {(mode, arm.name): _search(experiment, store, mode, arm) for mode, arm in tuned_cells(experiment)}


def _search(experiment: Experiment, store: Store, mode: Embeddings, arm: Arm) -> Search:
    if experiment.rates is not None:
        return Search(best=experiment.rates[mode][arm.name])
    known = _scores(experiment, store, mode, arm)
    return replace(search(known, axes(mode, arm)), scores=known)


def _scores(experiment: Experiment, store: Store, mode: Embeddings, arm: Arm) -> dict[Rates, float]:
    """The tuning losses of one cell that its search has asked for so far; infinite where a run diverged."""
    known: dict[Rates, float] = {}
    while needed := search(known, axes(mode, arm)).needed:
        before = len(known)
        for rates in needed:
            task = experiment.tuning_run(mode, arm, rates)
            if (result := store.result(task.id, 0)) is not None:
                known[rates] = math.inf if result["final"] is None else result["final"]
        if len(known) - before < len(needed):
            break
    return known


def rates_of(found: Mapping[Cell, Search], mode: Embeddings, arm: Arm) -> Rates | None:
    """The rates a cell is evaluated at, or None while its search goes on."""
    return found[mode, arm.tuned_as or arm.name].best


def _all(
    mapper: Mapper, function: Callable[[Any], Any], items: Sequence[Any], report: Callable[[int, int], None]
) -> None:
    for _ in every(mapper, function, items, report):
        pass


def evaluated_runs(
    experiment: Experiment, store: Store, searched: Mapping[Cell, Search] | None = None
) -> dict[Cell, list[Run]]:
    """The evaluated runs of every cell whose rates are known by now; ``searched``: where the searches stand."""
    searched = searches(experiment, store) if searched is None else searched
    found: dict[Cell, list[Run]] = {}
    for mode, arm in sorted(experiment.cells(), key=lambda cell: bool(cell[1].after)):
        rates = rates_of(searched, mode, arm)
        if rates and (not arm.after or (mode, arm.after) in found):
            found[mode, arm.name] = experiment.runs(mode, arm, rates, found.get((mode, arm.after), ()))
    return found


def unknown_runs(experiment: Experiment, known: Collection[Cell]) -> int:
    """How many evaluated runs there are in the cells whose rates aren't known yet."""
    missing = [arm for mode, arm in experiment.cells() if (mode, arm.name) not in known]
    return sum(arm.replicates or experiment.replicates for arm in missing)


def comparisons(experiment: Experiment, store: Store) -> list[Comparison]:
    """Every two networks of a group of twins, each pair once, of runs that ended without diverging."""
    cells = evaluated_runs(experiment, store)
    found: dict[str, Comparison] = {}
    for group in experiment.twins:
        runs = [run for (_, name), cell in cells.items() if name in group for run in cell if _ended(run, store)]
        found |= {pair.id: pair for pair in (Comparison(one, other) for one, other in combinations(runs, 2))}
    return list(found.values())


def hopeless(run: Run, store: Store) -> bool:
    """Whether it can never start: the run that it goes on from has diverged and left no network."""
    if run.parent is None or (result := store.result(run.parent.id, run.parent.replicate)) is None:
        return False
    return bool(result["final"] is None)


def _ended(run: Run, store: Store) -> bool:
    result = store.result(run.id, run.replicate)
    return result is not None and result["final"] is not None


def stored_results(experiment: Experiment, store: Store) -> list[dict[str, Any]]:
    """Every result that an experiment has in a store: donors, overlaps, the rate searches, evaluated runs."""
    return [read_json(path) for path in result_paths(experiment, store) if path.exists()]


def result_paths(experiment: Experiment, store: Store) -> list[Path]:
    """Where the results lie, or will, of all that an experiment asks for by now; its searches may ask for more."""
    paths = [
        store.root / "donors" / folder / "result.json"
        for setting in experiment.all_settings().values()
        for donor in (*setting.donors, *setting.others)
        for folder in (donor, audit_folder(donor, setting))
    ]
    paths += [store.result_path(task.id, 0) for task in overlap_tasks(experiment)]
    searched = searches(experiment, store)
    for (mode, name), state in searched.items():
        for rates in (*state.scores, *state.needed):
            paths.append(store.result_path(experiment.tuning_run(mode, experiment.arm(name), rates).id, 0))
    cells = evaluated_runs(experiment, store, searched)
    paths += [store.result_path(r.id, r.replicate) for cell in cells.values() for r in cell]
    paths += [store.result_path(pair.id, 0) for pair in comparisons(experiment, store)]
    return list(dict.fromkeys(paths))
