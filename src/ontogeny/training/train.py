"""The training loop: optimiser, schedule, evaluation, early stop, checkpoint, resume."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ontogeny.errors import Interrupted
from ontogeny.files import replacing
from ontogeny.model.constrain import body_parameters
from ontogeny.model.fast import next_token_loss
from ontogeny.model.layers import SubspaceLinear, enforce_masks
from ontogeny.model.prune import development_state
from ontogeny.training import together
from ontogeny.training.muon import Muon

BatchFunction = Callable[[int], Tensor | Mapping[str, Tensor] | tuple[Tensor, ...]]  # the batch of a step, from 0
LossFunction = Callable[[nn.Module, Any], Tensor]  # the scalar to minimise, of a model and a batch
EvaluationFunction = Callable[[nn.Module], Mapping[str, float]]  # at least "loss"
STATE = "state.safetensors"  # in the directory of a run


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Rates are peak rates of AdamW: *body* for the layer matrices, *rest* for everything else.

    ``optimizer``: "muon" orthogonalises the steps of full cores; the rest keeps AdamW (``training/muon.py``).

    ``patience``: stop when the evaluated loss hasn't improved for so many evaluations (0: never).
    ``precision``: of the training steps' matrix products; weights are float32, and so is evaluation.
    ``schedule``: what follows the warm-up: a cosine to zero, the peak rate, or the peak rate until step ``cool_from``
    and then a fall to zero (``learning_rate_scale``).
    """

    steps: int
    body_rate: float
    rest_rate: float
    evaluate_at: tuple[int, ...] = ()
    warmup: float = 0.1  # share of the steps, linear
    warmup_steps: int | None = None  # given: the warm-up in steps, for runs of several lengths that start alike
    schedule: Literal["cosine", "constant", "cooldown"] = "cosine"
    cool_from: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 1.0  # largest gradient norm
    patience: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    optimizer: Literal["adamw", "muon"] = "adamw"


@dataclass
class History:
    """What happened: one row an evaluated step (step, what ``evaluate`` returned, the batch's train_loss, seconds)."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    stopped_at: int = 0
    stop_reason: Literal["", "finished", "early", "non-finite"] = ""
    seconds: float = 0.0

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.rows]


@torch.no_grad()
def evaluation_loss(model: nn.Module, windows: Int[Tensor, "count length_plus_1"], size: int = 32) -> float:
    """Mean loss over all windows, nats a token, evaluated ``size`` windows at a time: few enough for the cache."""
    device = next(model.parameters()).device
    model.eval()
    total = sum(len(part) * next_token_loss(model, part.to(device)).item() for part in windows.split(size))
    model.train()
    return total / len(windows)


def learning_rate_scale(step: int, config: TrainConfig) -> float:
    """Share of the peak rate at a step (from 0): linear warm-up, then the schedule.

    "cosine" and "cooldown" are zero after the last step. The cool-down is 1 − √x, x the share of its steps that is
    done: of the forms in Hägele et al. 2024 (arXiv:2405.18392) the one that they find to outperform a linear one.
    """
    share = config.warmup * config.steps if config.warmup_steps is None else config.warmup_steps
    warm = max(1, round(share))
    if step < warm:
        return (step + 1) / warm
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))
    if config.schedule == "constant" or step < config.cool_from:
        return 1.0
    return 1 - math.sqrt((step - config.cool_from) / (config.steps - config.cool_from))


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """Fused AdamW over the trainable parameters in two groups, body and rest; or Muon, with the cores in a third."""
    body, cores = body_parameters(model), set(_cores(model)) if config.optimizer == "muon" else set()
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trainable if name in body and p not in cores], "peak": config.body_rate},
        {"params": [p for name, p in trainable if name not in body], "peak": config.rest_rate},
        {"params": [p for _, p in trainable if p in cores], "peak": config.body_rate, "orthogonal": True},
    ]
    groups = [group | {"lr": group["peak"]} for group in groups if group["params"]]
    if config.optimizer == "muon":
        return Muon(groups, betas=config.betas, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def _cores(model: nn.Module) -> Iterator[nn.Parameter]:
    """The full cores; a diagonal one is no matrix that could be orthogonalised."""
    return (m.core for m in model.modules() if isinstance(m, SubspaceLinear) and m.core.ndim == 2)


def train(
    model: nn.Module,
    batches: BatchFunction,
    config: TrainConfig,
    *,
    loss: LossFunction = next_token_loss,
    evaluate: EvaluationFunction,
    directory: Path | None = None,
    save_every: float = 20.0,
    save_at_end: bool = False,
    on_gradients: Callable[[], None] = lambda: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_evaluation: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> History:
    """Train ``model`` in place; evaluate before step 0, after every step in ``config.evaluate_at`` and after the last.

    With a ``directory`` the state is saved there every ``save_every`` seconds and on SIGINT or SIGTERM, and a call
    that finds a saved state goes on from it, bitwise on CPU; SIGINT and SIGTERM raise Interrupted once it is saved.
    ``save_at_end`` leaves the state of a run that got through its steps, for a call with more of them to go on from.
    A non-finite loss ends the run: ``stop_reason`` says so and ``stopped_at`` is the last good step.
    ``on_gradients`` is called when a step's gradients are there, before they are clipped.
    Called on several processes (``together``), each takes its part of every batch; process 0 alone writes.
    """
    from accelerate.utils import send_to_device

    accelerator, original = together.accelerator(), model
    model = together.sharded(original)
    parameters, optimizer = list(model.parameters()), make_optimizer(model, config)
    enforce_masks(model, optimizer)
    objective: nn.Module = together.Objective(model, loss)
    if model is original:  # a spread one averages gradients by itself
        objective = accelerator.prepare(objective)  # the optimiser stays torch's: Accelerate's costs 1 ms more a step
    state = directory / STATE if directory else None
    history = load_state(state, model, optimizer) if state and state.exists() else History()
    started, saved = time.monotonic() - history.seconds, time.monotonic()
    model.train()
    if not history.rows:
        history.rows.append(together.agreed({"step": 0, **evaluate(model), "train_loss": None, "seconds": 0.0}))
    with graceful() as stopping:
        for step in range(history.stopped_at, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate_scale(step, config)
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                batch_loss = objective(send_to_device(together.own_part(batches(step)), accelerator.device))
            if not math.isfinite(train_loss := accelerator.reduce(batch_loss.detach(), "mean").item()):
                history.stop_reason = "non-finite"
                break
            batch_loss.backward()
            on_gradients()
            nn.utils.clip_grad_norm_(parameters, config.clip)
            optimizer.step()
            optimizer.zero_grad()
            history.stopped_at = step + 1
            history.seconds = time.monotonic() - started
            if step + 1 in config.evaluate_at or step + 1 == config.steps:
                measured = {**evaluate(model), "train_loss": train_loss, "seconds": history.seconds}
                row = together.agreed({"step": step + 1, **measured})
                if not math.isfinite(row["loss"]):
                    history.stop_reason = "non-finite"
                    break
                history.rows.append(row)
                if accelerator.is_main_process:
                    on_evaluation(history.rows)
                if patience_over(history.losses, config.patience):
                    history.stop_reason = "early"
                    break
            on_step(step + 1)
            ended = save_at_end and step + 1 == config.steps
            stop, due = together.anywhere(bool(stopping), ended or time.monotonic() - saved > save_every)
            if state and (stop or due):
                save_state(state, model, optimizer, history)
                accelerator.wait_for_everyone()
                saved = time.monotonic()
            if stop:
                raise Interrupted(f"stopped after step {step + 1} of {config.steps}")
    together.gather(model, original)
    history.stop_reason = history.stop_reason or "finished"
    return history


def patience_over(losses: list[float], patience: int) -> bool:
    """Whether the best loss is ``patience`` or more evaluations old (0: never)."""
    return patience > 0 and len(losses) - 1 - min(range(len(losses)), key=losses.__getitem__) >= patience


@contextmanager
def graceful() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted in the list that is yielded, and end nothing by themselves.

    One that came after the last look at the list goes to whoever handled signals before.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs the thread handles signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[-1])


def save_state(path: Path, model: nn.Module, optimizer: Optimizer, history: History) -> None:
    """Trainable parameters, what lives, optimiser state and history in one safetensors file, replaced atomically.

    All processes have to call it where networks are spread over them; process 0 writes.
    """
    tensors = {f"state/{name}": buffer.contiguous() for name, buffer in development_state(model)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[f"parameter/{name}"] = together.whole(parameter.detach()).contiguous()
            for key, value in optimizer.state[parameter].items():
                tensors[f"optimizer/{name}/{key}"] = together.whole(torch.as_tensor(value)).contiguous()
    if not together.leads():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"history": json.dumps(vars(history))})


@torch.no_grad()
def load_state(path: Path, model: nn.Module, optimizer: Optimizer) -> History:
    with safe_open(path, "pt", backend="pread") as file:
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            parameter.copy_(together.part_of(file.get_tensor(f"parameter/{name}"), parameter))
            prefix = f"optimizer/{name}/"
            names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118  (safe_open is no mapping)
            state = {key.removeprefix(prefix): file.get_tensor(key) for key in names}
            optimizer.state[parameter] = {key: together.part_of(value, parameter) for key, value in state.items()}
        for name, buffer in development_state(model):
            buffer.copy_(file.get_tensor(f"state/{name}"))
        return History(**json.loads(file.metadata()["history"]))
