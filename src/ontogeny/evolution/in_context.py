"""Learning in context: a transformer trained on regressions, one grown from its subspaces, and what either keeps."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ontogeny.evolution.factors import total_share, variance_shares
from ontogeny.evolution.networks import TUNING
from ontogeny.evolution.regressions import LEARNERS, LOOKUPS, Tasks, draw, ridge, rivals
from ontogeny.evolution.transformer import (
    Parameters,
    answers,
    fresh,
    genome,
    grown,
    lesson,
    recall,
    shapes,
    sprout,
    train,
)
from ontogeny.streams import numpy_stream

LESSON_RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)  # of Adam in fine-tuning
LESSON_STEPS = 50
LESSONS = 16  # tasks that twins are fine-tuned on
CONTEXTS, ASKED = 8, 16  # of the crossed design: contexts, and queries of all its cells
FACTORS = ("context", "weights", "hyperparameters")
DISTANT = 2.0  # the size of tasks beyond those of training
Answered = Float[np.ndarray, "tasks queries"]


def in_context(
    *,
    dimension: int,
    pairs: int,
    width: int,
    layers: int,
    rank: int,
    steps: int,
    batch: int,
    rate: float,
    grown_rate: float,
    tasks: int,
    spreads: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """Train both networks, then measure what a context does and what is left when it is gone.

    ``rank``: directions of every matrix that the grown network has of the trained one. ``tasks``: new ones, that all
    errors are means over. Errors are shares of the mean squared answer: 1 is what a prediction of 0 has.
    """
    of = shapes(dimension, width, layers)
    world = {"pairs": pairs, "dimension": dimension}
    learn = partial(train, pairs=pairs, dimension=dimension, batch=batch, steps=steps)
    versions = learn(fresh(of, seed, "network"), dict, numpy_stream(seed, "training"), rate=rate)
    genes = genome(versions[-1], rank)
    start = sprout(of, genes, seed, "grown")
    sprouts = learn(start, lambda t: grown(t, genes), numpy_stream(seed, "growing"), rate=grown_rate)
    new = draw(numpy_stream(seed, "new tasks"), tasks, pairs, pairs + 1, dimension)
    found: dict[str, Any] = {}
    for name, network in (("network", versions[-1]), ("grown", sprouts[-1])):
        found |= {f"{name} {what}": value for what, value in _of_network(network, new).items()}
    found |= compared(answers(versions[-1], new, growing=True), new, _tuning(tasks, **world))
    found |= {f"distant {what}": gain for what, gain in _distant(versions[-1], tasks, seed, **world).items()}
    found |= taught(versions[-1], seed, **world)
    networks = [*versions, *sprouts]
    for spread in spreads:
        found |= {f"spread {spread:g} {name}": s for name, s in crossed(networks, spread, seed, **world).items()}
    return found


def _tuning(tasks: int, pairs: int, dimension: int) -> Tasks:
    return draw(numpy_stream(TUNING, "tuning tasks"), tasks, pairs, pairs + 1, dimension)


def _error(said: Answered, tasks: Tasks) -> Float[np.ndarray, " queries"]:
    """Mean squared error of every query, as a share of the mean squared answer."""
    return np.asarray(np.square(said - tasks.answers).mean(0) / np.square(tasks.answers).mean())


def _of_network(network: Parameters, new: Tasks) -> dict[str, Any]:
    """Its errors by the number of pairs, with labels in place and rolled; and what is left of a context.

    ``unchanged``: 1 if what it says without a context, and all its parameters, are bit for bit as before it had read
    the contexts. ``evicted``: by how much its error on a task's queries is lower where the task's pairs are gone but
    the pairs of another, which follow and stay, had seen them, than where those had seen pairs of a third task.
    """
    before, kept = _without(network, new), {name: part.clone() for name, part in network.items()}
    found: dict[str, Any] = {
        "errors": _error(answers(network, new, growing=True), new).tolist(),
        "rolled": _error(answers(network, new.rolled(), growing=True), new).tolist(),
    }
    own, foreign = (_error(_evicted(network, new, by), new).mean() for by in (0, 2))
    same = all(torch.equal(part, kept[name]) for name, part in network.items())
    found["unchanged"] = float(same and np.array_equal(before, _without(network, new)))
    return found | {"evicted": float(foreign - own)}


def _without(network: Parameters, tasks: Tasks) -> Answered:
    return answers(network, replace(tasks, inputs=tasks.inputs[:, :0], labels=tasks.labels[:, :0]))


def _evicted(network: Parameters, tasks: Tasks, by: int) -> Answered:
    """First half of the pairs of the task so many places on, then another's, to which the queries are left."""
    half = tasks.labels.shape[1] // 2

    def joined(first: np.ndarray) -> np.ndarray:
        return np.concatenate([np.roll(first, -by, axis=0)[:, :half], np.roll(first, -1, axis=0)[:, :half]], axis=1)

    given = replace(tasks, inputs=joined(tasks.inputs), labels=joined(tasks.labels))
    return answers(network, given, evicted=half)


def compared(said: Answered, new: Tasks, tuning: Tasks) -> dict[str, Any]:
    """Errors of learners and lookups by the number of pairs, and how far what they say is from what a network said.

    Distances are mean squared differences over all numbers of pairs from 1 on, as shares of the mean squared answer.
    """
    scale, found = float(np.square(new.answers).mean()), {}
    for name, other in rivals(new, tuning).items():
        found[f"{name} errors"] = (np.square(other - new.answers[:, 1:]).mean(0) / scale).tolist()
        found[f"{name} distance"] = float(np.square(other - said[:, 1:]).mean()) / scale
    learners, lookups = (min(found[f"{name} distance"] for name in names) for names in (LEARNERS, LOOKUPS))
    return found | {"nearer": lookups - learners}


def _distant(network: Parameters, count: int, seed: int, pairs: int, dimension: int) -> dict[str, float]:
    """The network's and ridge's errors on tasks of larger weights, after all pairs."""
    tasks = draw(numpy_stream(seed, "distant tasks"), count, pairs, 1, dimension, DISTANT)
    best = ridge(tasks.inputs, tasks.labels, tasks.queries[:, 0], DISTANT)[:, None]
    said = {"network": answers(network, tasks), "ridge": best}
    return {f"{name} error": float(_error(what, tasks)[0]) for name, what in said.items()}


def taught(network: Parameters, seed: int, pairs: int, dimension: int) -> dict[str, float]:
    """By how much twins that are fine-tuned on a task err less on it without a context; the same by rolled labels.

    The rate is the best on tuning tasks. ``resolved``: it is not at an end of the grid.
    """
    own, tuning = (draw(numpy_stream(s, "lessons"), LESSONS, pairs, 64, dimension) for s in (seed, TUNING))

    def error(tasks: Tasks, pairs_of: Tasks, rate: float) -> float:
        said = recall(lesson(network, pairs_of, rate, LESSON_STEPS), tasks)
        return float(np.nan_to_num(_error(said, tasks).mean(), nan=np.inf))

    rate = min(LESSON_RATES, key=lambda rate: error(tuning, tuning, rate))
    before = float(_error(_without(network, own), own).mean())
    return {
        "retained": before - error(own, own, rate),
        "retained rolled": before - error(own, own.rolled(), rate),
        "resolved": float(rate not in (LESSON_RATES[0], LESSON_RATES[-1])),
    }


def crossed(networks: Sequence[Parameters], spread: float, seed: int, pairs: int, dimension: int) -> dict[str, float]:
    """Shares of the variance of what networks say of the same queries: contexts × weights × hyperparameters.

    Hyperparameters are those of run time: attention as it is, sharper and softer by 2^spread, and with the oldest
    pairs left out, half of them at spread 1. ``… total``: with all interactions. ``order``: the variance that the order
    of pairs makes, as a share of what contexts make in the last network as it is.
    """
    tasks = draw(numpy_stream(seed, "crossed"), CONTEXTS, pairs, ASKED, dimension)
    tasks = replace(tasks, queries=np.repeat(tasks.queries[:1], CONTEXTS, axis=0))  # the same of every context
    late = round(pairs * spread / 2)
    windowed = replace(tasks, inputs=tasks.inputs[:, late:], labels=tasks.labels[:, late:])
    settings = [(tasks, 1.0), (tasks, 2.0**spread), (tasks, 2.0**-spread), (windowed, 1.0)]
    said = np.array([[answers(n, given, sharpness=s) for given, s in settings] for n in networks])
    shares = variance_shares(said.transpose(2, 0, 1, 3), FACTORS)
    found = shares | {f"{factor} total": total_share(shares, factor) for factor in FACTORS}
    found["interactions"] = sum(share for name, share in shares.items() if name not in FACTORS)
    return found | {"order": _order(networks[-1], tasks, seed)}


def _order(network: Parameters, tasks: Tasks, seed: int) -> float:
    rng = numpy_stream(seed, "order")
    orders = [rng.permutation(tasks.labels.shape[1]) for _ in range(CONTEXTS)]
    mixed = [replace(tasks, inputs=tasks.inputs[:, order], labels=tasks.labels[:, order]) for order in orders]
    said = np.array([answers(network, given) for given in mixed])
    return float(said.var(axis=0).mean() / said.var(axis=1).mean())
