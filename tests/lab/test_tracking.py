"""Trackers get what the history gets; those that can't be had are refused."""

from pathlib import Path
from typing import Any

import pytest

from ontogeny.errors import InputError
from ontogeny.lab.networks import Lab
from ontogeny.lab.store import Store
from ontogeny.lab.tracking import check_tracker, telling
from ontogeny.training.train import TrainConfig

CONFIG = TrainConfig(steps=4, body_rate=0.01, rest_rate=0.002)
ROWS: list[dict[str, Any]] = [
    {"step": 0, "loss": 4.0, "train_loss": None, "seconds": 0.0},
    {"step": 2, "loss": 3.0, "train_loss": 3.5, "seconds": 0.5},
    {"step": 4, "loss": 2.5, "train_loss": 2.75, "seconds": 1.0},
]


def test_tensorboard_gets_every_row_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard isn't installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    check_tracker("tensorboard")
    with telling(tmp_path, "fresh donor", CONFIG, Lab(Store(tmp_path / "store"), {}, track="tensorboard")) as tell:
        tell(ROWS[:2])
        tell(ROWS)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 3
    found = EventAccumulator(str(tmp_path / "store" / "tracking" / "fresh donor")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(0, 4.0), (2, 3.0), (4, 2.5)]
    assert [(event.step, event.value) for event in found.Scalars("train_loss")] == [(2, 3.5), (4, 2.75)]
    assert [event.value for event in found.Scalars("body_rate")] == pytest.approx([0.01] * 3)


def test_without_a_tracker_there_is_the_history_alone(tmp_path: Path) -> None:
    with telling(tmp_path, "fresh donor", CONFIG, Lab(Store(tmp_path / "store"), {})) as tell:
        tell(ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


def test_what_cant_be_had_is_refused_first() -> None:
    with pytest.raises(InputError, match=r"--track .abacus.: expected .*tensorboard"):
        check_tracker("abacus")
    with pytest.raises(InputError, match="--track aim: its package isn't installed: pip install aim"):
        check_tracker("aim")
