"""Killed at any moment, a run goes on to the same bits."""

import signal
from functools import partial
from pathlib import Path
from unittest.mock import patch

import children
import torch
from children import EVALUATE, SAVE, STEP, Watch
from conftest import Figure
from laboratory import STEPS, beside, one_run, prepared, science
from safetensors.torch import load_file

from ontogeny.files import read_json
from ontogeny.lab.experiment import Run
from ontogeny.lab.networks import Lab
from ontogeny.streams import numpy_stream

KILLS = 50


def child(run: Run, lab: Lab, watch: Watch) -> None:
    """A run whose last training state is kept, for its optimiser's."""
    from ontogeny.lab import run as run_module

    with children.watched_training(watch), patch.object(run_module, "clear_checkpoint", lambda directory: None):
        run_module.run(run, lab)


def outcome(run: Run, lab: Lab) -> tuple[dict[str, object], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The result, the network, and the last state with its optimiser's moments."""
    directory = lab.store.run_directory(run.id, run.replicate)
    state = load_file(directory / "checkpoint" / "state.safetensors")
    return science(read_json(directory / "result.json")), load_file(directory / "network.safetensors"), state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_resume_is_bitwise(tmp_path: Path, figure: Figure) -> None:
    plan = prepared(tmp_path / "store")
    run, lab, rng = one_run(plan), beside(plan, tmp_path / "whole"), numpy_stream(0, "kills")
    watch = Watch()
    assert children.finish(children.start(child, run, lab, watch)) == 0
    result, network, state = outcome(run, lab)
    assert len(state) >= 4 * len(network)  # value, step and two moments of everything trained
    struck, identical, attempts = dict.fromkeys((STEP, EVALUATE, SAVE), 0), 0, 0
    while sum(struck.values()) < KILLS:
        attempts += 1
        lab, watch = beside(plan, tmp_path / f"{attempts}"), Watch()
        phase, step = min(struck, key=lambda name: struck[name]), int(rng.integers(0, STEPS - 1))
        process = children.start(child, run, lab, watch)
        there = partial(watch.reached, phase, step)
        if not children.strike(process, signal.SIGKILL, there, delay=float(rng.uniform(0, 0.01))):
            continue  # it ended before
        assert children.finish(process) == -signal.SIGKILL
        struck[phase] += 1
        assert not lab.store.result(run.id, run.replicate)
        assert children.finish(children.start(child, run, lab, Watch())) == 0
        again, *tensors = outcome(run, lab)
        identical += again == result and same(tensors[0], network) and same(tensors[1], state)
    where = ", ".join(f"{count} in {phase}" for phase, count in struck.items())
    figure(
        "resume is bitwise on CPU",
        f"{identical} of {KILLS} runs killed with SIGKILL ({where}) ended with identical weights, optimiser state and "
        "result",
    )
    assert identical == KILLS
