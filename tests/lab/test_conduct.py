"""Whatever is stored is not run again, and however often a run is cut off, it ends with the same numbers."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
import smoke

from ontogeny.cli import main
from ontogeny.files import write_json
from ontogeny.lab import conduct as conduct_module
from ontogeny.lab.conduct import Plan, conduct, evaluated_runs, overlap_tasks, searches, tuned_cells
from ontogeny.lab.donors import DonorRecipe
from ontogeny.lab.engines import local
from ontogeny.lab.experiment import Rates
from ontogeny.lab.judge import assess
from ontogeny.lab.networks import Lab
from ontogeny.lab.rates import START
from ontogeny.lab.store import Store, open_store
from ontogeny.terminal.lab import run_experiment

CIRCUMSTANCE = ("sha256", "seconds", "peak_memory", "tokens_per_second", "host")
FORK = multiprocessing.get_context("fork")
PATIENCE = 300.0  # seconds that a process is given on a busy machine


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return smoke.smoke_store(tmp_path_factory)


def text_of(store: Store) -> str:
    return str(store.root.parent / "text.jsonl")


def science(store: Store) -> dict[Path, Any]:
    """Every result without circumstance, by its place in the store."""
    found = {}
    for path in store.root.rglob("result.json"):
        result = json.loads(path.read_text())
        found[path.relative_to(store.root)] = {k: v for k, v in result.items() if k not in CIRCUMSTANCE}
    return found


def test_every_cell_has_its_runs(store: Store) -> None:
    experiment = smoke.declared(store)
    assessment = assess(experiment, store)
    assert assessment.complete
    assert assessment.done == assessment.expected == len({*_evaluated(store)})
    assert all(state.best and not state.needed for state in searches(experiment, store).values())
    assert {name for _, name in searches(experiment, store)} == {"donor", "random", "rotated", "coherent", "dense"}
    assert len(overlap_tasks(experiment)) == 3, "one pair of donors, three alignments"
    assert all(store.result(task.id, 0) for task in overlap_tasks(experiment))


def _evaluated(store: Store) -> list[tuple[str, int]]:
    return [(run.id, run.replicate) for cell in evaluated_runs(smoke.declared(store), store).values() for run in cell]


def test_frozen_embeddings_tune_the_body_alone(store: Store) -> None:
    for (mode, _), cell in evaluated_runs(smoke.declared(store), store).items():
        rests = {run.rates.rest for run in cell}
        assert rests == {START.rest} if mode == "frozen" else len(rests) == 1


def test_arms_that_differ_by_donor_or_draw_share_rates(store: Store) -> None:
    experiment = smoke.declared(store)
    cells = evaluated_runs(experiment, store)
    rates = {name: cell[0].rates for (mode, name), cell in cells.items() if mode == "fresh"}
    assert rates["donor 1"] == rates["donor 2"] == rates["donor"]
    assert rates["draw 1"] == rates["draw 2"] == rates["random"]
    assert len(tuned_cells(experiment)) == 10


def test_tuning_uses_replicate_0_alone(store: Store) -> None:
    tuned = [r for r in store.results() if r["kind"] == "arm" and r["split"] == "tune"]
    assert {r["replicate"] for r in tuned} == {0}
    assert {r["replicate"] for r in store.results() if r["kind"] == "arm" and r["split"] == "test"} == {1, 2}


def test_a_rerun_runs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    times = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.json") if "tokenizer" not in path.name}
    monkeypatch.setattr(conduct_module, "run_stack", None)
    monkeypatch.setattr(conduct_module, "train_donor", None)
    run_experiment("convergence", "smoke", store.root, smoke.SETTINGS, text=[text_of(store)], engine="processes")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(store.experiments()) == 1
    assert "Verdicts" in capsys.readouterr().out


def test_only_what_is_missing_is_run(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All phases, on stand-ins that write a result and count."""
    from ontogeny.lab.prepare import prepare
    from ontogeny.lab.scales import scale

    begun: list[str] = []

    def pretend(stack: tuple[Any, ...], lab: Lab) -> None:
        for run in stack:
            if lab.store.result(run.id, run.replicate) is None:
                begun.append(run.arm.name)
                loss = abs(run.rates.body - 1e-2) + abs(run.rates.rest - 3e-2)
                write_json(lab.store.run_directory(run.id, run.replicate) / "result.json", {"final": loss})

    def ignorant(recipe: DonorRecipe, lab: Lab) -> dict[str, Any]:
        loss = 5.9 if recipe.index == 2 else 5.7
        return {"id": recipe.id, "index": recipe.index, "loss": loss, "references": {"unigram": 5.8}, "recipe": {}}

    plan = prepare("convergence", scale("smoke", smoke.SETTINGS), open_store(tmp_path), text=[text_of(store)])
    monkeypatch.setattr(conduct_module, "run_stack", pretend)
    monkeypatch.setattr(conduct_module, "train_donor", ignorant)
    monkeypatch.setattr(conduct_module, "measure_overlap", lambda task, lab: None)
    shown: list[tuple[str, int, int]] = []
    warned: list[tuple[str, int]] = []
    with local(1) as mapper:
        conduct(
            plan,
            mapper,
            lambda phase, done, total: shown.append((phase, done, total)),
            lambda line: warned.append((line, len(begun))),
        )
        line = "donor 2: its loss 5.90 is not below the unigram's 5.80: it has learnt nothing; more --set donor_steps=…"
        assert warned == [(line, 0)], "told before any arm trains"
        assert len(begun) == 5 * 5 + 5 * 3 + 22, "searches that start at their optimum, then the evaluated runs"
        assert all(state.best == START for state in searches(plan.experiment, plan.lab.store).values())
        one = next(iter(evaluated_runs(plan.experiment, plan.lab.store).values()))[0]
        (plan.lab.store.run_directory(one.id, one.replicate) / "result.json").unlink()
        begun.clear()
        conduct(plan, mapper)
        assert begun == [one.arm.name]
    assert list(dict.fromkeys(phase for phase, *_ in shown)) == ["donors", "overlaps", "tuning", "runs"]
    for phase in ("donors", "runs"):
        steps = [(done, total) for name, done, total in shown if name == phase]
        assert [done for done, _ in steps] == list(range(len(steps)))
        assert steps[-1][0] == steps[-1][1]


def test_a_donor_that_diverges_is_named(store: Store, tmp_path: Path) -> None:
    from ontogeny.errors import InputError
    from ontogeny.lab.donors import train_donor

    experiment = smoke.declared(store)
    lab = Lab(open_store(tmp_path), {})
    (tmp_path / "tokens").rmdir()
    (tmp_path / "tokens").symlink_to(store.root / "tokens")
    setting = experiment.setting
    recipe = DonorRecipe(setting.model, setting.tokens, 32, 4, 4, Rates(1e30, 1e30), windows=4, index=7)
    with pytest.raises(InputError, match=r"donor 7 diverged after step .*: lower donor_rates"):
        train_donor(recipe, lab)
    assert not (tmp_path / "donors" / recipe.id / "result.json").exists()


# Cut off ------------------------------------------------------------------------------------------------------


def start(store: Path, text: str, log: Path) -> ForkProcess:
    """The command line in a process and a session of its own."""
    words = ["ontogeny", "run", "convergence", "--scale", "smoke", "--text", text, "--store", str(store)]
    words += ["--engine", "processes", "--workers", "1", *(w for s in smoke.SETTINGS for w in ("--set", s))]
    driver = FORK.Process(target=command_line, args=(words, log))
    driver.start()
    return driver


def command_line(words: list[str], log: Path) -> None:
    os.setsid()
    sys.argv = words
    multiprocessing.get_context = lambda method: FORK  # type: ignore[assignment]  # workers that have all imported
    with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        main()


def wait_for(condition: Callable[[], bool], driver: ForkProcess, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert driver.is_alive(), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finished(store: Path) -> int:
    return len(list(store.glob("runs/*/replicate-*/result.json")))


def test_cut_off_anywhere_it_ends_with_the_same_numbers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """kill -9 of the driver, Ctrl-C at a terminal; then a rerun in one process. SIGTERM: soak/test_preemption.py."""
    root, text, log = tmp_path / "store", text_of(store), tmp_path / "log"
    smoke.few_refits(monkeypatch)

    driver = start(root, text, log)
    wait_for(lambda: finished(root) >= 6, driver, log)
    workers = psutil.Process(driver.pid).children(recursive=True)
    assert workers
    driver.kill()
    driver.join(PATIENCE)
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert not alive, "orphans end by themselves"
    killed = finished(root)

    driver = start(root, text, log)
    wait_for(lambda: finished(root) >= killed + 4, driver, log)
    workers = psutil.Process(driver.pid).children(recursive=True)
    assert driver.pid
    os.killpg(driver.pid, signal.SIGINT)
    driver.join(PATIENCE)
    assert driver.exitcode == 130
    assert log.read_text().splitlines()[-1] == "ontogeny: stopped: running work is saved, rerun to go on"
    assert not psutil.wait_procs(workers, timeout=PATIENCE)[1]
    assert finished(root) < finished(store.root), "there was something left to do"

    run_experiment("convergence", "smoke", root, smoke.SETTINGS, text=[text], engine="local")
    assert science(open_store(root)) == science(store)
    assert "Verdicts" in capsys.readouterr().out


def test_plans_are_for_these_donors(store: Store) -> None:
    """A plan knows where its donors lie, and what they are made from."""
    from ontogeny.lab.prepare import prepare
    from ontogeny.lab.scales import scale

    plan: Plan = prepare("convergence", scale("smoke", smoke.SETTINGS), store, text=[text_of(store)])
    assert [recipe.id for recipe in plan.recipes] == list(plan.experiment.setting.donors) == list(plan.lab.donors)
    assert len(store.experiments()) == 1, "declared once"
    assert plan.experiment == smoke.declared(store)
