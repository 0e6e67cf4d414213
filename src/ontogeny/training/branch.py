"""One training run scored at several horizons: a constant-rate trunk, and a cooled-down branch for each horizon."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from ontogeny.errors import InputError
from ontogeny.files import replacing
from ontogeny.model.fast import next_token_loss
from ontogeny.training import together
from ontogeny.training.train import (
    STATE,
    BatchFunction,
    EvaluationFunction,
    History,
    LossFunction,
    TrainConfig,
    patience_over,
    train,
)

COOL_DOWN = 0.2  # share of a horizon, as in the code of Hägele et al. 2024 (github.com/epfml/schedules-and-scaling)


def branch_step(horizon: int) -> int:
    """The trunk's step from which the branch of a horizon is cooled down, ending at step ``horizon``."""
    return round((1 - COOL_DOWN) * horizon)


def branched_steps(horizons: Sequence[int]) -> int:
    """Training steps that ``train_branched`` takes: the trunk to the last branching, and every branch."""
    return branch_step(horizons[-1]) + sum(horizon - branch_step(horizon) for horizon in horizons)


def train_branched(
    model: nn.Module,
    batches: BatchFunction,
    config: TrainConfig,
    horizons: Sequence[int],
    *,
    loss: LossFunction = next_token_loss,
    evaluate: EvaluationFunction,
    directory: Path | None = None,
    save_every: float = 20.0,
    on_step: Callable[[int], None] = lambda step: None,
    on_evaluation: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> History:
    """Train ``model`` once at a constant rate, and from 0.8·H on cool a branch down to zero at each horizon H.

    Cheaper than a run for every horizon and comparable with one (Hägele et al. 2024, arXiv:2405.18392). The trunk
    goes on over the same batches as its branches, so that neither sees a batch twice if ``batches`` repeats none up
    to the last horizon. Rows: step 0, and each branch at its horizon, ``seconds`` being all that was trained until
    then. ``model`` ends as the last branch. ``config`` gives everything but steps, ``evaluate_at`` and the schedule;
    ``patience`` counts horizons; without ``warmup_steps`` the warm-up is ``warmup`` of the first horizon.

    With a ``directory`` a call goes on where one was interrupted, as ``train`` does; a finished branch isn't repeated.
    It keeps a state for the trunk and for every branch. ``on_step`` gets the trunk's or the branch's own step.
    Raises InputError for horizons that don't increase or are too short to warm up and cool down.
    """
    warmup = round(config.warmup * horizons[0]) if config.warmup_steps is None else config.warmup_steps
    _check(horizons, warmup)
    trunk_config = replace(config, warmup_steps=warmup, schedule="constant", evaluate_at=(), patience=0)
    go_on = partial(
        train,
        model,
        batches,
        loss=loss,
        evaluate=evaluate,
        save_every=save_every,
        save_at_end=True,
        on_step=on_step,
    )
    history, cooling = History(), 0.0  # seconds of the finished branches
    with nullcontext(directory) if directory else TemporaryDirectory() as place:
        trunk = Path(place) / "trunk"
        for horizon in horizons:
            branch, start = Path(place) / f"branch-{horizon}", branch_step(horizon)
            part = go_on(replace(trunk_config, steps=start), directory=trunk)
            history.rows = history.rows or part.rows[:1]
            if part.stop_reason == "finished":
                with together.leader_first():
                    _fork(trunk / STATE, branch / STATE)
                cooled = replace(trunk_config, schedule="cooldown", cool_from=start, steps=horizon)
                part = go_on(cooled, directory=branch)  # loads the branch's state into the same model
            history.stopped_at, history.seconds = part.stopped_at, cooling + part.seconds
            if part.stop_reason == "non-finite":
                history.stop_reason = "non-finite"
                break
            history.rows.append(part.rows[-1] | {"seconds": history.seconds})
            cooling += part.rows[-1]["seconds"] - part.rows[-2]["seconds"]  # the row before is the trunk's, at start
            on_evaluation(history.rows)
            if patience_over(history.losses, config.patience):
                history.stop_reason = "early"
                break
    history.stop_reason = history.stop_reason or "finished"
    return history


def _fork(trunk: Path, branch: Path) -> None:
    """Start a branch from the trunk's state, unless it has started."""
    if not branch.exists():
        branch.parent.mkdir(parents=True, exist_ok=True)
        with replacing(branch) as temporary:
            shutil.copyfile(trunk, temporary)


def _check(horizons: Sequence[int], warmup: int) -> None:
    increasing = all(a < b for a, b in pairwise(horizons))
    if not increasing or not warmup <= branch_step(horizons[0]) < horizons[0]:
        raise InputError(
            f"horizons: expected increasing numbers of steps, the first at least 3 and its first {1 - COOL_DOWN:.0%} "
            f"at least the {warmup} steps of warm-up, found {list(horizons)}; give longer horizons or a shorter warm-up"
        )
