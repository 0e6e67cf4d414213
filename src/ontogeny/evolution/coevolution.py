"""Learners and the opponents that look for their errors, evolving against each other or not."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.landscapes import INPUTS, Points, network, network_point
from ontogeny.evolution.population import displacement, mutations
from ontogeny.streams import numpy_stream

Opponents = Literal["co-evolving", "frozen", "shuffled", "random"]
Inputs = Float[np.ndarray, "opponents inputs"]
KINDS: tuple[Opponents, ...] = ("co-evolving", "frozen", "shuffled", "random")
COUNT, LEARNERS = 32, 32  # opponents at a time; learners of a generation
BOX = 2.0  # opponents are inputs within ±BOX
SIGMA, MOVE = 0.05, 0.2  # of a learner's mutations and an opponent's
LAST = 0.2  # the share of generations, the last ones, whose learners are scored


def coevolve(
    opponents: Opponents,
    width: int,
    generations: int,
    seed: int,
    *,
    history: np.ndarray | None = None,
    learner: str = "student",
) -> tuple[Points, Float[np.ndarray, "generations opponents inputs"]]:
    """Every generation's learner and opponents.

    A learner of the teacher's function is an evolution strategy's mean, whose fitness is its error on the opponents of
    the generation; its mutations are the same whatever the opponents. Co-evolving opponents are the worse half of
    themselves and their mutants, for the learner as it is. ``shuffled`` opponents are those of a ``history`` in random
    order: the same, but no answer to this learner. ``random`` ones are drawn anew, ``frozen`` ones stay the first.
    ``learner``: names the streams it starts from and mutates by.
    """
    births, moves = (numpy_stream(seed, "coevolution", kind, learner) for kind in ("learner", "opponents"))
    now = numpy_stream(seed, "opponents", learner).uniform(-BOX, BOX, (COUNT, INPUTS))
    order = moves.permutation(generations)
    point, learners, met = network_point(width, seed, learner), [], []
    for generation in range(generations):
        if opponents == "shuffled":
            assert history is not None
            now = history[order[generation]]
        elif opponents == "random":
            now = moves.uniform(-BOX, BOX, (COUNT, INPUTS))
        elif opponents == "co-evolving":
            mutants = np.clip(now + MOVE * moves.normal(size=now.shape), -BOX, BOX)
            both = np.concatenate([now, mutants])
            now = both[np.argsort(-errors(point[None], both, seed)[0], kind="stable")[:COUNT]]
        steps = SIGMA * mutations(births, LEARNERS, len(point))
        point = point + displacement(errors(point + steps, now, seed).mean(1), steps, "standardised")
        met.append(now)
        learners.append(point)
    return np.array(learners), np.array(met)


def errors(learners: Points, inputs: Inputs, seed: int) -> Float[np.ndarray, "points opponents"]:
    """Every learner's squared error on every input; what is to be learnt is a teacher of width 4."""
    taught = 2 * network(network_point(4, seed, "teacher")[None], inputs)[0]
    return np.asarray(np.square(network(learners, inputs) - taught))


def strength(width: int, generations: int, seed: int) -> dict[str, float]:
    """log₁₀ of the mean squared error of the last learners under every kind of opponents.

    On an archive: every tenth generation's opponents of a run of its own, which no learner here has met
    (``archive …``); and on random inputs (``random …``).
    """
    _, archive = coevolve("co-evolving", width, generations, seed, learner="archive")
    tests = {
        "archive": archive[::10].reshape(-1, INPUTS),
        "random": numpy_stream(seed, "coevolution", "test").uniform(-BOX, BOX, (2048, INPUTS)),
    }
    _, history = coevolve("co-evolving", width, generations, seed)
    last = max(1, round(LAST * generations))
    learners = {kind: coevolve(kind, width, generations, seed, history=history)[0][-last:] for kind in KINDS}
    return {
        f"{where} {kind}": float(np.log10(errors(points, inputs, seed).mean()))
        for where, inputs in tests.items()
        for kind, points in learners.items()
    }
