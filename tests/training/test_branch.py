"""A branched run: its cost, its branches against plain runs to the bit, going on from anywhere, and every ending."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_train import batches, evaluate, parameters, rows, run, terminate_at
from tiny import tiny_checkpoint, tiny_model
from torch import Tensor, nn

from ontogeny.errors import InputError, Interrupted
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.model.constrain import constrain
from ontogeny.training.branch import branch_step, branched_steps, train_branched
from ontogeny.training.train import History, TrainConfig

HORIZONS = (5, 10)  # trunk 1 … 4, branch 5, trunk 5 … 8, branch 9, 10
CONFIG = TrainConfig(0, 1e-2, 2e-2, warmup_steps=2, weight_decay=0.1)


def branched(model: nn.Module, horizons: Sequence[int] = HORIZONS, config: TrainConfig = CONFIG, **options: Any) -> Any:
    return train_branched(model, batches, config, horizons, **({"evaluate": evaluate} | options))


def plain(model: nn.Module, horizon: int, config: TrainConfig = CONFIG) -> History:
    """What a branch must equal: its horizon trained alone."""
    config = replace(config, schedule="cooldown", steps=horizon, cool_from=round(0.8 * horizon))
    return run(model, config)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.fixture(scope="module")
def whole() -> tuple[nn.Module, History]:
    """The uninterrupted run."""
    return (model := tiny_model("llama")), branched(model)


def test_steps_of_the_reachability_experiment() -> None:
    horizons = [100 * 2**j for j in range(7)]
    assert [branch_step(h) for h in horizons] == [80, 160, 320, 640, 1280, 2560, 5120]
    assert branched_steps(horizons) == 5120 + 20 * (2**7 - 1)
    assert branched_steps([10]) == 10


@given(st.lists(st.integers(3, 10**6), min_size=1, unique=True).map(sorted))
def test_a_branched_run_costs_no_more_than_its_runs_and_no_less_than_its_last(horizons: list[int]) -> None:
    steps = branched_steps(horizons)
    assert horizons[-1] <= steps <= sum(horizons)
    assert all(abs(branch_step(h) - 0.8 * h) <= 0.5 for h in horizons)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], nn.Module]:
    """A tiny Llama by its arm."""
    donor = open_checkpoint(tiny_checkpoint("llama", tmp_path_factory.mktemp("donor"), seed=9))
    recipes = {"mask": Recipe(density="30%"), "subspace": Recipe(rank="50%")}

    def build(arm: str) -> nn.Module:
        model: nn.Module = tiny_model("llama")
        return constrain(model, extract(donor, recipes[arm])) if arm in recipes else model

    return build


ARMS = ("dense", "mask", "subspace")


@pytest.mark.parametrize("arm", ARMS)
def test_a_finished_run_goes_on_to_more_steps(build: Callable[[str], nn.Module], arm: str, tmp_path: Path) -> None:
    """Under a constant rate, to the bit what one long run does; a schedule's length is free to change."""
    config = TrainConfig(12, 1e-2, 2e-2, warmup_steps=3, schedule="constant", weight_decay=0.1)
    whole, parts = build(arm), build(arm)
    expected = run(whole, config)
    for steps in (5, 9):
        assert run(parts, replace(config, steps=steps), directory=tmp_path, save_at_end=True).stopped_at == steps
    seen: list[int] = []
    found = run(build(arm), replace(config, steps=6), directory=tmp_path, on_step=seen.append)
    assert (found.stopped_at, found.stop_reason, seen) == (9, "finished", [])  # it is further than that
    found = run(parts := build(arm), config, directory=tmp_path)
    assert [row["step"] for row in found.rows] == [0, 5, 9, 12]
    assert rows(found)[-1] == rows(expected)[-1]
    assert same_weights(parts, whole)


@pytest.mark.parametrize("arm", ARMS)
def test_every_branch_is_the_plain_cooled_run_to_the_bit(build: Callable[[str], nn.Module], arm: str) -> None:
    model, told, count = build(arm), [], []  # type: ignore[var-annotated]
    history = branched(
        model, on_evaluation=lambda rows: told.append([row["step"] for row in rows]), on_step=count.append
    )
    assert told == [[0, 5], [0, 5, 10]]
    assert (history.stop_reason, history.stopped_at) == ("finished", 10)
    assert len(count) == branched_steps(HORIZONS)
    expected = {horizon: rows(plain(reference := build(arm), horizon)) for horizon in HORIZONS}
    assert rows(history) == [*expected[5], expected[10][-1]]
    assert same_weights(model, reference)


def test_one_horizon_is_a_plain_run() -> None:
    model, reference = tiny_model("llama"), tiny_model("llama")
    assert rows(branched(model, [10])) == rows(plain(reference, 10))
    assert same_weights(model, reference)


def test_seconds_are_those_of_trunk_and_branches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that a step moves by a second; a rerun finds the same."""
    clock: list[int] = []
    monkeypatch.setattr("ontogeny.training.train.time", SimpleNamespace(monotonic=lambda: float(len(clock))))

    def ticking(step: int) -> Tensor:
        clock.append(step)
        return batches(step)

    for _ in range(2):
        history = train_branched(
            tiny_model("llama"), ticking, CONFIG, (*HORIZONS, 20), evaluate=evaluate, directory=tmp_path
        )
        assert [row["seconds"] for row in history.rows] == [0, 5, 4 + 1 + 4 + 2, 16 + 1 + 2 + 4]
        assert history.seconds == branched_steps((*HORIZONS, 20)) == len(clock)
    assert clock == [*range(4), 4, *range(4, 8), 8, 9, *range(8, 16), *range(16, 20)]  # the same batches twice


def test_without_warmup_steps_every_horizon_shares_the_firsts() -> None:
    config = replace(CONFIG, warmup=0.4, warmup_steps=None)
    found = branched(tiny_model("llama"), config=config)
    assert rows(found) == rows(branched(tiny_model("llama"), config=CONFIG))  # 0.4 · 5 steps


class Killed(BaseException):
    """Stands in for a SIGKILL: nothing of ours runs after it but what is on disk already."""


def kill_at(call: int) -> Callable[[int], None]:
    calls: list[int] = []

    def on_step(step: int) -> None:
        calls.append(step)
        if len(calls) == call:
            raise Killed

    return on_step


@pytest.mark.parametrize("save_every", [0.0, math.inf])
@pytest.mark.parametrize("call", [1, 4, 5, 6, 9, 10, 11])  # the trunk's and the branches' first and last steps
def test_a_killed_run_goes_on_to_the_bit(
    whole: tuple[nn.Module, History], call: int, save_every: float, tmp_path: Path
) -> None:
    assert branched_steps(HORIZONS) == 11
    with pytest.raises(Killed):
        branched(tiny_model("llama"), directory=tmp_path, save_every=save_every, on_step=kill_at(call))
    seen: list[int] = []
    history = branched(model := tiny_model("llama"), directory=tmp_path, on_step=seen.append)
    assert rows(history) == rows(whole[1])
    assert same_weights(model, whole[0])
    if save_every == 0:
        assert len(seen) == 11 - (call - 1)  # the step that was under way, and what was left
    if call > 5:
        assert seen[-1] == 10
        assert seen.count(5) <= 1  # step 5 of the trunk; the branch that finished isn't repeated


@pytest.mark.parametrize("step", [3, 4, 5, 8, 9, 10])
def test_a_terminated_run_goes_on_to_the_bit(whole: tuple[nn.Module, History], step: int, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=f"after step {step} of"):
        branched(tiny_model("llama"), directory=tmp_path, on_step=terminate_at(step))
    history = branched(model := tiny_model("llama"), directory=tmp_path)
    assert rows(history) == rows(whole[1])
    assert same_weights(model, whole[0])


def test_a_kill_while_the_branch_is_started_goes_on_to_the_bit(
    whole: tuple[nn.Module, History], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:1000])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", half)
        with pytest.raises(Killed):
            branched(tiny_model("llama"), directory=tmp_path)
    assert rows(branched(tiny_model("llama"), directory=tmp_path)) == rows(whole[1])


def test_a_finished_run_is_read(whole: tuple[nn.Module, History], tmp_path: Path) -> None:
    """No step is taken, nothing is evaluated and no file is written again; more horizons go on from it."""
    first = branched(tiny_model("llama"), directory=tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    seen: list[int] = []

    def never(model: nn.Module) -> dict[str, float]:
        raise AssertionError

    again = branched(model := tiny_model("llama"), directory=tmp_path, on_step=seen.append, evaluate=never)
    assert again == first  # the seconds too
    assert seen == []
    assert same_weights(model, whole[0])
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    more = branched(tiny_model("llama"), (*HORIZONS, 15), directory=tmp_path, on_step=seen.append)
    assert seen == [9, 10, 11, 12, 13, 14, 15]
    assert more.rows[:3] == first.rows
    assert rows(more)[-1] == rows(plain(tiny_model("llama"), 15))[-1]


def test_step_0_is_evaluated_once(whole: tuple[nn.Module, History]) -> None:
    losses: list[float] = []

    def counted(model: nn.Module) -> dict[str, float]:
        losses.append(evaluate(model)["loss"])
        return {"loss": losses[-1]}

    history = branched(tiny_model("llama"), evaluate=counted)
    assert losses.count(losses[0]) == 1
    assert len(losses) == 1 + 2 * len(HORIZONS)  # the trunk where it branches, and the branch
    assert history.losses == [losses[0], losses[2], losses[4]] == whole[1].losses


@pytest.mark.parametrize(("call", "stopped_at", "steps"), [(2, 2, [0]), (7, 6, [0, 5]), (10, 9, [0, 5])])
def test_a_non_finite_loss_ends_it(call: int, stopped_at: int, steps: list[int], tmp_path: Path) -> None:
    """In the first trunk, in the second and in the last branch; called again it ends there again."""
    model = tiny_model("llama")
    count: list[int] = []

    def poison(step: int) -> None:
        count.append(step)
        if len(count) == call:
            next(model.parameters()).data.fill_(math.nan)

    for _ in range(2):
        model = tiny_model("llama")
        history = branched(model, directory=tmp_path, save_every=0.0, on_step=poison)
        assert (history.stop_reason, history.stopped_at) == ("non-finite", stopped_at)
        assert [row["step"] for row in history.rows] == steps
        assert all(math.isfinite(loss) for loss in history.losses)
        assert history.seconds >= history.rows[-1]["seconds"]


def test_a_non_finite_evaluation_ends_it() -> None:
    losses = iter([4.0, 3.0, 2.0, 3.0, math.nan])  # step 0, trunk, branch, trunk, branch
    history = branched(tiny_model("llama"), evaluate=lambda model: {"loss": next(losses)})
    assert (history.stop_reason, history.stopped_at, history.losses) == ("non-finite", 10, [4.0, 2.0])


@pytest.mark.parametrize(
    ("patience", "stopped_at", "reason"), [(0, 20, "finished"), (1, 10, "early"), (2, 15, "early"), (3, 20, "finished")]
)
def test_patience_counts_horizons(patience: int, stopped_at: int, reason: str, tmp_path: Path) -> None:
    """The trunk's own losses, which fall here all the time, don't count."""
    cooled, trunk = iter([3.0, 3.5, 3.0, 2.0]), iter([9.0, 8.0, 7.0, 6.0, 5.0])

    def scores(model: nn.Module) -> dict[str, float]:
        scores.calls += 1  # type: ignore[attr-defined]
        return {"loss": next(cooled if scores.calls > 1 and scores.calls % 2 else trunk)}  # type: ignore[attr-defined]

    scores.calls = 0  # type: ignore[attr-defined]
    config = replace(CONFIG, patience=patience)
    history = branched(tiny_model("llama"), (5, 10, 15, 20), config, evaluate=scores, directory=tmp_path)
    assert (history.stopped_at, history.stop_reason) == (stopped_at, reason)
    assert history.losses == [9.0, 3.0, 3.5, 3.0, 2.0][: 1 + stopped_at // 5]
    again = branched(tiny_model("llama"), (5, 10, 15, 20), config, directory=tmp_path)
    assert again == history


def test_nothing_is_left_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = parameters(model := tiny_model("llama"))
    branched(model)
    assert list(tmp_path.iterdir()) == []
    assert not torch.equal(next(iter(before.values())), next(model.parameters()))


@pytest.mark.parametrize("horizons", [(10, 5), (5, 5), (2, 4), (1,)])
def test_horizons_that_cannot_be_are_refused(horizons: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="horizons: expected increasing"):
        branched(tiny_model("llama"), horizons)


def test_a_warmup_longer_than_the_first_trunk_is_refused() -> None:
    with pytest.raises(InputError, match="at least the 5 steps of warm-up"):
        branched(tiny_model("llama"), config=replace(CONFIG, warmup_steps=5))
