"""Stage 2: the small model that all builders share, its text, its teacher; and its figure."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import smoke
import torch
from reported import csv_of, sketches
from tiny import VOCABULARY, tiny_checkpoint, tiny_model
from torch import Tensor, nn

from ontogeny.benchmarks.made_up import conduct, outlined
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.lab.experiment import Arm, Rates, Run, Setting
from ontogeny.lab.experiments import stage2
from ontogeny.lab.experiments.stage2_figures import loss_at, tokens_to
from ontogeny.lab.judge import assess
from ontogeny.lab.networks import Lab, build, distilled
from ontogeny.lab.report.page import write_report
from ontogeny.lab.store import open_store
from ontogeny.lab.tasks import make_task
from ontogeny.model.grow import budgeted, parameters
from ontogeny.terminal.lab import run_experiment
from ontogeny.training.text import Corpus, tokenise, train_tokenizer


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(open_store(tmp_path / "store"), {"d": tiny_checkpoint("llama", tmp_path / "d")})


def run_of(arm: Arm, lab: Lab, **changes: object) -> Run:
    config = open_checkpoint(lab.donors["d"]).config
    model = budgeted(config, 0.6, parameters)
    setting = Setting(model, "t" * 64, ("d",), "50%", 8, 2, 4, (4,), 4, grown=True)
    return Run(replace(setting, **changes), arm, "fresh", Rates(0.01, 0.01), "test", 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", stage2.FULL_ARMS)
def test_every_builder_makes_the_same_small_model(kind: str, lab: Lab) -> None:
    run = run_of(stage2.FULL_ARMS[kind], lab)
    model, genome = build(run, lab)
    assert model.get_input_embeddings().weight.shape[1] == run.setting.model["hidden_size"] < 32  # type: ignore[operator]
    assert (genome is not None) is (kind in ("grown", "random", "coherent", "undeveloped", "released"))
    logits = model(input_ids=torch.arange(8)[None]).logits
    assert logits.shape == (1, 8, VOCABULARY)
    assert logits.isfinite().all()


def test_the_teachers_loss_in_closed_form(lab: Lab) -> None:
    student, teacher = tiny_model("llama", seed=5), tiny_model("llama")
    windows = torch.arange(18).view(2, 9) % VOCABULARY
    loss = distilled(run_of(stage2.ARMS["distilled"], lab), lab, lambda step: windows)

    @torch.no_grad()
    def softened(model: nn.Module, temperature: float) -> Tensor:
        logits: Tensor = model(input_ids=windows[:, :-1]).logits.double()
        return (logits / temperature).log_softmax(-1).flatten(0, 1)

    p, q = softened(teacher, 2.0), softened(student, 2.0)
    divergence = float((p.exp() * (p - q)).sum(-1).mean())
    own = -float(softened(student, 1.0)[np.arange(16), windows[:, 1:].flatten()].mean())
    assert float(loss(student, windows)) == pytest.approx(0.5 * own + 0.5 * 4 * divergence, rel=1e-5)
    loss(student, windows).backward()
    assert all(p.grad is not None for p in student.parameters())


def test_a_repeated_text_is_the_shorter_for_it(lab: Lab) -> None:
    documents = tuple(f"a gene of the net {i} keeps the axis of rank {i * i}" for i in range(200))
    corpus = Corpus("made up", documents, "c" * 64)
    tokens = tokenise(corpus, train_tokenizer(corpus, 300), None, lab.store.root / "tokens")
    changes = {"tokens": tokens.digest, "steps": 16, "model": {"vocab_size": 300}}
    read = {}
    for repeats in (1, 4):
        task = make_task(run_of(stage2.ARMS["scratch"], lab, repeats=repeats, **changes), lab.store)
        rows = [tuple(row) for step in range(16) for row in task.batches(step)[:, :-1].tolist()]
        read[repeats] = (len(rows), len(set(rows)))
    assert read == {1: (32, 32), 4: (32, 8)}


def test_all_builders_stand_on_one_figure(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    conduct(outlined("stage2", table="full"), store, worth=lambda arm: 0.1 * arm.name.startswith("grown"))
    with sketches():
        paths = write_report(store, tmp_path / "r.html")
    rows = csv_of(paths, "-loss-by-data.csv")
    assert {row["builder"] for row in rows} == {*stage2.FULL_ARMS, stage2.WHOLE.name}
    assert len({row["distinct tokens"] for row in rows if row["builder"] != "distilled-shorter"}) == 3
    assert any(path.name.endswith("-loss-by-data.png") for path in paths)


def test_equal_costs_in_closed_form(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    experiment = outlined("stage2")
    conduct(experiment, store, worth=lambda arm: 0.1 * arm.name.startswith("grown"))
    arms = assess(experiment, store).arms
    grown, scratch = (arms["fresh", name] for name in ("grown", "scratch"))
    a_step = experiment.setting.batch * experiment.setting.length
    steps, losses, *_ = zip(*grown.curve, strict=True)
    assert losses[-1] < scratch.curve[-1][1]
    expected = np.interp(-scratch.curve[-1][1], [-loss for loss in losses], steps)
    assert tokens_to(grown, scratch, a_step) == pytest.approx(a_step * expected)
    assert tokens_to(scratch, grown, a_step) is None
    assert scratch.flops
    half = replace(grown, flops=2 * scratch.flops)
    assert loss_at(half, scratch) == pytest.approx(np.interp(steps[-1] / 2, steps, losses))
    assert loss_at(scratch, half) is None


def test_a_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every builder trains and is judged, with the least text alone beside all of it."""
    monkeypatch.setattr(stage2, "SIZES", {"": 1, stage2.LEAST: 16})
    smoke.one_rate(monkeypatch)
    text = [str(smoke.write_text(tmp_path / "text.jsonl"))]
    settings = [*smoke.SETTINGS, "steps=12", "evaluate_at=12", "replicates=1"]
    run_experiment("stage2", "smoke", tmp_path / "store", settings, text=text, engine="local")
    assert capsys.readouterr().out.count("undecided (smoke)") == 4
