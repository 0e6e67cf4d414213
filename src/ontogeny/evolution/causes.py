"""A small simulator of causes, and what networks make of its records: association, intervention, counterfactual.

Four binary variables in order, each a table of the ones before it and a hidden common cause, flipped by noise (a
structural causal model, Pearl 2009). There are 32 states of noise and hidden cause, so every true answer is a sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.networks import (
    RATES,
    TUNING,
    Layer,
    best_rate,
    fit,
    he_normal,
    outputs,
    parameters,
    resolved,
    stack,
    tensor,
)
from ontogeny.streams import numpy_stream

VARIABLES, FLIP = 4, 0.15  # how many, and how often noise flips one
SIZES = (3 * VARIABLES + VARIABLES + 1, 64, 64, VARIABLES)  # of networks
BATCH, TEST = 128, 2000
ARMS: Mapping[str, tuple[str, bool]] = {  # what records show of the state, and whether half of them are interventions
    "text": ("nothing", False),
    "state": ("own", False),
    "interventions": ("nothing", True),
    "state and interventions": ("own", True),
    "shuffled state and interventions": ("another's", True),
}

States = Int[np.ndarray, "states 5"]  # hidden cause, then every variable's noise
Values = Int[np.ndarray, "records 4"]
Answers = Float[np.ndarray, "asked about"]
Questions = dict[str, np.ndarray]


@dataclass(frozen=True)
class Simulator:
    """``tables``: one a variable, its value by the hidden cause and the variables before it, as bits of an index."""

    tables: tuple[np.ndarray, ...]

    def run(self, states: States, target: np.ndarray | int = -1, value: np.ndarray | int = 0) -> Values:
        """What happens in these states where ``target`` (−1: none) is set to ``value``."""
        target, value = np.broadcast_to(target, len(states)), np.broadcast_to(value, len(states))
        index, found = states[:, 0].copy(), []
        for variable, table in enumerate(self.tables):
            happens = np.where(target == variable, value, table[index] ^ states[:, 1 + variable])
            found.append(happens)
            index = index + (happens << (1 + variable))
        return np.stack(found, 1)


def simulator(seed: int) -> Simulator:
    """Random tables; half of every table is 1, so that none is constant."""
    rng = numpy_stream(seed, "simulator")
    return Simulator(tuple(rng.permutation(np.arange(2 << variable) % 2) for variable in range(VARIABLES)))


def all_states() -> tuple[States, Float[np.ndarray, " states"]]:
    """Every state, and how likely it is."""
    states = (np.arange(2 ** (VARIABLES + 1))[:, None] >> np.arange(VARIABLES + 1)) & 1
    return states, 0.5 * np.where(states[:, 1:] == 1, FLIP, 1 - FLIP).prod(1)


@dataclass(frozen=True)
class Truth:
    """True answers, P(variable = 1), and what a perfect associator says in their place.

    ``association`` and ``intervention`` by (variable, its value, asked); ``counterfactual`` by (state, variable,
    asked): had the variable had its other value, where all four variables are known and the state isn't. ``edited``:
    the record with that other value written in, and the asked variable read off from the rest. ``likely``: P(state).
    """

    association: Float[np.ndarray, "4 2 4"]
    intervention: Float[np.ndarray, "4 2 4"]
    counterfactual: Float[np.ndarray, "states 4 4"]
    edited: Float[np.ndarray, "states 4 4"]
    likely: Float[np.ndarray, " states"]


def truth(world: Simulator) -> Truth:
    """By enumeration of all states."""
    states, likely = all_states()
    seen = world.run(states)
    same = (seen[:, None] == seen).all(2) * likely  # (fact, state): what a fact leaves possible
    posterior = same / same.sum(1, keepdims=True)
    association = np.array(
        [[np.average(seen, axis=0, weights=likely * (seen[:, i] == v)) for v in (0, 1)] for i in range(VARIABLES)]
    )
    done = np.array([[likely @ world.run(states, i, v) for v in (0, 1)] for i in range(VARIABLES)])
    other = np.stack([posterior @ world.run(states, i, v) for i in range(VARIABLES) for v in (0, 1)], 0)
    other = other.reshape(VARIABLES, 2, len(states), VARIABLES)
    counterfactual = np.stack([other[i, 1 - seen[:, i], np.arange(len(states))] for i in range(VARIABLES)], 1)
    return Truth(association, done, counterfactual, _edited(seen, likely), likely)


def _edited(seen: Values, likely: np.ndarray) -> np.ndarray:
    found = np.zeros((len(seen), VARIABLES, VARIABLES))
    for row, fact in enumerate(seen):
        for i in range(VARIABLES):
            record = fact.copy()
            record[i] = 1 - record[i]
            for j in range(VARIABLES):
                rest = [k for k in range(VARIABLES) if k != j]
                found[row, i, j] = np.average(seen[:, j], weights=likely * (seen[:, rest] == record[rest]).all(1))
    return found


def encode(shown: np.ndarray, values: np.ndarray, target: np.ndarray, states: np.ndarray | None) -> np.ndarray:
    """Inputs of a network: facts and whether each is shown, what was set, and the state where it is shown.

    ``values``: (rows, 4) bits; ``shown``: (rows, 4); ``target``: (rows,), −1 for none; ``states``: (rows, 5) of −1, 0
    (not shown) and 1.
    """
    signs = 2 * values - 1
    done = (target[:, None] == np.arange(VARIABLES)) * signs
    state = np.zeros((len(values), VARIABLES + 1)) if states is None else states
    return np.concatenate([shown * signs, shown, done, state], axis=1).astype(float)


def records(world: Simulator, arm: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """``values`` (count, 4), ``target`` (count,), and ``states`` (count, 5) as the records of an arm show them."""
    kind, interventions = ARMS[arm]
    states = np.concatenate([rng.integers(2, size=(count, 1)), rng.random((count, VARIABLES)) < FLIP], 1).astype(int)
    chosen, value = rng.integers(VARIABLES, size=count), rng.integers(2, size=count)
    target = np.where(interventions & (np.arange(count) % 2 == 1), chosen, -1)
    told = states[rng.permutation(count)] if kind == "another's" else states
    return world.run(states, target, value), target, (2 * told - 1) * (kind != "nothing")


def _batch(kept: tuple[np.ndarray, ...], rng: np.random.Generator, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Inputs, values, and what is asked: records with half of their variables shown, and half of them with states."""
    values, target, states = (part[rows] for part in kept)
    shown = (rng.random(values.shape) < 0.5) & (target[:, None] != np.arange(VARIABLES))
    asked = ~shown & (target[:, None] != np.arange(VARIABLES))
    return encode(shown, values, target, states * (rng.random((len(rows), 1)) < 0.5)), values, asked


def adjacency_and_causes(count: int, steps: int, seed: int) -> dict[str, float]:
    """Mean absolute errors of P(variable = 1) by arm, from so many records; ``arm association`` and so on.

    Networks whose records have interventions are asked by one; the others can be asked as if it had been seen.
    Networks that know states are shown them, and their answers averaged over those that the question leaves possible.
    ``perfect association``: what someone would get who knows all of P(variables), and answers by it.
    """
    world = simulator(seed)
    true = truth(world)
    rates = _tuned(count, steps)
    layers = _trained(world, torch.tensor(rates)[:, None], count, steps, seed)
    found = {"resolved": resolved(rates)}
    for name, error in _perfect(true).items():
        found[f"perfect association {name}"] = error
    for index, arm in enumerate(ARMS):
        own = [(weights[index : index + 1], biases[index : index + 1]) for weights, biases in layers]
        found |= {f"{arm} {name}": error for name, error in _asked(world, true, own, arm).items()}
    return found


OTHER = ~np.eye(VARIABLES, dtype=bool)  # a variable isn't asked about itself


def _perfect(true: Truth) -> dict[str, float]:
    effect = np.abs(true.association - true.intervention).mean(1)[OTHER].mean()
    edited = np.abs(true.edited - true.counterfactual)[:, OTHER].mean(1) @ true.likely
    return {"intervention": float(effect), "counterfactual": float(edited)}


def _asked(world: Simulator, true: Truth, layers: list[Layer], arm: str) -> dict[str, float]:
    states, likely = all_states()
    seen = world.run(states)
    errors: dict[str, list[float]] = {"association": [], "intervention": [], "counterfactual": []}
    same = (seen[:, None] == seen).all(2) * likely
    posterior = same / same.sum(1, keepdims=True)
    for i in range(VARIABLES):
        for value in (0, 1):
            chance = float(likely @ (seen[:, i] == value))
            for name, told in (("association", true.association), ("intervention", true.intervention)):
                said = likely @ _say(layers, arm, states, seen, i, value, name)
                weight = 2 * chance if name == "association" else 1.0
                errors[name].append(weight * float(np.abs(said - told[i, value])[OTHER[i]].mean()))
        said = posterior @ _say(layers, arm, states, seen, i, 1 - seen[:, i], "counterfactual")
        errors["counterfactual"].append(float(np.abs(said - true.counterfactual[:, i])[:, OTHER[i]].mean(1) @ likely))
    return {name: float(np.mean(values)) for name, values in errors.items()}


def _say(
    layers: list[Layer], arm: str, states: States, seen: Values, i: int, value: np.ndarray | int, question: str
) -> Float[np.ndarray, "states 4"]:
    """P(variable = 1) of all variables in every state, with variable i at a value."""
    kind, interventions = ARMS[arm]
    by_deed = interventions and question != "association"
    values = seen.copy()
    values[:, i] = value
    target = np.full(len(states), i if by_deed else -1)
    state = 2 * states - 1 if kind != "nothing" and question != "association" else None
    shown = np.zeros(values.shape, dtype=bool)
    shown[:, i] = not by_deed
    if question != "counterfactual" or state is not None:
        return _probabilities(layers, encode(shown, values, target, state))
    found = np.zeros(values.shape)  # without a state the rest of the record is all there is to go by
    for j in np.flatnonzero(OTHER[i]):
        shown = np.ones(values.shape, dtype=bool)
        shown[:, j], shown[:, i] = False, not by_deed
        found[:, j] = _probabilities(layers, encode(shown, values, target, None))[:, j]
    return found


def _probabilities(layers: list[Layer], inputs: np.ndarray) -> np.ndarray:
    return np.asarray(outputs(layers, tensor(inputs)[None])[0].double().sigmoid().numpy())


def _trained(world: Simulator, rates: Float[Tensor, "arms rates"], count: int, steps: int, seed: int) -> list[Layer]:
    """A stack of networks, every rate of every arm, from one draw; each arm's read the same batches."""
    layers = stack(he_normal(SIZES, numpy_stream(seed, "causes network")), rates.numel())
    kept = {arm: records(world, arm, count, numpy_stream(seed, "records")) for arm in ARMS}

    def losses(step: int) -> Tensor:
        rngs = [numpy_stream(seed, "causes batch", step) for _ in ARMS]
        drawn = [_batch(kept[arm], rng, rng.integers(count, size=BATCH)) for arm, rng in zip(ARMS, rngs, strict=True)]
        return _losses(layers, drawn)

    fit(parameters(layers), losses, rates.flatten(), steps)
    return layers


def _losses(layers: list[Layer], drawn: list[tuple[np.ndarray, ...]]) -> Tensor:
    """Of every network; a stack has as many in a row for each of the batches."""
    copies = len(layers[0][0]) // len(drawn)
    inputs, values, asked = (tensor(np.stack(part)).repeat_interleave(copies, 0) for part in zip(*drawn, strict=True))
    each = torch.nn.functional.binary_cross_entropy_with_logits(outputs(layers, inputs), values, reduction="none")
    return (each * asked).sum((1, 2)) / asked.sum((1, 2)).clamp(min=1)


@cache
def _tuned(count: int, steps: int) -> list[float]:
    """Every arm's rate of the least loss on new records of its own kind, on another seed."""
    world = simulator(TUNING)
    layers = _trained(world, torch.tensor(RATES).expand(len(ARMS), -1), count, steps, TUNING)
    rng = numpy_stream(TUNING, "new records")
    drawn = [_batch(records(world, arm, TEST, rng), rng, np.arange(TEST)) for arm in ARMS]
    return [best_rate(one) for one in _losses(layers, drawn).view(len(ARMS), -1)]
