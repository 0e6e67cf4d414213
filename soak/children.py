"""Processes that are there to be killed, forked from one server that has imported everything."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

PATIENCE = 120.0  # seconds that a child is given
STEP, EVALUATE, SAVE, PREPARE = "step", "evaluate", "save", ""
PHASES = (PREPARE, STEP, EVALUATE, SAVE)

context: ForkServerContext = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["preloaded"])


class Watch:
    """What a child tells through shared memory: its phase, its last finished step, the longest step and save."""

    def __init__(self) -> None:
        self.phase_index = context.Value("i", 0, lock=False)
        self.begun = 0.0
        self.step = context.Value("i", 0, lock=False)
        self.longest = {phase: context.Value("d", 0.0, lock=False) for phase in PHASES}  # seconds

    @property
    def phase(self) -> str:
        return PHASES[self.phase_index.value]

    def reached(self, phase: str, step: int) -> bool:
        """Whether it is in this phase, with so many steps done."""
        return self.step.value >= step and self.phase == phase

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        before, started = self.phase_index.value, time.monotonic()
        self.phase_index.value = PHASES.index(phase)
        yield
        self.phase_index.value = before
        self.took(phase, time.monotonic() - started)

    def took(self, phase: str, seconds: float) -> None:
        self.longest[phase].value = max(self.longest[phase].value, seconds)


def start(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    process = context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def finish(process: ForkServerProcess) -> int:
    """Wait for a child's end; its exit code."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "a child hangs"
    return process.exitcode


def strike(process: ForkServerProcess, number: int, condition: Callable[[], bool], delay: float) -> bool:
    """Send the signal once the delay is over and the condition holds; False where the child ended before."""
    _wait(process, condition)
    time.sleep(delay)
    _wait(process, condition)
    if not process.is_alive():
        return False
    assert process.pid is not None
    os.kill(process.pid, number)
    return True


def _wait(process: ForkServerProcess, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and process.is_alive():
        assert time.monotonic() < deadline, "a child never came to that"
        time.sleep(0.0002)


@contextmanager
def watched_training(watch: Watch) -> Iterator[None]:
    """Training tells where it is, and saves its state after every step."""
    from ontogeny.lab import run as run_module
    from ontogeny.training import train as train_module

    plain_train, plain_save = train_module.train, train_module.save_state

    def train(model: Any, batches: Any, config: Any, *, evaluate: Any, **options: Any) -> Any:
        def evaluated(model: Any) -> Any:
            with watch.during(EVALUATE):
                return evaluate(model)

        def begun(step: int) -> Any:
            watch.begun = time.monotonic()
            watch.step.value = step  # in a new run no longer the last one's
            watch.phase_index.value = PHASES.index(STEP)
            return batches(step)

        def ended(step: int) -> None:
            watch.step.value = step
            watch.took(STEP, time.monotonic() - watch.begun)  # with its evaluation, if it has one
            watch.phase_index.value = PHASES.index(PREPARE)

        options |= {"evaluate": evaluated, "on_step": ended, "save_every": 0.0}
        return plain_train(model, begun, config, **options)

    def save(*arguments: Any) -> None:
        with watch.during(SAVE):
            plain_save(*arguments)

    with patch.object(run_module, "train", train), patch.object(train_module, "save_state", save):
        yield


def command_line(watch: Watch | None, log: Path, *words: str) -> None:
    """``ontogeny WORDS`` in this child, its output in ``log``."""
    from ontogeny.cli import main

    sys.argv = ["ontogeny", *words]
    with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        if watch is None:
            main()
        else:
            with watched_training(watch):
                main()
