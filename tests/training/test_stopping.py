"""A signal ends a run wherever it comes."""

import math
import os
import signal

from test_train import RESUMABLE, run
from tiny import tiny_model
from torch import nn


def test_a_signal_in_an_evaluation_that_ends_the_run_is_not_lost() -> None:
    """The loop ends without looking again: whoever handled the signal before hears of it."""
    losses = iter([4.0, 3.0, math.inf])

    def evaluate(model: nn.Module) -> dict[str, float]:
        if (loss := next(losses)) == math.inf:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": loss}

    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        assert run(tiny_model("llama"), RESUMABLE, evaluate=evaluate).stop_reason == "non-finite"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
