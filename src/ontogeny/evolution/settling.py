"""When the axes of a language model settle: by training step, and by how much text it has to go by."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ontogeny.evolution.dialects import LENGTH, bigram_loss, corpus, windows
from ontogeny.evolution.language_models import (
    BATCH,
    Axes,
    Shape,
    agreement,
    axes,
    best_rate,
    fresh,
    held_out_losses,
    make_frame,
    next_symbol_losses,
    one_of,
    together,
)
from ontogeny.evolution.networks import Losses, fit
from ontogeny.streams import numpy_stream

OWN, TWIN, FOREIGN, SHUFFLED = range(4)  # networks of the stack; after them one for every share of the tokens
HELD = 16 * BATCH  # windows

Order = Int[Tensor, " windows"]


def settling(steps: int, shares: tuple[float, ...], seed: int) -> dict[str, float]:
    """Agreement of a network's axes with its twin's last ones, mean of all sites, and its held-out losses.

    The twin has the same start and other text. ``start``: the untrained network, whose axes are in both; ``final``;
    ``steps f``: after this share of the steps; ``tokens f``: of a network that reads this share of the text again and
    again, for as many steps; ``shuffled``: of one whose text has its symbols shuffled. ``foreign …``: the same against
    a network with a start of its own, where nothing is there by the start. The rate is constant, so that nothing
    settles because the rate falls.
    """
    shape, rng = Shape(), numpy_stream(seed, "settling")
    rate, resolved = best_rate(shape, steps // 2, "prose", decaying=False)
    read = steps * BATCH
    text = corpus("prose", (3 * read + HELD + 1) * LENGTH + 1)
    found, frame = windows(text, rng), make_frame(seed)
    held, parts = found[:HELD], [found[HELD + i * read :][:read] for i in range(3)]
    shuffled = windows(rng.permutation(text), rng)[:read]
    each = [*parts, shuffled, *(parts[0][_repeated(read, share, rng)] for share in shares)]
    start = fresh(rng)
    body = together([start, start, fresh(rng), *[start] * (1 + len(shares))])
    at = {max(1, round(share * steps)): share for share in shares}
    path: dict[str, Axes] = {}
    losses: dict[str, float] = {}

    def look(name: str) -> None:
        path[name] = axes(one_of(body, [OWN]))
        losses[name] = held_out_losses(one_of(body, [OWN]), held, frame, shape)[0]

    def loss(step: int) -> Losses:
        if step in at:
            with torch.no_grad():
                look(f"steps {at[step]:g}")
        batch = torch.stack([one[step * BATCH :][:BATCH] for one in each])
        return next_symbol_losses(body, batch, frame, shape)

    look("start")
    fit(body, loss, torch.full((len(each),), rate), steps, decaying=False)
    look("final")
    for network, name in enumerate(["shuffled", *(f"tokens {share:g}" for share in shares)], start=SHUFFLED):
        path[name] = axes(one_of(body, [network]))
        losses[name] = held_out_losses(one_of(body, [network]), held, frame, shape)[0]
    last = axes(one_of(body, [TWIN, FOREIGN]))
    agreed = {name: agreement(seen, last).mean(0)[0] for name, seen in path.items()}
    measured = {name: float(pair[0]) for name, pair in agreed.items()}
    measured |= {f"foreign {name}": float(pair[1]) for name, pair in agreed.items()}
    measured |= {f"loss {name}": value for name, value in losses.items()}
    return measured | {"bigram": bigram_loss(text), "resolved": float(resolved)}


def _repeated(read: int, share: float, rng: np.random.Generator) -> Order:
    """So many windows from this share of them, every time round in a new order."""
    own = max(BATCH, round(share * read))
    rounds = [rng.permutation(own) for _ in range(-(-read // own))]
    return torch.from_numpy(np.concatenate(rounds)[:read])
