"""A stack's members end as they would by themselves, whatever becomes of the others."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import batches, build, evaluate  # noqa: F401  (build is a fixture)
from torch import nn

from ontogeny.errors import Interrupted
from ontogeny.streams import stream
from ontogeny.training.stacked import Member, train_stack
from ontogeny.training.train import History, TrainConfig, train

Build = Callable[[str], nn.Module]
RATES = ((1e-2, 1e-2), (3e-2, 3e-3), (3e-3, 3e-2))
TOLERANCE = 1e-5  # relative, of losses in single precision


def config(rates: tuple[float, float], **more: Any) -> TrainConfig:
    return TrainConfig(12, *rates, evaluate_at=(4, 8), weight_decay=0.1, **more)


def shifted(by: int) -> Callable[[int], torch.Tensor]:
    return lambda step: batches(1000 * by + step)


def member(model: nn.Module, place: Path, rates: tuple[float, float], by: int = 0, **more: Any) -> Member:
    return Member(model, shifted(by), config(rates, **more), evaluate, place)


def alone(model: nn.Module, rates: tuple[float, float], by: int = 0, **more: Any) -> History:
    return train(model, shifted(by), config(rates, **more), evaluate=evaluate)


def same(found: History, expected: History) -> None:
    assert [row["step"] for row in found.rows] == [row["step"] for row in expected.rows]
    assert found.losses == pytest.approx(expected.losses, rel=TOLERANCE)
    trained = [[row["train_loss"] for row in history.rows[1:]] for history in (found, expected)]
    assert trained[0] == pytest.approx(trained[1], rel=TOLERANCE)
    assert (found.stopped_at, found.stop_reason) == (expected.stopped_at, expected.stop_reason)


@pytest.mark.parametrize("arm", ["dense", "subspace", "mask", "frozen"])
def test_losses_are_those_of_separate_runs(build: Build, arm: str, tmp_path: Path) -> None:  # noqa: F811
    """Each at its own rates, on its own data, from its own start."""

    def start(index: int) -> nn.Module:
        model = build(arm)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.requires_grad:
                    p.add_(0.01 * torch.randn(p.shape, generator=stream(index, name)))
        return model

    members = [member(start(i), tmp_path / str(i), rates, i) for i, rates in enumerate(RATES)]
    told: list[int] = []
    members[0].on_evaluation = lambda rows: told.append(rows[-1]["step"])
    for i, (history, rates) in enumerate(zip(train_stack(members), RATES, strict=True)):
        same(history, alone(model := start(i), rates, i))
        own, other = (dict(m.named_parameters()) for m in (members[i].model, model))
        assert all(torch.allclose(p, other[name], atol=1e-4) for name, p in own.items())
        assert history.seconds > 0
    assert told == [4, 8, 12]


def test_a_member_that_diverges_leaves_the_others_alone(build: Build, tmp_path: Path) -> None:  # noqa: F811
    members = [member(build("dense"), tmp_path / str(i), rates) for i, rates in enumerate([RATES[0], (1e30, 1e30)])]
    good, bad = train_stack(members)
    same(good, alone(build("dense"), RATES[0]))
    assert bad.stop_reason == "non-finite"
    assert bad.stopped_at < 12
    assert all(math.isfinite(loss) for loss in bad.losses)
    lost = [member(build("dense"), tmp_path / f"lost{i}", (1e30, 1e30)) for i in range(2)]
    assert {history.stop_reason for history in train_stack(lost)} == {"non-finite"}


def test_an_interrupted_stack_goes_on(build: Build, tmp_path: Path) -> None:  # noqa: F811
    """Together or one by one, and where one had come further than the others."""

    def begun(stop: int) -> list[Member]:
        members = [member(build("subspace"), tmp_path / str(i), rates, i) for i, rates in enumerate(RATES)]
        plain = members[0].batches

        def interrupt(step: int) -> torch.Tensor:
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(step)

        members[0].batches = interrupt
        return members

    with pytest.raises(Interrupted, match="after step 6 of 12"):
        train_stack(begun(5))
    with pytest.raises(Interrupted, match="after step 8 of 12"):
        train_stack(begun(7)[:1])
    by_itself = train(build("subspace"), shifted(2), config(RATES[2]), evaluate=evaluate, directory=tmp_path / "2")
    found = train_stack(begun(-1)[:2])
    for i, history in enumerate([*found, by_itself]):
        same(history, alone(build("subspace"), RATES[i], i))


def test_bf16(build: Build, tmp_path: Path) -> None:  # noqa: F811
    members = [member(build("dense"), tmp_path / str(i), r, precision="bf16") for i, r in enumerate(RATES[:2])]
    for history, rates in zip(train_stack(members), RATES, strict=False):
        assert history.losses == pytest.approx(alone(build("dense"), rates, precision="bf16").losses, rel=3e-2)
