"""SIGTERM, as a cluster sends it before it takes a machine away: what is done is saved, at once."""

import json
import signal
import time
from functools import partial
from pathlib import Path

import children
from children import EVALUATE, SAVE, STEP, Watch
from conftest import Figure
from laboratory import SETTINGS, STEPS, prepared
from safetensors import safe_open
from safetensors.torch import save_file

from ontogeny.genome.linalg import haar
from ontogeny.streams import numpy_stream, stream

TIMES = 5  # in each of step, evaluation and save
ENDING = 1.0  # seconds for a Python process to close down


def status(root: Path, log: Path) -> dict[str, str]:
    """The one row of ``ontogeny status``, by column."""
    assert children.finish(children.start(children.command_line, None, log, "status", "--store", str(root))) == 0
    heads, cells = (
        [cell.strip() for cell in line.strip("┃│ \n").split(bar)]
        for bar, word in (("┃", "interrupted"), ("│", "smoke"))
        for line in log.read_text().splitlines()
        if word in line
    )
    return dict(zip(heads, cells, strict=True))


def steps_saved(root: Path) -> list[int]:
    """After how many steps each state was saved."""
    found = []
    for path in root.glob("runs/*/replicate-*/checkpoint/state.safetensors"):
        with safe_open(path, "pt") as file:
            found.append(json.loads(file.metadata()["history"])["stopped_at"])
    return found


def results(root: Path) -> set[Path]:
    """Of runs that are over."""
    return set(root.glob("runs/*/replicate-*/result.json"))


def test_a_run_is_saved_and_out(tmp_path: Path, figure: Figure) -> None:
    plan, rng = prepared(tmp_path / "store"), numpy_stream(0, "preemption")
    words = ["run", "convergence", "--scale", "smoke", "--text", str(tmp_path / "text.jsonl"), "--engine", "local"]
    words += ["--store", str(plan.lab.store.root), *(word for setting in SETTINGS for word in ("--set", setting))]
    slowest, allowed, log = 0.0, 0.0, tmp_path / "log"
    for phase in (STEP, EVALUATE, SAVE) * TIMES:
        watch, before = Watch(), results(plan.lab.store.root)
        process = children.start(children.command_line, watch, log, *words)
        there = partial(watch.reached, phase, int(rng.integers(1, STEPS - 1)))
        assert children.strike(process, signal.SIGTERM, there, delay=0.0)
        started, step = time.monotonic(), watch.step.value
        assert children.finish(process) == 130
        seconds = time.monotonic() - started
        assert log.read_text().splitlines()[-1].startswith("ontogeny: stopped")
        over = results(plan.lab.store.root) - before  # the signal may come when a run's last step is done
        assert {step, step + 1} & {*steps_saved(plan.lab.store.root), *([STEPS] if over else [])}
        shown = status(plan.lab.store.root, log)
        assert step >= STEPS - 1 or int(shown["interrupted"]) >= 1, shown  # a search may ask for another run first
        assert shown["running"] == "0", shown
        slowest = max(slowest, seconds)
        allowed = max(allowed, watch.longest[STEP].value + watch.longest[SAVE].value)
        assert seconds < watch.longest[STEP].value + watch.longest[SAVE].value + ENDING
    figure(
        "preemption: a run",
        f"{3 * TIMES} SIGTERMs ({TIMES} each in step, evaluation and save): the step in hand saved, out within "
        f"{slowest:.2f} s (the longest step with its evaluation and save: {allowed:.2f} s), exit 130, status "
        "“interrupted”",
    )


def test_an_extraction_is_out(tmp_path: Path, figure: Figure) -> None:
    """What it has read is a function of the checkpoint: nothing is lost, and nothing half-written is left."""
    weights, out, log = tmp_path / "w.safetensors", tmp_path / "genome", tmp_path / "log"
    save_file({f"{i}.weight": haar(768, 768, stream(0, "wide", i)).float().contiguous() for i in range(40)}, weights)
    words = ("extract", str(weights), "--pattern", ".", "--rank", "10%", "--out", str(out))
    rng, slowest = numpy_stream(0, "extraction"), 0.0
    for _ in range(TIMES):
        process = children.start(children.command_line, None, log, *words)
        assert children.strike(process, signal.SIGTERM, log.exists, delay=float(rng.uniform(0.3, 1.5)))
        started = time.monotonic()
        assert children.finish(process) == 130
        slowest = max(slowest, time.monotonic() - started)
        told = (f"{out} is not written; rerun to start again", "what is finished is kept, rerun to go on")
        assert log.read_text() in [f"ontogeny: stopped: {line}\n" for line in told]  # the second: before it had begun
        assert {path.name for path in tmp_path.iterdir()} == {"w.safetensors", "log"}
    assert slowest < 2 * ENDING
    figure("preemption: an extraction", f"{TIMES} SIGTERMs: out within {slowest:.2f} s, nothing half-written left")
