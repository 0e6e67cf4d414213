"""The loop for networks of one structure: one forward and one backward pass for all of them, the rest is each one's."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from ontogeny.errors import Interrupted
from ontogeny.model.layers import enforce_masks
from ontogeny.model.stack import give_gradients, stack
from ontogeny.training.train import (
    STATE,
    EvaluationFunction,
    History,
    TrainConfig,
    graceful,
    learning_rate_scale,
    load_state,
    make_optimizer,
    save_state,
)


@dataclass
class Member:
    """One network of a stack, and what ``train`` would be given to train it to predict the next token.

    ``directory``: of its state, from which ``train`` would go on just as well.
    """

    model: nn.Module
    batches: Callable[[int], Tensor]
    config: TrainConfig
    evaluate: EvaluationFunction
    directory: Path
    on_evaluation: Callable[[list[dict[str, Any]]], None] = lambda rows: None
    history: History = field(default_factory=History)


def train_stack(members: Sequence[Member], save_every: float = 20.0) -> list[History]:
    """Train all members in place as ``train`` would train each: the same losses, but for rounding.

    Their configurations may differ in rates alone, and none stops early. A member whose loss becomes non-finite
    takes no further step. A saved state that is ahead waits for the others. ``seconds``: each one's share.
    """
    from accelerate import Accelerator

    config, device = members[0].config, Accelerator(mixed_precision="no").device
    optimizers = [_begin(member, device) for member in members]
    models = [member.model for member in members]
    whole = stack(models).train()
    saved = time.monotonic()
    with graceful() as stopping:
        for step in range(min(member.history.stopped_at for member in members), config.steps):
            started = time.monotonic()
            windows = torch.stack([member.batches(step) for member in members]).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                losses = next_token_losses(whole, windows)
            losses.sum().backward()
            give_gradients(whole, models, config.clip)
            share = (time.monotonic() - started) / len(members)
            for member, optimizer, loss in zip(members, optimizers, losses.tolist(), strict=True):
                if member.history.stopped_at == step:
                    member.history.seconds += share
                    _advance(member, optimizer, loss)
                optimizer.zero_grad()
            if stopping or time.monotonic() - saved > save_every:
                _save(members, optimizers)
                saved = time.monotonic()
            if stopping:
                raise Interrupted(f"stopped after step {step + 1} of {config.steps}")
            if all(member.history.stop_reason for member in members):
                break
    for member in members:
        member.history.stop_reason = member.history.stop_reason or "finished"
    return [member.history for member in members]


def next_token_losses(
    whole: nn.Module, windows: Int[Tensor, "members size length_plus_1"]
) -> Float[Tensor, " members"]:
    """Every member's ``next_token_loss`` on its own windows."""
    logits = whole(input_ids=windows[..., :-1].flatten(0, 1), use_cache=False).logits  # (members · B, T, V)
    each = F.cross_entropy(logits.flatten(0, 1).float(), windows[..., 1:].flatten(), reduction="none")
    return each.view(len(windows), -1).mean(1)


def _begin(member: Member, device: torch.device) -> Optimizer:
    """The member where ``train`` would begin or go on."""
    model = member.model.to(device)
    optimizer = make_optimizer(model, member.config)
    enforce_masks(model, optimizer)
    if (state := member.directory / STATE).exists():
        member.history = load_state(state, model, optimizer)
    if not member.history.rows:
        row = {"step": 0, **member.evaluate(model), "train_loss": None, "seconds": 0.0}
        member.history.rows.append(row)
    return optimizer


def _advance(member: Member, optimizer: Optimizer, train_loss: float) -> None:
    """One member's step, and its evaluation where one is due; what isn't finite ends its training."""
    history, config, started = member.history, member.config, time.monotonic()
    if not math.isfinite(train_loss):
        history.stop_reason = "non-finite"
        return
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * learning_rate_scale(history.stopped_at, config)
    optimizer.step()
    history.stopped_at += 1
    if history.stopped_at in (*config.evaluate_at, config.steps):
        found, seconds = member.evaluate(member.model), history.seconds
        row = {"step": history.stopped_at, **found, "train_loss": train_loss, "seconds": seconds}
        if math.isfinite(row["loss"]):
            history.rows.append(row)
            member.on_evaluation(history.rows)
        else:
            history.stop_reason = "non-finite"
    history.seconds += time.monotonic() - started


def _save(members: Sequence[Member], optimizers: Sequence[Optimizer]) -> None:
    for member, optimizer in zip(members, optimizers, strict=True):
        if not member.history.stop_reason:  # what has diverged does so again
            save_state(member.directory / STATE, member.model, optimizer, member.history)
