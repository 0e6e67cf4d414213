"""Learning rules as genomes: a step is a mix of six local terms, evolved on one family of tasks, tried on others."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.evolution.inner import BATCH, TUNING_TASKS, core, score, squared
from ontogeny.evolution.networks import (
    DECAYS,
    RATES,
    Layer,
    Losses,
    batches,
    best_rate,
    outputs,
    parameters,
    resolved,
    tensor,
)  # fmt: skip
from ontogeny.evolution.strategy import Generation, blind, evolve
from ontogeny.evolution.task_families import Family, Tasks
from ontogeny.streams import numpy_stream

TERMS = ("gradient", "momentum", "gradient ÷ root mean square", "momentum ÷ root mean square", "sign", "weight")
RAW = 30.0  # what a raw gradient is multiplied by, so that all terms want rates of one grid
SGD, ADAM = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
START = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # the bare gradient
SPREAD = 0.5  # of coefficients in the first generation
TASKS = 3  # that a rule is tried on
TESTS = 8
DIGIT_ROWS = (256, 256)  # to train on and to test on, drawn anew for every task

Error = Callable[[Tensor, Tensor], Losses]


@dataclass(frozen=True)
class Field:
    """A family of tasks for rules: the sizes of its networks, its tasks and its error."""

    sizes: tuple[int, ...]
    tasks: Callable[[np.random.Generator, int], Tasks]
    error: Error


def apply(trained: Sequence[Tensor], losses: Callable[[int], Losses], rules: Tensor, rates: Losses, steps: int) -> None:
    """Train in place, every network by its own rule at its own rate, which falls to 0 along a cosine.

    A step is −rate · Σ coefficient · term over ``TERMS`` of the parameter itself; means are those of Adam, corrected
    for their start. ``rules``: (networks, terms).
    """
    first, second = ([torch.zeros_like(part) for part in trained] for _ in DECAYS)
    mix = rules.T[:, :, None, None]
    for part in trained:
        part.requires_grad_()
    for step in range(steps):
        gradients = torch.autograd.grad(losses(step).sum(), trained)
        speed = (rates * 0.5 * (1 + math.cos(math.pi * step / steps)))[:, None, None]
        young = [1 - decay ** (step + 1) for decay in DECAYS]
        with torch.no_grad():
            for part, gradient, mean, square in zip(trained, gradients, first, second, strict=True):
                mean.lerp_(gradient, 1 - DECAYS[0])
                square.mul_(DECAYS[1]).addcmul_(gradient, gradient, value=1 - DECAYS[1])
                momentum, root = mean / young[0], (square / young[1]).sqrt() + 1e-8
                raw = RAW * (mix[0] * gradient + mix[1] * momentum)
                scaled = (mix[2] * gradient + mix[3] * momentum) / root
                part.sub_(speed * (raw + scaled + mix[4] * torch.sign(momentum) + mix[5] * part))
    for part in trained:
        part.requires_grad_(False)


def rule_scores(
    field: Field, rules: Generation, rates: Sequence[float], tasks: Tasks, steps: int, rng: np.random.Generator
) -> Float[np.ndarray, "rules tasks"]:
    """Log₁₀ test loss of every rule at its rate on every task; all rules start from the same networks."""
    number, data = len(tasks.inputs), tasks.repeated(len(rules))
    drawn = [(core(rng, number, i, o), torch.zeros(number, 1, o)) for i, o in pairwise(field.sizes)]
    layers: list[Layer] = [(w.repeat(len(rules), 1, 1), b.repeat(len(rules), 1, 1)) for w, b in drawn]
    picks = batches(rng, tasks.inputs.shape[1], BATCH, steps)

    def losses(step: int) -> Losses:
        rows = picks[step]
        return field.error(outputs(layers, data.inputs[:, rows]), data.targets[:, rows])

    own, speed = (tensor(np.repeat(np.asarray(part, dtype=float), number, axis=0)) for part in (rules, rates))
    apply(parameters(layers), losses, own, speed, steps)
    with torch.no_grad():
        tested = field.error(outputs(layers, data.test_inputs), data.test_targets)
    return score(tested).reshape(len(rules), -1).double().numpy()


def crossentropy(said: Tensor, targets: Tensor) -> Losses:
    """Of one-hot targets, in units of a guess's: a constant's is about 1."""
    chosen = torch.nn.functional.log_softmax(said, -1) * targets
    return -chosen.sum(-1).mean(1) / math.log(targets.shape[-1])


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # slow to import

    digits = load_digits()
    return digits.data / 16 - 0.5, np.eye(10)[digits.target]


def digits(rng: np.random.Generator, number: int) -> Tasks:
    """Ten classes of 8 × 8 pixels; every task has rows of its own."""
    pixels, labels = _digits()
    train, test = DIGIT_ROWS
    rows = np.array([rng.permutation(len(pixels))[: train + test] for _ in range(number)])
    x, y = tensor(pixels[rows]), tensor(labels[rows])
    return Tasks(x[:, :train], y[:, :train], x[:, train:], y[:, train:])


def waves(rng: np.random.Generator, number: int) -> Tasks:
    """√2 · sin(k · x + φ) of two inputs."""
    x = rng.normal(size=(number, 384, 2))
    y = 2**0.5 * np.sin(x @ rng.normal(0, 2, (number, 2, 1)) + rng.uniform(0, 2 * np.pi, (number, 1, 1)))
    inputs, targets = tensor(x), tensor(y)
    return Tasks(inputs[:, :128], targets[:, :128], inputs[:, 128:], targets[:, 128:])


UNMET = ("digits", "waves")


def fields(seed: int) -> dict[str, Field]:
    """The family that rules evolve on, ``met``, and those that they have never seen."""
    family = Family.drawn(numpy_stream(seed, "family"))
    return {
        "met": Field((16, 32, 32, 4), family.tasks, squared),
        "digits": Field((64, 32, 10), digits, crossentropy),
        "waves": Field((2, 32, 32, 32, 1), waves, squared),
    }


def tried(field: Field, rule: Sequence[float], steps: int, seed: int) -> dict[str, float]:
    """Mean log₁₀ loss on new tasks, at a rate tuned on others of the field, and whether that is inside the grid."""
    rules = np.tile(np.asarray(rule, dtype=float), (len(RATES), 1))
    tasks = field.tasks(numpy_stream(seed, "rules", "tuning"), TUNING_TASKS)
    start = numpy_stream(seed, "rules", "tuning", "start")
    rate = best_rate(tensor(rule_scores(field, rules, RATES, tasks, steps, start).mean(1)))
    tasks, start = field.tasks(numpy_stream(seed, "rules", "test"), TESTS), numpy_stream(seed, "rules", "test", "start")
    found = rule_scores(field, rules[:1], [rate], tasks, steps, start)
    return {"loss": float(found.mean()), "resolved": resolved([rate]), "rate": rate}


def rules(generations: int, offspring: int, steps: int, seed: int) -> dict[str, Any]:
    """An evolved rule beside SGD with momentum, Adam and a rule evolved blindly, every one at its tuned rate.

    Measured: "<field> <rule> loss" and "… resolved"; ``rule``, the evolved coefficients over their length.
    """
    known = fields(seed)
    met = known["met"]
    rate = tried(met, START, steps, seed)["rate"]

    def fitness(generation: int, genomes: Generation) -> Float[np.ndarray, " offspring"]:
        tasks = met.tasks(numpy_stream(seed, "rules", generation), TASKS)
        start = numpy_stream(seed, "rules", generation, "start")
        return np.asarray(rule_scores(met, genomes, [rate] * len(genomes), tasks, steps, start).mean(1))

    start, sizes = np.array(START), (generations, offspring)
    arms = {"SGD": np.array(SGD), "Adam": np.array(ADAM)}
    for name, search in (("evolved", evolve), ("dealt", blind)):
        found = search(fitness, start, SPREAD, sizes, numpy_stream(seed, "rules", name))
        arms[name] = found / np.linalg.norm(found)
    measured: dict[str, Any] = {"rule": arms["evolved"].tolist()}
    for field, own in known.items():
        for name, rule in arms.items():
            result = tried(own, rule.tolist(), steps, seed)
            measured |= {f"{field} {name} {key}": result[key] for key in ("loss", "resolved")}
    return measured
