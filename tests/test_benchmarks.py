"""The benchmarks at tiny sizes: every field is there and means what it says. Speed is not tested here."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from reported import sketches

from ontogeny.benchmarks import extraction, grid, laboratory, optimisers, training
from ontogeny.benchmarks.bench import run_benchmarks
from ontogeny.benchmarks.extraction import extraction_flops, make_checkpoint, peak_bytes, sine
from ontogeny.benchmarks.measure import cpu_seconds, exponent, product_rate
from ontogeny.benchmarks.optimisers import FULL_STATE, KINDS, upkeep
from ontogeny.benchmarks.training import (
    DENSE,
    Free,
    Shape,
    adapted,
    body_flops,
    dense,
    free,
    kept_bytes,
    low,
    ours,
    parametrized,
    training_step,
    transformers_loss,
)
from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.model.fast import next_token_loss
from ontogeny.model.layers import SubspaceLinear

TINY = Shape(32, 1, 2)
CONFIG = extraction.CONFIG | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
FIELDS = ["name", "value", "unit", "peers", "ratio", "bound", "target", "met"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "ACCURACY_SHAPE", (48, 40))
    monkeypatch.setattr(extraction, "TIMED_SHAPES", ((60, 40), (50, 50), (60, 60)))
    monkeypatch.setattr(extraction, "LARGE", 45)
    monkeypatch.setattr(extraction, "HUGE", 55)
    monkeypatch.setattr(grid, "WIDTHS", (32,))
    monkeypatch.setattr(grid, "BATCHES", (2,))
    monkeypatch.setattr(grid, "MEMBERS", (2, 3))
    monkeypatch.setattr(laboratory, "TRIVIAL", 10)
    monkeypatch.setattr(laboratory, "STORED", (10, 20))
    monkeypatch.setattr(laboratory, "REPLICATES", 2)
    monkeypatch.setattr(extraction, "CONFIG", CONFIG)
    monkeypatch.setattr(training, "SHAPES", (TINY,))
    monkeypatch.setattr(training, "LENGTH", 8)
    monkeypatch.setattr(optimisers, "MASKED", (TINY,))
    monkeypatch.setattr(optimisers, "CORES", 3)
    monkeypatch.setattr(optimisers, "CORE", 4)
    monkeypatch.setattr(optimisers, "LEARNER", TINY)
    monkeypatch.setattr(optimisers, "LEARNT", 2)
    monkeypatch.setattr(optimisers, "CHARACTERS", 60_000)


@pytest.mark.usefixtures("tiny")
def test_every_entry_has_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with sketches():
        run_benchmarks("all", as_json=True)
    entries = json.loads(capsys.readouterr().out)
    assert len({entry["name"] for entry in entries}) == len(entries) >= 15
    for entry in entries:
        assert list(entry) == FIELDS
        assert math.isfinite(entry["value"])
        assert (entry["target"] is None) == (entry["met"] is None)
        assert all("@" in name and math.isfinite(value) for name, value in entry["peers"].items())
        if entry["ratio"] is not None:
            first = next(iter(entry["peers"].values()))
            assert entry["ratio"] == pytest.approx(first / entry["value"])
    met = {entry["name"]: entry["met"] for entry in entries}
    accuracy = [name for name in met if "error" in name or "certificate" in name]
    assert len(accuracy) == 8
    assert all(met[name] for name in accuracy)
    assert all(entry["bound"] > 0 for entry in entries if entry["name"].startswith(("whole step,", "leading")))


@pytest.mark.usefixtures("tiny")
def test_the_table_shows_values_and_peers(capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmarks("training", as_json=False)
    shown = capsys.readouterr().out
    assert "whole step, d 32 × 1, batch 2, fp32" in shown
    assert f"torch.nn.utils.parametrize@{torch.__version__}" in shown


def test_an_unknown_benchmark_is_an_input_error() -> None:
    with pytest.raises(InputError, match="expected extraction, training, optimisers, grid, laboratory or all"):
        run_benchmarks("sorting", as_json=False)


def test_a_growth_that_is_known() -> None:
    assert exponent({n: 7 * n**2.5 for n in (10, 30, 100)}) == pytest.approx(2.5)


def test_sine_of_a_known_angle() -> None:
    plane = torch.eye(4)[:, :2]
    angle = torch.tensor(0.3)
    turned = torch.stack([plane[:, 0], torch.tensor([0, angle.cos(), angle.sin(), 0])], dim=1)
    assert sine(plane, turned) == pytest.approx(math.sin(0.3), rel=1e-6)
    assert sine(plane, plane.flip(1)) == 0


def test_flops_by_hand() -> None:
    assert extraction_flops((3, 5)) == extraction_flops((5, 3)) == 3 * 3 * 5 + 4 / 3 * 27
    full, core = body_flops(TINY)  # 4 of 32×32 at rank 3; feed-forward width 96: 3 of 96×32 at rank 3
    assert full == 6 * (4 * 32 * 32 + 3 * 96 * 32)
    assert core == 4 * (4 * 3 * 64 + 6 * 9) + 3 * (4 * 3 * 128 + 6 * 9)


def test_the_checkpoint_has_the_shapes_it_should(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, CONFIG)
    checkpoint = open_checkpoint(tmp_path)
    assert {stored.file for stored in checkpoint.tensors.values()} == {"model-0.safetensors", "model-rest.safetensors"}
    assert {stored.dtype for stored in checkpoint.tensors.values()} == {"BF16"}
    shapes = {site.name.removeprefix("layers.0."): site.shape for site in checkpoint.sites}
    assert shapes["attention.key"] == (16, 32)
    assert shapes["mlp.down"] == (32, 64)
    assert set(checkpoint.embeddings()) == {"model.embed_tokens.weight"}


def test_parametrize_is_the_same_model() -> None:
    windows = torch.arange(18).reshape(2, 9)
    losses = [next_token_loss(make(TINY), windows).item() for make in (ours, parametrized)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    trained = [sum(p.numel() for p in make(TINY).parameters() if p.requires_grad) for make in (ours, parametrized)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("make", [dense, ours, low, adapted, parametrized, free])
def test_a_step_trains_every_parameter(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LENGTH", 8)
    model = make(TINY)  # type: ignore[operator]
    before = [p.detach().clone() for p in model.parameters()]
    training_step(model, 2, torch.float32)()
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, new) != new.requires_grad
    assert any(isinstance(m, SubspaceLinear) for m in model.modules()) == (make in (ours, adapted))


def test_what_is_kept_is_counted_once_and_without_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LENGTH", 8)

    def loss(model: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
        y = model(windows.float()).tanh()
        total: torch.Tensor = (y * y[:, :1]).sum()  # y and a view of it
        return total

    assert kept_bytes(torch.nn.Linear(9, 3), 5, loss) == 4 * 5 * (9 + 3)


def test_the_bench_compares_with_what_transformers_computes() -> None:
    windows = torch.arange(18).reshape(2, 9)
    losses = [loss(dense(TINY), windows).item() for loss in (next_token_loss, transformers_loss)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("d_out", [3, 5, 9])
def test_a_free_layer_has_the_shape_and_keeps_gradients_flowing(d_out: int) -> None:
    x = torch.randn(2, 4, 5, requires_grad=True)
    layer = Free(d_out)
    y = layer(x)
    assert y.shape == (2, 4, d_out)
    assert y.requires_grad
    assert layer(x).data_ptr() == y.data_ptr()
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Free(d_out)(x).dtype == torch.bfloat16


def test_a_stacked_step_is_the_separate_one() -> None:
    config, its = TINY.config() | {"vocab_size": 64}, grid.windows(2, 64, 8)
    models, apart = ([grid.network(config, seed) for seed in (0, 1)] for _ in range(2))
    together = grid.stacked(models, its)
    for _ in range(2):
        together()
    for model, other in zip(models, apart, strict=True):
        step = grid.separate(other, its)
        for _ in range(2):
            step()
        expected = dict(other.named_parameters())
        assert all(torch.allclose(p, expected[name], atol=1e-5) for name, p in model.named_parameters())


def test_kinds_of_masked_layers_are_one_matrix_under_upkeep() -> None:
    """The dead stay at zero with a state of their own too, and the rest is the same."""
    weights, keeps = [torch.randn(6, 5)], [torch.rand(6, 5) < 0.4]
    layers: dict[str, Any] = {name: kind(weights[0], keeps[0]) for name, kind in KINDS.items()}
    for name, layer in layers.items():
        step, optimizer = upkeep(lambda W, keep, layer=layer: layer, weights, keeps)  # type: ignore[misc]
        for _ in range(3):
            step()
        held = {state["exp_avg"].numel() for state in optimizer.state.values()}
        assert held == {int(keeps[0].sum()) if name == "ours" else 30}
    torch.testing.assert_close(layers["ours"].weight, layers[FULL_STATE].weight)
    assert torch.count_nonzero(layers[FULL_STATE].weight[~keeps[0]]) == 0
    assert torch.count_nonzero(layers[DENSE].weight) == 30


def test_times_and_rates_are_positive() -> None:
    calls: list[str] = []
    seconds = cpu_seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 3
    assert all(value >= 0 for value in seconds.values())
    assert product_rate(torch.float64, n=64) > 0
    assert peak_bytes() > 10e6
