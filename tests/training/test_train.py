"""The loop: against Adam written out, its schedule and rates, resume to the bit, and every way it may end."""

import itertools
import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny import VOCABULARY, tiny_checkpoint, tiny_model
from torch import Tensor, nn

from ontogeny.errors import Interrupted
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.model.constrain import body_parameters, constrain
from ontogeny.model.fast import next_token_loss
from ontogeny.model.initialise import donor_embeddings
from ontogeny.model.layers import MaskedLinear
from ontogeny.streams import stream
from ontogeny.training.train import History, TrainConfig, evaluation_loss, learning_rate_scale, train


def batches(step: int) -> Tensor:
    """A sequence that can be learnt: every token is the one before plus 3."""
    start = torch.randint(0, VOCABULARY, (4, 1), generator=stream(0, "start", step))
    return (start + 3 * torch.arange(17)) % VOCABULARY


def evaluate(model: nn.Module) -> dict[str, float]:
    return {"loss": evaluation_loss(model, batches(-1))}


def run(model: nn.Module, config: TrainConfig, **options: Any) -> History:
    return train(model, batches, config, **({"evaluate": evaluate} | options))


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], nn.Module]:
    """A tiny Llama by its arm: dense, subspace, mask, or with the donor's frozen embeddings."""
    donor = open_checkpoint(tiny_checkpoint("llama", tmp_path_factory.mktemp("donor"), seed=9))

    def build(arm: str) -> nn.Module:
        model: nn.Module = tiny_model("llama")
        if arm in ("subspace", "muon", "mask"):
            constrain(model, extract(donor, Recipe(density="30%") if arm == "mask" else Recipe(rank="50%")))
        return donor_embeddings(model, donor, trainable=False) if arm == "frozen" else model

    return build


ARMS = ("dense", "subspace", "mask", "frozen")


@pytest.mark.parametrize("arm", ARMS)
def test_a_learnable_sequence_is_learnt(build: Callable[[str], nn.Module], arm: str) -> None:
    model = build(arm)
    before = parameters(model)
    history = run(model, TrainConfig(80, 1e-2, 1e-2, evaluate_at=(20, 40)))
    assert [row["step"] for row in history.rows] == [0, 20, 40, 80]
    assert history.stop_reason == "finished"
    assert history.stopped_at == 80
    assert history.losses[0] > math.log(VOCABULARY) - 0.5
    assert history.losses[-1] < 1 < history.losses[1] < history.losses[0]
    assert evaluate(model)["loss"] == history.losses[-1]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    for layer in model.modules():
        if isinstance(layer, MaskedLinear):
            assert torch.equal(layer.weight != 0, layer.keep)


def test_frozen_embeddings_do_not_move(build: Callable[[str], nn.Module]) -> None:
    model = build("frozen")
    embeddings = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]  # type: ignore[operator]
    before = [weight.clone() for weight in embeddings]
    run(model, TrainConfig(3, 1e-2, 1e-2, weight_decay=0.5))
    assert all(torch.equal(a, b) for a, b in zip(embeddings, before, strict=True))


def adam_by_hand(model: nn.Module, config: TrainConfig) -> list[float]:
    """Loshchilov & Hutter 2019, algorithm 2, after clipping the whole gradient's norm; no torch.optim."""
    body, named = body_parameters(model), dict(model.named_parameters())
    first = {name: torch.zeros_like(p) for name, p in named.items()}
    second = {name: torch.zeros_like(p) for name, p in named.items()}
    losses = []
    for step in range(config.steps):
        loss = next_token_loss(model, batches(step))
        losses.append(loss.item())
        gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        for name, parameter in named.items():
            g = gradients[name] * min(1.0, config.clip / norm)
            peak = config.body_rate if name in body else config.rest_rate
            rate, (b1, b2), t = peak * learning_rate_scale(step, config), config.betas, step + 1
            first[name].mul_(b1).add_((1 - b1) * g)
            second[name].mul_(b2).add_((1 - b2) * g**2)
            update = (first[name] / (1 - b1**t)) / ((second[name] / (1 - b2**t)).sqrt() + 1e-8)
            parameter.data -= rate * (update + config.weight_decay * parameter.data)
    return losses


def bare_loop(model: nn.Module, config: TrainConfig) -> list[float]:
    """What a reader would write with torch alone."""
    body = body_parameters(model)
    rates = {True: config.body_rate, False: config.rest_rate}
    groups = [
        {"params": [p for name, p in model.named_parameters() if (name in body) == inside], "peak": rate}
        for inside, rate in rates.items()
    ]
    optimizer = torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)
    losses = []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_scale(step, config)
        loss = next_token_loss(model, batches(step))
        losses.append(loss.item())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize("arm", ["dense", "subspace"])
def test_losses_are_those_of_adamw_by_hand(build: Callable[[str], nn.Module], arm: str) -> None:
    config = TrainConfig(12, 2e-2, 5e-3, evaluate_at=tuple(range(13)), weight_decay=0.1, clip=0.5)
    losses = [row["train_loss"] for row in run(build(arm), config).rows[1:]]
    assert losses == bare_loop(build(arm), config)  # to the bit
    assert losses == pytest.approx(adam_by_hand(build(arm), config), rel=1e-5)


def test_schedule_values() -> None:
    config = TrainConfig(100, 1.0, 1.0)
    scale = [learning_rate_scale(step, config) for step in range(101)]
    assert scale[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert scale[10] == 1
    assert scale[55] == pytest.approx(0.5)
    assert scale[100] == pytest.approx(0)
    assert all(a > b > 0 for a, b in itertools.pairwise(scale[10:100]))
    assert learning_rate_scale(0, TrainConfig(1, 1.0, 1.0)) == 1  # even one step is taken
    assert learning_rate_scale(0, TrainConfig(100, 1.0, 1.0, warmup=0.0)) == 1


def test_constant_and_cooldown_schedule_values() -> None:
    """The trunk is the same function of the step for every length; the cool-down is 1 − √x and zero at the end."""
    constant = [TrainConfig(steps, 1.0, 1.0, warmup_steps=8, schedule="constant") for steps in (80, 1000)]
    short, long = ([learning_rate_scale(step, config) for step in range(80)] for config in constant)
    assert short == long == [0.125 * i for i in range(1, 9)] + [1.0] * 72
    cooldown = TrainConfig(100, 1.0, 1.0, warmup_steps=8, schedule="cooldown", cool_from=80)
    scale = [learning_rate_scale(step, cooldown) for step in range(101)]
    assert scale[:80] == short
    assert [scale[80 + i] for i in (0, 5, 20)] == pytest.approx([1, 0.5, 0])  # 1 − √0, 1 − √¼, 1 − √1
    assert scale[80:] == pytest.approx(1 - np.sqrt(np.linspace(0, 1, 21)))
    share = TrainConfig(50, 1.0, 1.0, warmup=0.2, schedule="constant")
    assert [learning_rate_scale(step, share) for step in (0, 4, 9, 49)] == pytest.approx([0.1, 0.5, 1, 1])


@pytest.mark.parametrize("arm", ["dense", "subspace", "mask"])
@pytest.mark.parametrize("resting", ["body", "rest"])
def test_a_rate_of_zero_leaves_its_group_untouched(build: Callable[[str], nn.Module], arm: str, resting: str) -> None:
    model = build(arm)
    before, body = parameters(model), body_parameters(model)
    run(model, TrainConfig(3, 0.0 if resting == "body" else 1e-2, 0.0 if resting == "rest" else 1e-2))
    assert body
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == ((name in body) == (resting == "body")), name


def test_evaluation_loss_is_the_mean_over_windows(build: Callable[[str], nn.Module]) -> None:
    model = build("dense")
    windows = torch.cat([batches(step) for step in range(3)])[:10]
    expected = sum(next_token_loss(model, window[None]).item() for window in windows) / 10
    assert evaluation_loss(model, windows, size=4) == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():
        log_probabilities = model(input_ids=windows[:, :-1]).logits.log_softmax(-1)
    by_hand = -log_probabilities.gather(-1, windows[:, 1:, None]).mean()
    assert expected == pytest.approx(float(by_hand), rel=1e-6)


RESUMABLE = TrainConfig(12, 1e-2, 2e-2, evaluate_at=tuple(range(13)), weight_decay=0.1)


def terminate_at(*steps: int) -> Callable[[int], None]:
    def on_step(step: int) -> None:
        if step in steps:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


def state_of(directory: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_file(directory / "state.safetensors")
    return state


def rows(history: History) -> list[dict[str, Any]]:
    """Everything but the time it took."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history.rows]


def finish(model: nn.Module, config: TrainConfig, directory: Path) -> History:
    """Go on to the end; the SIGTERM at the last step is there to have the whole final state saved."""
    with pytest.raises(Interrupted, match="12 of 12"):
        run(model, config, directory=directory, on_step=terminate_at(12))
    return run(model, config, directory=directory)


@pytest.mark.parametrize("arm", [*ARMS, "muon"])
def test_an_interrupted_run_goes_on_to_the_bit(build: Callable[[str], nn.Module], arm: str, tmp_path: Path) -> None:
    """Weights, optimiser state and losses; terminated twice, each time in a fresh model."""
    config = replace(RESUMABLE, optimizer="muon" if arm == "muon" else "adamw")
    whole = build(arm)
    expected = finish(whole, config, tmp_path / "whole")
    assert expected.stop_reason == "finished"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for step in (5, 6):
        with pytest.raises(Interrupted, match=f"after step {step} of 12"):
            run(build(arm), config, directory=tmp_path / "parts", on_step=terminate_at(step))
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    resumed = build(arm)
    seen: list[int] = []
    found = finish(resumed, config, tmp_path / "parts")
    run(build(arm), config, directory=tmp_path / "parts", on_step=seen.append)
    assert seen == []  # nothing is left to do
    assert rows(found) == rows(expected)
    assert found.stopped_at == 12
    assert all(torch.equal(p, q) for p, q in zip(resumed.parameters(), whole.parameters(), strict=True))
    one, other = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    trained, muon = sum(p.requires_grad for p in whole.parameters()), 14 if arm == "muon" else 0
    assert len(one) == 4 * trained - 2 * muon  # value, step, two moments; or value and momentum


def die_in_a_save(directory: Path) -> None:
    """Train until the state of step 8 is half written."""

    def save_and_die(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata=metadata)
        if '"stopped_at": 8' in metadata["history"]:
            path.write_bytes(path.read_bytes()[:1000])
            os.kill(os.getpid(), signal.SIGKILL)

    with patch("ontogeny.training.train.save_file", save_and_die):
        run(tiny_model("llama"), RESUMABLE, directory=directory, save_every=0.0)


def test_a_run_killed_while_it_saves_goes_on_to_the_bit(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing step 8: step 7 is still there, whole."""
    killed = multiprocessing.get_context("fork").Process(target=die_in_a_save, args=(tmp_path / "parts",))
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    whole, resumed = tiny_model("llama"), tiny_model("llama")
    seen: list[int] = []
    expected = run(whole, RESUMABLE)
    found = run(resumed, RESUMABLE, directory=tmp_path / "parts", on_step=seen.append)
    assert seen == [8, 9, 10, 11, 12]
    assert rows(found) == rows(expected)
    assert all(torch.equal(p, q) for p, q in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_a_run_that_stops_early_ends_there_again(build: Callable[[str], nn.Module], tmp_path: Path) -> None:
    config = TrainConfig(12, 1e-2, 1e-2, evaluate_at=tuple(range(13)), patience=1)
    for _ in range(2):
        options: dict[str, Any] = {"directory": tmp_path, "save_at_end": True, "evaluate": lambda model: {"loss": 1.0}}
        history = run(build("dense"), config, **options)
        assert (history.stopped_at, history.stop_reason, history.losses) == (1, "early", [1.0, 1.0])


def images(step: int) -> tuple[Tensor, Tensor]:
    """Noise about one of five pictures, and which."""
    labels = torch.randint(0, 5, (8,), generator=stream(0, "labels", step))
    pictures = torch.randn(5, 3, 16, 16, generator=stream(0, "pictures"))
    return pictures[labels] + 0.1 * torch.randn(8, 3, 16, 16, generator=stream(0, "noise", step)), labels


def class_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(pixel_values=batch[0]).logits, batch[1])


def class_scores(model: nn.Module) -> dict[str, float]:
    pixels, labels = images(-1)
    with torch.no_grad():
        wrong = model(pixel_values=pixels).logits.argmax(-1) != labels
        return {"loss": class_loss(model, (pixels, labels)).item(), "error": wrong.float().mean().item()}


def test_any_loss_batch_and_scores() -> None:
    """Images and their classes, as a tuple and as a dict; every score that is returned stands in the rows."""
    config, model, other = TrainConfig(30, 1e-2, 1e-2, evaluate_at=(10,)), tiny_model("vit"), tiny_model("vit")
    history = train(model, images, config, loss=class_loss, evaluate=class_scores)
    assert [list(row) for row in history.rows] == [["step", "loss", "error", "train_loss", "seconds"]] * 3
    assert history.rows[0]["error"] > 0.3
    assert history.rows[-1]["error"] == 0
    assert history.rows[-1]["loss"] == class_scores(model)["loss"] < 0.3
    same = train(
        other,
        lambda step: dict(zip(("pixels", "labels"), images(step), strict=True)),
        config,
        loss=lambda model, batch: class_loss(model, (batch["pixels"], batch["labels"])),
        evaluate=class_scores,
    )
    assert rows(same) == rows(history)


def test_without_a_directory_a_signal_still_ends_the_run(build: Callable[[str], nn.Module]) -> None:
    with pytest.raises(Interrupted, match="after step 2"):
        run(build("dense"), RESUMABLE, on_step=terminate_at(2))


def test_a_non_finite_loss_stops_with_the_step(build: Callable[[str], nn.Module]) -> None:
    model = build("dense")

    def poison(step: int) -> None:
        if step == 3:
            next(model.parameters()).data.fill_(math.nan)

    history = run(model, RESUMABLE, on_step=poison)
    assert (history.stop_reason, history.stopped_at) == ("non-finite", 3)
    assert all(math.isfinite(loss) for loss in history.losses)
    assert len(history.rows) == 4


def test_a_non_finite_evaluation_stops_too(build: Callable[[str], nn.Module]) -> None:
    losses = iter([4.0, 3.0, math.inf])
    history = run(build("dense"), RESUMABLE, evaluate=lambda model: {"loss": next(losses)})
    assert (history.stop_reason, history.stopped_at, history.losses) == ("non-finite", 2, [4.0, 3.0])


def test_early_stop(build: Callable[[str], nn.Module]) -> None:
    """Patience 2: two evaluations without a new best. Without patience the same losses run to the end."""
    losses = [4.0, 3.0, 3.5, 2.0, 2.0, 2.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    for patience, stopped_at, reason in ((2, 5, "early"), (3, 12, "finished"), (0, 12, "finished")):
        values = iter(losses)
        config = TrainConfig(12, 1e-2, 1e-2, evaluate_at=tuple(range(13)), patience=patience)
        history = run(build("dense"), config, evaluate=lambda model, values=values: {"loss": next(values)})
        assert (history.stopped_at, history.stop_reason) == (stopped_at, reason)


def test_bf16_trains_and_leaves_the_model_as_it_was(build: Callable[[str], nn.Module]) -> None:
    """Weights and evaluation stay float32, and a float32 run may follow in the same process."""
    model, reference = build("subspace"), build("subspace")
    config = TrainConfig(40, 1e-2, 1e-2)
    half = run(model, TrainConfig(40, 1e-2, 1e-2, precision="bf16"))
    full = run(reference, config)
    assert half.losses[-1] != full.losses[-1]
    assert half.losses[-1] == pytest.approx(full.losses[-1], rel=0.1)
    assert half.losses[-1] < half.losses[0] - 1
    assert all(p.dtype == torch.float32 for p in model.parameters())
    copy = build("subspace")
    copy.load_state_dict(model.state_dict())
    assert evaluate(copy)["loss"] == evaluate(model)["loss"] == half.losses[-1]


def test_a_run_in_a_thread_leaves_signals_alone(build: Callable[[str], nn.Module]) -> None:
    with ThreadPoolExecutor(1) as pool:
        history = pool.submit(run, build("dense"), RESUMABLE).result()
    assert rows(history) == rows(run(build("dense"), RESUMABLE))


def test_evaluations_are_told_as_they_come(build: Callable[[str], nn.Module]) -> None:
    told: list[list[int]] = []
    config = TrainConfig(4, 1e-2, 1e-2, evaluate_at=(2,))
    run(build("dense"), config, on_evaluation=lambda rows: told.append([row["step"] for row in rows]))
    assert told == [[0, 2], [0, 2, 4]]
