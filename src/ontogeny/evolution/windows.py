"""What a network grows up with is withheld for a while, early or late, and given back: is there a critical period?

Either one of two eyes is closed, or one kind of text is replaced by the other. All rates are constant where nothing
else is said, since one that decays makes early steps count for more by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution import skills
from ontogeny.evolution.axes import Axes, cores, leading_axes, random_axes, unfolded
from ontogeny.evolution.networks import RATES, TUNING, Layer, Losses, best_rate, fit, he_normal, outputs, parameters
from ontogeny.evolution.senses import CLASSES, PIXELS, TESTED, Images, Labels, Views, digits
from ontogeny.streams import numpy_stream

WIDTH, RANK = 48, 24  # of both hidden layers; of the axes that they are held to
BATCH = 32
LOOKS = 4  # views of every image in the test
Sample = tuple[Float[Tensor, "_ _"], Int[Tensor, " _"]]  # inputs and labels, a row each


@dataclass(frozen=True, eq=False)
class World:
    """What is learnt. ``batch``: of a life's step, as it is and with something withheld.

    ``alone``: a test of what is withheld; ``all``: of everything; ``good``: of losses and shares right, what counts.
    ``nothing``: what counts of a network that has learnt nothing.
    """

    classes: int
    batch: Callable[[str, int], tuple[Sample, Sample]]
    alone: Sample
    all: Sample
    good: Callable[[Losses, Losses], Losses]
    nothing: float


def two_eyes(seed: int) -> World:
    """One digit before two eyes, each with its own shift and noise; the right one is closed, and sees only noise.

    Its test is with the left one covered: nothing comes in from there, not even noise, which would swamp what does.
    """
    images, held = digits(seed)

    def sample(left: Views, right: Views, labels: Labels) -> Sample:
        return torch.from_numpy(np.hstack([left, right])), torch.from_numpy(labels)

    def batch(life: str, step: int) -> tuple[Sample, Sample]:
        rng = numpy_stream(seed, life, step)
        rows = rng.integers(len(images.labels), size=BATCH)
        left, right = images.seen(rows, rng), images.seen(rows, rng)
        labels = images.labels[rows]
        return sample(left, right, labels), sample(left, images.closed(BATCH, rng), labels)

    rng, rows = numpy_stream(seed, "test"), np.tile(np.arange(TESTED), LOOKS)
    left, right = held.seen(rows, rng), held.seen(rows, rng)
    alone = sample(np.zeros_like(left), right, held.labels[rows])
    both = sample(left, right, held.labels[rows])
    return World(CLASSES, batch, alone, both, lambda loss, right: right, 1 / CLASSES)


def two_skills(seed: int) -> World:
    """Prose and code by the character, half and half; code is withheld, and prose stands in for it."""
    (skill, tested_skill), (rest, tested_rest) = (skills.characters(kind) for kind in (skills.SKILL, skills.REST))

    def drawn(text: skills.Characters, rows: int, rng: np.random.Generator) -> list[Tensor]:
        starts = rng.integers(len(text) - skills.CONTEXT, size=rows)
        return [torch.from_numpy(part) for part in skills.passages(text, starts)]

    def joined(*parts: list[Tensor]) -> Sample:
        inputs, targets = (torch.cat(which) for which in zip(*parts, strict=True))
        return inputs, targets

    def batch(life: str, step: int) -> tuple[Sample, Sample]:
        rng = numpy_stream(seed, life, step)
        common = drawn(rest, BATCH // 2, rng)
        return joined(common, drawn(skill, BATCH // 2, rng)), joined(common, drawn(rest, BATCH // 2, rng))

    rng = numpy_stream(seed, "test")
    alone, other = (drawn(text, 2000, rng) for text in (tested_skill, tested_rest))
    nothing = -skills.unigram_loss(skill, tested_skill)
    return World(len(skills.ALPHABET), batch, joined(alone), joined(alone, other), lambda loss, right: -loss, nothing)


WORLDS: Mapping[str, Callable[[int], World]] = {"eye": two_eyes, "skill": two_skills}
ARMS = ("dense", "genome", "random")


@dataclass(frozen=True)
class Life:
    """As many steps as ``onset`` with everything, ``length`` with something withheld, then ``recovery`` with all."""

    onset: int
    length: int
    recovery: int

    @property
    def end(self) -> int:
        return self.onset + self.length + self.recovery


def lives(onsets: Sequence[int], lengths: Sequence[int], recovery: int) -> list[Life]:
    """Every onset × every length, 0 first: the same steps with everything, and none without."""
    return [Life(onset, length, recovery) for onset in onsets for length in (0, *lengths)]


def grow_up(
    world: World, layers: list[Layer], axes: Sequence[Axes | None], lived: Sequence[Life], rates: Losses,
    stream: str, *, decaying: bool = False,
) -> list[Layer]:  # fmt: skip
    """Networks of one start after these lives, one each, with their weights written out."""
    onset, length, end = (torch.tensor([getattr(life, what) for life in lived]) for what in ("onset", "length", "end"))

    def losses(step: int) -> Losses:
        (inputs, targets), (poorer, other) = world.batch(stream, step)
        withheld = (onset <= step) & (step < onset + length)
        chosen = torch.where(withheld[:, None, None], poorer, inputs)
        return losses_of(unfolded(layers, axes), chosen, torch.where(withheld[:, None], other, targets))

    fit(parameters(layers), losses, rates, int(end.max()), ends=end.float(), decaying=decaying)
    return unfolded(layers, axes)


def losses_of(
    layers: Sequence[Layer], inputs: Float[Tensor, "networks rows inputs"], targets: Int[Tensor, "networks rows"]
) -> Losses:
    """Cross-entropy of every network, nats a row."""
    said = outputs(layers, inputs)
    nats = torch.nn.functional.cross_entropy(said.flatten(0, 1), targets.flatten(), reduction="none")
    return nats.view(targets.shape).mean(1)


def scored(layers: Sequence[Layer], sample: Sample) -> tuple[Losses, Losses]:
    """Loss and share right of every network on the same rows."""
    inputs, targets = (part.expand(len(layers[0][0]), *part.shape) for part in sample)
    right = (outputs(layers, inputs).argmax(-1) == targets).float().mean(1)
    return losses_of(layers, inputs, targets), right


def _start(world: World, seed: int, name: str) -> list[np.ndarray]:
    sizes = (world.alone[0].shape[1], WIDTH, WIDTH, world.classes)
    return he_normal(sizes, numpy_stream(seed, "start", name))


def axes_for(arm: str, world: World, rate: float, steps: int, seed: int) -> list[Axes | None]:
    """What both hidden layers are held to: nothing, a donor's leading subspaces, or random ones of the same rank.

    The donor is another start on other draws of the same world, with nothing withheld, at the dense arm's rate.
    """
    start = _start(world, seed, "donor")
    if arm == "dense":
        return [None] * len(start)
    if arm == "random":
        rng = numpy_stream(seed, "random axes")
        return [*(random_axes(len(w), w.shape[1], RANK, rng) for w in start[:-1]), None]
    nothing: list[Axes | None] = [None] * len(start)
    donor = grow_up(world, cores(start, nothing, 1), nothing, [Life(0, 0, steps)], torch.tensor([rate]), "donor's life")
    return [*(leading_axes(weights[0], RANK) for weights, _ in donor[:-1]), None]


@cache
def tuned(kind: str, arm: str, steps: int, decaying: bool) -> tuple[float, bool]:
    """The rate at which an arm's loss is least after so many steps with everything; whether inside the grid."""
    world = WORLDS[kind](TUNING)
    rate = 0.0 if arm != "genome" else tuned(kind, "dense", steps, False)[0]
    axes = axes_for(arm, world, rate, steps, TUNING)
    rates = torch.tensor(RATES)
    whole = [Life(0, 0, steps)] * len(RATES)
    layers = cores(_start(world, TUNING, "own"), axes, len(RATES))
    best = best_rate(scored(grow_up(world, layers, axes, whole, rates, "life", decaying=decaying), world.all)[0])
    return best, best not in (RATES[0], RATES[-1])


def dominance(layers: Sequence[Layer], images: Images) -> Losses:
    """(right − left)/(right + left), mean over first-layer units, of their responses' sd to digits before one eye."""
    covariance = torch.from_numpy(np.cov(images.moved.reshape(-1, PIXELS).T)).float()
    weights = layers[0][0]
    left, right = (((half.mT @ covariance) * half.mT).sum(-1).sqrt() for half in weights.split(PIXELS, 1))
    index: Losses = ((right - left) / (right + left)).mean(1)
    return index


def deprivation(
    kind: str, arm: str, onsets: Sequence[int], lengths: Sequence[int], recovery: int, decaying: bool, seed: int
) -> dict[str, Any]:
    """``alone``: what counts, of what was withheld, by onset and length (0 first); ``all``: of everything.

    Of eyes the share right through the right eye alone, of skills −loss on the skill's text. ``dominance``, of eyes;
    ``nothing``: of a network that has learnt nothing; ``resolved``: 1 where the rate is inside its grid.
    """
    world = WORLDS[kind](seed)
    rate, resolved = tuned(kind, arm, recovery, decaying)
    donors, donors_resolved = tuned(kind, "dense", recovery, False) if arm == "genome" else (rate, resolved)
    axes = axes_for(arm, world, donors, recovery + max(onsets), seed)
    lived = lives(onsets, lengths, recovery)
    layers = cores(_start(world, seed, "own"), axes, len(lived))
    grown = grow_up(world, layers, axes, lived, torch.full((len(lived),), rate), "life", decaying=decaying)

    def table(values: Losses) -> list[list[float]]:
        found: list[list[float]] = values.view(len(onsets), -1).tolist()
        return found

    found = {name: table(world.good(*scored(grown, getattr(world, name)))) for name in ("alone", "all")}
    if kind == "eye":
        found["dominance"] = table(dominance(grown, digits(seed)[1]))
    return found | {"nothing": world.nothing, "resolved": float(resolved and donors_resolved), "rate": rate}
