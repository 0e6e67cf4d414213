"""Learners and the opponents that look for their errors, evolving against each other or not."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.landscapes import INPUTS, Point, network, network_point
from ontogeny.evolution.population import displacement, mutations
from ontogeny.streams import numpy_stream

Opponents = Literal["co-evolving", "frozen", "shuffled", "random"]
Inputs = Float[np.ndarray, "opponents inputs"]
COUNT, LEARNERS = 32, 32  # opponents at a time; learners of a generation
BOX = 2.0  # opponents are inputs within ±BOX
SIGMA, MOVE = 0.05, 0.2  # of a learner's mutations and an opponent's


def coevolve(
    opponents: Opponents,
    width: int,
    generations: int,
    seed: int,
    *,
    history: np.ndarray | None = None,
    learner: str = "student",
) -> tuple[Point, Float[np.ndarray, "generations opponents inputs"]]:
    """The learner in the end, and every generation's opponents.

    A learner of the teacher's function is an evolution strategy's mean, whose fitness is its error on the opponents of
    the generation. Co-evolving opponents are the worse half of themselves and their mutants, for the learner as it is.
    ``shuffled`` opponents are those of a ``history`` in random order: the same, but no answer to this learner.
    ``random`` ones are drawn anew, ``frozen`` ones stay the first. ``learner``: names the stream it starts from.
    """
    rng = numpy_stream(seed, "coevolution", opponents, learner)
    now = numpy_stream(seed, "opponents", learner).uniform(-BOX, BOX, (COUNT, INPUTS))
    order = rng.permutation(generations)
    point, met = network_point(width, seed, learner), []
    for generation in range(generations):
        if opponents == "shuffled":
            assert history is not None
            now = history[order[generation]]
        elif opponents == "random":
            now = rng.uniform(-BOX, BOX, (COUNT, INPUTS))
        elif opponents == "co-evolving":
            mutants = np.clip(now + MOVE * rng.normal(size=now.shape), -BOX, BOX)
            both = np.concatenate([now, mutants])
            now = both[np.argsort(-errors(point, both, seed), kind="stable")[:COUNT]]
        met.append(now)
        steps = SIGMA * mutations(rng, LEARNERS, len(point))
        losses = np.square(network(point + steps, now) - teach(now, seed)).mean(1)
        point = point + displacement(losses, steps, "standardised")
    return point, np.array(met)


def teach(inputs: Inputs, seed: int) -> Float[np.ndarray, " opponents"]:
    """What is to be learnt, of a teacher of width 4."""
    return np.asarray(2 * network(network_point(4, seed, "teacher")[None], inputs)[0])


def errors(learner: Point, inputs: Inputs, seed: int) -> Float[np.ndarray, " opponents"]:
    """A learner's squared error on every input."""
    return np.asarray(np.square(network(learner[None], inputs)[0] - teach(inputs, seed)))


def strength(width: int, generations: int, seed: int) -> dict[str, float]:
    """log₁₀ of the learner's mean squared error under every kind of opponents.

    On an archive: every tenth generation's opponents of a run of its own, which no learner here has met
    (``archive …``); and on random inputs (``random …``).
    """
    _, archive = coevolve("co-evolving", width, generations, seed, learner="archive")
    inputs = {
        "archive": archive[::10].reshape(-1, INPUTS),
        "random": numpy_stream(seed, "coevolution", "test").uniform(-BOX, BOX, (2048, INPUTS)),
    }
    _, history = coevolve("co-evolving", width, generations, seed)
    kinds: tuple[Opponents, ...] = ("co-evolving", "frozen", "shuffled", "random")
    learners = {kind: coevolve(kind, width, generations, seed, history=history)[0] for kind in kinds}
    return {
        f"{where} {kind}": float(np.log10(errors(learner, tested, seed).mean()))
        for where, tested in inputs.items()
        for kind, learner in learners.items()
    }
