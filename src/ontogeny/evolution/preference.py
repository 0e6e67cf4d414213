"""Tuning for preference: how far it moves a model's axes, and how soon ordinary training undoes it.

A model is trained on marked text in which one rule of spelling is kept, and the other is a coin's. It is then tuned
to prefer that the second be kept too, as strongly as it prefers the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ontogeny.evolution.dialects import (
    LENGTH,
    MARKS,
    Dialect,
    bigram_loss,
    corpus,
    make_dialect,
    mark,
    slots,
    windows,
)
from ontogeny.evolution.language_models import (
    BATCH,
    Body,
    Frame,
    Logits,
    Shape,
    Windows,
    agreement,
    axes,
    best_rate,
    fresh,
    held_out_losses,
    logits,
    make_frame,
    next_symbol_losses,
    one_of,
    together,
)
from ontogeny.evolution.networks import Losses, fit, tensor
from ontogeny.streams import numpy_stream

KEPT, FREE = 0, 1  # the rules: pretrained, and tuned for
RULES = ("kept", "free")
AGREEMENT, SURER = 0.95, 0.99  # of marks with a rule that is kept, and with one that is taught late, in less time
BETA = 0.1  # of the preference's loss
HELD = 48  # windows
SHAPE = Shape()
TUNED, ORDINARY, LATE = range(3)  # networks of the second phase
UNDONE = ("tuned", "late", "absent")  # networks of the third

Margins = Float[np.ndarray, "networks rules"]
Read = Int[Tensor, "_ _"]  # windows × LENGTH + 1


def preference(steps: int, most: int, slower: float, seed: int) -> dict[str, float]:
    """Tune a model for a preference, and undo it, at ``slower`` × its rate and within ``most`` steps each.

    The margin of a rule: mean log odds of the mark that agrees, nats, on held-out text in which marks are coins.
    ``margin kept``, ``margin free``: of the base; ``tuned …`` those when the free rule's is as large as the other's;
    ``tuned steps`` until then, and ``tuned reached``. ``late …``: of a model taught the same by ordinary training on
    text that keeps both rules. ``move …``: 1 − agreement of the axes with the base's: of ``tuned`` and ``late``, of
    ordinary training of as many ``steps`` and of the ``distance`` nearest the tuned one's, and of ``noise`` of its
    distance in every matrix. ``tuned undone free`` (and ``kept``): steps of training on text in which all marks are
    coins until a margin is half of what it was, within ``most``; ``absent undone …``: on text without marks; ``late
    undone …``; ``… in time``: whether it was within ``most``.
    """
    rng, frame = numpy_stream(seed, "preference"), make_frame(seed)
    plain = corpus("prose", (steps + most + HELD) * BATCH * LENGTH)
    dialect = make_dialect(plain, rng)
    rate, resolved = best_rate(SHAPE, steps // 2, "prose")

    def read(agreement: tuple[float, float], count: int) -> Read:
        return windows(mark(plain, dialect, agreement, rng), rng)[:count]

    held, fair = read((AGREEMENT, 0.5), HELD), read((0.5, 0.5), HELD + most * BATCH)
    text, taught = read((AGREEMENT, 0.5), (steps + most) * BATCH), read((AGREEMENT, SURER), most * BATCH)
    base, look = fresh(rng), Look(frame, dialect, fair[:HELD])
    fit(base, lambda step: next_symbol_losses(base, _batch([text], step), frame, SHAPE), torch.tensor([rate]), steps)
    found = {"loss": held_out_losses(base, held, frame, SHAPE)[0], "resolved": float(resolved)}
    found |= {"bigram": bigram_loss(mark(plain, dialect, (AGREEMENT, 0.5), rng))}
    found |= dict(zip(("margin kept", "margin free"), look.margins(base)[0].tolist(), strict=True))
    ordinary = text[steps * BATCH :]
    later = walk(base, [ordinary, ordinary, taught], look, rate * slower, most, prefers=True)
    tuned, late, moved = _moves(base, later, rng)
    without = windows(plain, rng)[: most * BATCH]
    undoing = walk(together([tuned, late, tuned]), [fair[HELD:], fair[HELD:], without], look, rate * slower, most)
    return found | moved | undone(undoing)


@dataclass(frozen=True, eq=False)
class Look:
    """Margins of both rules on the same held-out windows."""

    frame: Frame
    dialect: Dialect
    held: Read

    @torch.no_grad()
    def margins(self, body: Body) -> Margins:
        """Of every network."""
        symbols = self.held.expand(len(body[0]), -1, -1)
        found = logits(body, symbols[..., :-1], self.frame, SHAPE)
        rules = []
        for rule in (KEPT, FREE):
            each, due = odds(found, symbols, self.dialect, rule)
            rules.append((each * due).sum((1, 2)) / due.sum((1, 2)))
        return torch.stack(rules, 1).double().numpy()


def odds(found: Logits, symbols: Windows, dialect: Dialect, rule: int) -> tuple[Tensor, Tensor]:
    """Log odds of the mark that agrees, networks × batch × length, and where a mark of the rule is due."""
    due, classes = slots(symbols, dialect, rule)
    first = found[..., MARKS[0]] - found[..., MARKS[1]]
    return torch.where(classes == 0, first, -first), due


@dataclass(frozen=True, eq=False)
class Walk:
    """A stack of networks and their margins at every look."""

    steps: list[int]
    bodies: list[Body]
    margins: Float[np.ndarray, "looks networks rules"]


def walk(start: Body, texts: Sequence[Read], look: Look, rate: float, most: int, *, prefers: bool = False) -> Walk:
    """Train a stack, a text a network, at a constant rate; one network in ``start`` stands for all.

    ``prefers``: the first learns the free rule's marks by preference alone, −log σ(BETA · log odds) for pairs of marks
    in one context (Rafailov et al. 2023; their reference model is indifferent here), and nothing else of its text.
    """
    body = together([start] * (len(texts) // len(start[0])))
    at, seen, margins = looks(most), [], []

    def note() -> None:
        seen.append(one_of(body, range(len(texts))))
        margins.append(look.margins(body))

    def losses(step: int) -> Losses:
        if step in at:
            with torch.no_grad():
                note()
        symbols = _batch(texts, step)
        if not prefers:
            return next_symbol_losses(body, symbols, look.frame, SHAPE)
        first, rest = ([part[chosen] for part in body] for chosen in (slice(0, 1), slice(1, None)))
        each, due = odds(logits(first, symbols[:1, :, :-1], look.frame, SHAPE), symbols[:1], look.dialect, FREE)
        preferred = -(F.logsigmoid(BETA * each) * due).sum((1, 2)) / due.sum((1, 2)).clamp(min=1)
        return torch.cat([preferred, next_symbol_losses(rest, symbols[1:], look.frame, SHAPE)])

    fit(body, losses, torch.full((len(texts),), rate), most, decaying=False)
    note()
    return Walk(at, seen, np.stack(margins))


def looks(most: int) -> list[int]:
    """Steps at which margins are measured: 0, every one at first, then eight to a doubling, and the last."""
    powers = (round(2 ** (power / 8)) for power in range(8 * most.bit_length()))
    return sorted({0, most, *(step for step in powers if step < most)})


def _moves(base: Body, later: Walk, rng: np.random.Generator) -> tuple[Body, Body, dict[str, float]]:
    """The tuned network and the one taught late, as strong in the free rule as in the other; how far axes moved."""
    places: dict[str, int] = {}
    found: dict[str, float] = {}
    for name, network in (("tuned", TUNED), ("late", LATE)):
        ahead = later.margins[:, network, FREE] >= later.margins[:, network, KEPT]
        place = int(np.argmax(ahead)) if ahead.any() else len(ahead) - 1
        places[name] = place
        found |= {f"{name} reached": float(ahead.any()), f"{name} steps": float(later.steps[place])}
        found |= {f"{name} {rule}": float(later.margins[place, network, i]) for i, rule in enumerate(RULES)}
    tuned, late = (
        one_of(later.bodies[places[name]], [network]) for name, network in (("tuned", TUNED), ("late", LATE))
    )
    ways = [one_of(body, [ORDINARY]) for body in later.bodies]
    goal = distance(tuned, base)
    lengths = np.array([distance(way, base) for way in ways])
    nearest = int(np.argmin(np.abs(np.log(np.maximum(lengths, 1e-12) / goal))))
    noise = [part + (one - part).norm() * _unit(tuple(part.shape), rng) for part, one in zip(base, tuned, strict=True)]
    others = {"tuned": tuned, "late": late, "steps": ways[places["tuned"]], "distance": ways[nearest], "noise": noise}
    own = axes(base)
    found |= {f"move {name}": 1 - float(agreement(own, axes(body)).mean()) for name, body in others.items()}
    found |= {"distance": goal, "ordinary distance": float(lengths[nearest])}
    return tuned, late, found


def distance(one: Body, other: Body) -> float:
    """Euclidean, of all weights of single networks."""
    return float(sum(float((a - b).square().sum()) for a, b in zip(one, other, strict=True)) ** 0.5)


def _unit(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    drawn = tensor(rng.normal(size=shape))
    unit: Tensor = drawn / drawn.norm()
    return unit


def undone(path: Walk) -> dict[str, float]:
    """Steps until a margin is half of what it was, interpolated between looks, for every network of UNDONE and rule."""
    found = {}
    for network, name in enumerate(UNDONE):
        for i, rule in enumerate(RULES):
            margins = path.margins[:, network, i]
            place = int(np.argmax(margins <= margins[0] / 2))  # 0 if it never is, or was nothing to begin with
            found[f"{name} undone {rule}"] = float(path.steps[-1])
            found[f"{name} undone {rule} in time"] = float(place > 0)
            if place:
                share = (margins[place - 1] - margins[0] / 2) / (margins[place - 1] - margins[place])
                before, after = path.steps[place - 1], path.steps[place]
                found[f"{name} undone {rule}"] = float(before + share * (after - before))
    return found


def _batch(texts: Sequence[Read], step: int) -> Windows:
    return torch.stack([text[step * BATCH :][:BATCH] for text in texts])
