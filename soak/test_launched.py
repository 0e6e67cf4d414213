"""``torchrun -m ontogeny run``: two processes that share every run find what one finds, from donors to verdicts."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import smoke
from conftest import Figure

from ontogeny.lab.store import open_store

LAUNCHED = {"one": ("-m",), "two": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")}


def run(root: Path, text: Path, *launched: str) -> dict[tuple[str, int], list[float]]:
    """An experiment in a store of its own; the losses of its donors and runs."""
    words = ["run", "convergence", "--scale", "smoke", "--engine", "local", "--text", str(text), "--store", str(root)]
    words += [word for setting in smoke.SETTINGS for word in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launched, "ontogeny", *words], env=environment, check=True, timeout=300)
    results = [result for result in open_store(root).results() if result["kind"] in ("donor", "arm")]
    return {(r["id"], r.get("replicate", 0)): [loss for _, loss in r["losses"]] for r in results}


def test_two_processes_run_an_experiment(tmp_path: Path, figure: Figure) -> None:
    text = smoke.write_text(tmp_path / "text.jsonl")
    one, two = (run(tmp_path / name, text, *launched) for name, launched in LAUNCHED.items())
    assert one.keys() == two.keys(), "the same rates were tried and chosen"
    worst = max(np.abs(np.divide(two[key], losses) - 1).max() for key, losses in one.items())
    assert worst < 2e-5
    figure(
        "several processes",
        f"{len(one)} donors and runs of an experiment by `torchrun` on two processes: the same runs, losses within "
        f"{worst:.0e} of one process's, relative",
    )
