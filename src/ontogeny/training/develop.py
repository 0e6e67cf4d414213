"""Development: overproduce directions, prune them in rounds, consolidate the survivors; one run of the loop."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.model.layers import SubspaceLinear
from ontogeny.model.prune import (
    GRADIENT_SCORES,
    SCOPES,
    SCORES,
    direction_scores,
    prunable,
    select,
    set_alive,
)
from ontogeny.streams import stream
from ontogeny.training.train import BatchFunction, EvaluationFunction, History, TrainConfig, train


@dataclass(frozen=True)
class DevelopConfig:
    """How directions die. Shares are of all the genome's directions; a round follows the step it is named by.

    From ``start`` to ``keep`` in ``len(rounds_at)`` rounds, each leaving the same share of the one before: six rounds
    to 39.1 % keep 85.5 % each (published: C; how the rounds are spaced isn't). ``start``: the leading ones of each
    site. ``regrow``: the share of the living that each round replaces by dead ones drawn at random, their core
    entries zero (SET: Mocanu et al. 2018, arXiv:1707.04780).
    """

    rounds_at: tuple[int, ...]
    keep: float = 0.391
    start: float = 1.0
    score: str = "gradient"
    scope: str = "matrix"
    regrow: float = 0.0

    def check(self, steps: int) -> None:
        """InputError for what can't be carried out in a run of so many steps."""
        rounds = list(self.rounds_at)
        if rounds != sorted(set(rounds)) or (rounds and not 1 <= rounds[0] <= rounds[-1] <= steps):
            raise InputError(f"rounds_at {rounds}: expected steps in increasing order, from 1 to the run's {steps:,}")
        if not 0 < self.keep <= self.start <= 1:
            raise InputError(f"expected 0 < keep ≤ start ≤ 1; found keep {self.keep:g}, start {self.start:g}")
        if self.score not in SCORES or self.scope not in SCOPES:
            known = f"{', '.join(SCORES)} and of {', '.join(SCOPES)}"
            raise InputError(f"score {self.score!r}, scope {self.scope!r}: expected one of {known}")
        if not 0 <= self.regrow < 1:
            raise InputError(f"regrow: expected a share from 0 to less than 1, found {self.regrow:g}")
        if self.regrow and self.scope != "matrix":  # a site has no share of its own to grow back to
            raise InputError(f"regrow: expected with scope 'matrix' alone, found {self.scope!r}")

    def share(self, rounds: int) -> float:
        """The share of directions that live after so many rounds."""
        if not self.rounds_at:
            return self.start
        left: float = (self.keep / self.start) ** (rounds / len(self.rounds_at))
        return self.start * left


def schedule(
    steps: int, *, rounds: int = 6, first: float = 1 / 6, last: float = 2 / 3, **options: Any
) -> DevelopConfig:
    """Rounds spread evenly over the steps, from the ``first`` share of them to the ``last``; options as they are.

    Raises InputError for rounds that wouldn't fall on steps of their own.
    """
    between = max(1, rounds - 1)
    at = tuple(round(steps * (first + (last - first) * i / between)) for i in range(rounds))
    if len(set(at)) < rounds or (at and at[0] < 1):
        raise InputError(f"{rounds} rounds of pruning don't fit into {steps} steps: give more steps")
    return DevelopConfig(at, **options)


@dataclass(frozen=True)
class Development:
    """``lived``: site -> (rounds + 1, k) which directions lived at the start and after every round."""

    history: History
    lived: Mapping[str, Bool[Tensor, "rounds_plus_1 k"]]

    @property
    def survivors(self) -> dict[str, Bool[Tensor, " k"]]:
        """Site -> which directions live in the end."""
        return {name: rows[-1] for name, rows in self.lived.items()}


def develop(
    model: nn.Module,
    batches: BatchFunction,
    config: TrainConfig,
    development: DevelopConfig,
    *,
    seed: int,
    evaluate: EvaluationFunction,
    on_step: Callable[[int], None] = lambda step: None,
    **options: Any,
) -> Development:
    """Train a constrained model in place as ``train`` does (``options`` are its), pruning its directions on the way.

    Overproduction until the first round, pruning until the last, then consolidation: survivors alone train on. A
    gradient score is the sum over the steps since the round before. ``seed`` draws random scores and regrowth.
    Resumes as ``train`` does, to the bit on CPU.
    Raises InputError for a model without cores, and for a configuration that can't be carried out.
    """
    development.check(config.steps)
    layers = prunable(model)
    set_alive(model, {name: _leading(layer.U.shape[1], development.start) for name, layer in layers.items()})
    for layer in layers.values():
        assert layer.alive is not None
        layer.lived = layer.alive.repeat(len(development.rounds_at) + 1, 1)
        layer.score = torch.zeros_like(layer.core)

    def prune(step: int) -> None:
        if step in development.rounds_at:
            done = development.rounds_at.index(step) + 1
            set_alive(model, _round(layers, development, done, seed))
            for alive, lived, score in map(_state, layers.values()):
                lived[done:] = alive
                score.zero_()
        on_step(step)

    def score() -> None:
        if development.score in GRADIENT_SCORES:
            for layer in layers.values():
                assert layer.core.grad is not None
                _state(layer)[2].add_(GRADIENT_SCORES[development.score](layer.core.grad, layer.core.detach()))

    history = train(model, batches, config, evaluate=evaluate, on_gradients=score, on_step=prune, **options)
    return Development(history, {name: _state(layer)[1].cpu() for name, layer in layers.items()})


def _state(layer: SubspaceLinear) -> tuple[Tensor, Tensor, Tensor]:
    """``alive``, ``lived`` and ``score`` of a layer that develops; read anew, as a model may move to a device."""
    assert layer.alive is not None
    assert layer.lived is not None
    assert layer.score is not None
    return layer.alive, layer.lived, layer.score


def _leading(k: int, share: float) -> Bool[Tensor, " k"]:
    return torch.arange(k) < max(1, round(share * k))


def _round(layers: Mapping[str, SubspaceLinear], d: DevelopConfig, done: int, seed: int) -> dict[str, Tensor]:
    """What lives after a round: the best by score, and what regrows at random."""
    share = d.share(done)
    scores = {name: _scores(layer, name, d.score, done, seed) for name, layer in layers.items()}
    kept = select(scores, share * (1 - d.regrow), d.scope)  # type: ignore[arg-type]
    return {name: _regrown(kept[name], share, name, done, seed) if d.regrow else kept[name] for name in kept}


def _scores(layer: SubspaceLinear, name: str, score: str, done: int, seed: int) -> Float[Tensor, " k"]:
    living, _, total = (tensor.cpu() for tensor in _state(layer))
    k = len(living)
    if score == "singular-value":
        return torch.where(living, 1 - torch.arange(k) / k, -torch.inf)
    if score == "random":
        return torch.where(living, torch.rand(k, generator=stream(seed, "prune", name, done)), -torch.inf)
    return direction_scores(total, living)


def _regrown(living: Bool[Tensor, " k"], share: float, name: str, done: int, seed: int) -> Bool[Tensor, " k"]:
    missing = max(0, math.floor(share * len(living)) - int(living.sum()))
    order = torch.rand(len(living), generator=stream(seed, "regrow", name, done)).masked_fill(living, torch.inf)
    return living.index_fill(0, order.argsort(stable=True)[:missing], True)
