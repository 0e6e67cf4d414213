"""Runs in one stack have the results that they have by themselves."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import smoke
from test_run import RATES, full_table

from ontogeny.benchmarks import made_up
from ontogeny.errors import Interrupted
from ontogeny.files import read_json
from ontogeny.lab import conduct as lab_conduct
from ontogeny.lab import stacks as lab_stacks
from ontogeny.lab.engines import local
from ontogeny.lab.experiment import Experiment, Rates, Run
from ontogeny.lab.networks import Lab
from ontogeny.lab.run import run
from ontogeny.lab.stacks import run_stack, stacks
from ontogeny.lab.store import Store, claimed, open_store
from ontogeny.training import stacked
from ontogeny.training.stacked import train_stack
from ontogeny.training.train import History

OTHER = Rates(body=3e-3, rest=1e-2)
CIRCUMSTANCE = {"host", "seconds", "tokens_per_second", "peak_memory", "sha256"}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return smoke.smoke_store(tmp_path_factory)


@pytest.fixture(scope="session")
def full(store: Store) -> Experiment:
    return full_table(smoke.declared(store).setting)


def new_lab(store: Store, full: Experiment, root: Path) -> Lab:
    """An empty store that reads the smoke store's tokens and donors."""
    own = open_store(root)
    (own.root / "tokens").rmdir()
    (own.root / "tokens").symlink_to(store.root / "tokens")
    return Lab(own, {donor: store.root / "donors" / donor for donor in full.setting.donors})


def some(full: Experiment) -> list[Run]:
    """A search's runs, and evaluated ones of two replicates."""
    tuned = [full.tuning_run("fresh", full.arm("random"), rates) for rates in (RATES, OTHER, Rates(1e30, 1e30))]
    names = ("donor", "random", "dense", "low-rank")
    tested = [Run(full.setting, full.arm(n), "frozen", RATES, "test", r) for r in (1, 2) for n in names]
    return tuned + tested


def test_results_are_those_of_separate_runs(store: Store, full: Experiment, tmp_path: Path) -> None:
    """All but rounding and circumstance; who diverges diverges alone."""
    together, apart = (new_lab(store, full, tmp_path / name) for name in ("together", "apart"))
    grouped = stacks(some(full), 4)
    assert [len(group) for group in grouped] == [3, 4, 2, 2]
    for group in grouped:
        for one, found in zip(group, run_stack(group, together), strict=True):
            expected = run(one, apart)
            assert set(found) == set(expected)
            for key in set(found) - CIRCUMSTANCE:
                close(found[key], expected[key])
            directory = together.store.run_directory(one.id, one.replicate)
            assert read_json(directory / "run.json")["stack"] == len(group)
            assert read_json(directory / "run.json")["recipe"] == one.recipe
            assert not (directory / "checkpoint").exists()
    stopped = [together.store.result(one.id, 0)["stop_reason"] for one in grouped[0]]  # type: ignore[index]
    assert stopped == ["finished", "finished", "non-finite"]


def close(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key, value in expected.items():
            close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-5) if isinstance(expected, float) else expected)


def test_what_is_stored_is_read_and_what_is_unlike_trains_apart(
    store: Store, full: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = new_lab(store, full, tmp_path)
    tasks = [Run(full.setting, full.arm(name), "fresh", RATES, "test", 1) for name in ("donor", "dense", "random")]
    first = run(tasks[0], lab)
    sizes: list[int] = []

    def counted(members: Sequence[stacked.Member]) -> list[History]:
        sizes.append(len(members))
        return train_stack(members)

    monkeypatch.setattr(lab_stacks, "train_stack", counted)
    assert run_stack(tuple(tasks), lab)[0] == first
    assert sizes == [], "one of each was left"
    more = tuple(replace(task, replicate=2) for task in tasks)
    run_stack(more, lab)
    assert sizes == [2]
    assert run_stack(more, lab) == [run(task, lab) for task in more]
    assert sizes == [2]


def test_a_stack_that_is_stopped_goes_on(
    store: Store, full: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = new_lab(store, full, tmp_path)
    tasks = tuple(full.tuning_run("fresh", full.arm("dense"), rates) for rates in (RATES, OTHER))
    directories = [lab.store.run_directory(task.id, 0) for task in tasks]
    plain = stacked.next_token_losses

    def interrupt(*inputs: Any) -> Any:
        assert all(claimed(directory) for directory in directories)
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(*inputs)

    monkeypatch.setattr(stacked, "next_token_losses", interrupt)
    with pytest.raises(Interrupted, match="after step 1 of 2"):
        run_stack(tasks, lab)
    assert all((directory / "checkpoint" / "state.safetensors").exists() for directory in directories)
    assert not any(claimed(directory) for directory in directories)
    monkeypatch.setattr(stacked, "next_token_losses", plain)
    apart = new_lab(store, full, tmp_path / "apart")
    for task, found in zip(tasks, run_stack(tasks, lab), strict=True):
        close(found["losses"], run(task, apart)["losses"])


def test_an_experiment_is_conducted_in_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches and evaluated runs, every one once; made-up results, which nothing trains for."""
    store, ended = open_store(tmp_path), []
    experiment = replace(made_up.declared(), embeddings={"fresh": ("donor", "random", "dense")})
    made_up.conduct(experiment, store, keep=lambda run: False)

    def stored(runs: lab_stacks.Stack, lab: Lab) -> list[str]:
        made_up.save(list(runs), lab.store)
        ended.append([(one.id, one.replicate) for one in runs])
        return ["stored"]

    told: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(lab_conduct, "run_stack", stored)
    with local(1) as mapper:
        lab_conduct._train(experiment, Lab(store, {}, stack=4), mapper, lambda *now: told.update({now[0]: now[1:]}))
    cells = lab_conduct.evaluated_runs(experiment, store).values()
    assert [len(cell) for cell in cells] == [5, 5, 5]
    assert all(store.result(one.id, one.replicate) for cell in cells for one in cell)
    once = [key for stack in ended for key in stack]
    assert len(set(once)) == len(once) == sum(done for done, _ in told.values())
    assert all(done == total > 0 for done, total in told.values())
    assert max(map(len, ended)) == 4
    assert len(ended) < 0.6 * len(once)
