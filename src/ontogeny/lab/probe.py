"""What a linear readout of a network's last hidden states knows of the next token, whatever the network itself says."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ontogeny.training.batches import evaluation_windows
from ontogeny.training.text import Split, Tokens

FITTED = 16_384  # tokens of the train split that the readout is fitted on
SCORED = 8_192  # tokens of tune, and of the scored split
PENALTIES = tuple(10.0**power for power in range(-4, 3))  # ridge, as shares of the states' mean square


@dataclass(frozen=True)
class Probe:
    """Fits a ridge readout of the next token on train windows, its penalty chosen on tune, and scores it on a split."""

    tokens: Tokens
    length: int
    split: Split
    windows: dict[str, Int[Tensor, "windows length_plus_1"]] = field(init=False)

    def __post_init__(self) -> None:
        counts = {"train": FITTED, "tune": SCORED, self.split: SCORED}
        cut = {
            part: evaluation_windows(getattr(self.tokens, part), self.length, max(1, count // self.length))
            for part, count in counts.items()
        }
        object.__setattr__(self, "windows", cut)

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """``probe``: the share of next tokens that the readout gets wrong; ``guess``: that the commonest token does.

        ``alignment``: the kernel–target alignment of the states with the next token.
        """
        training = model.training
        model.eval()
        states = {part: last_states(model, windows[:, :-1]) for part, windows in self.windows.items()}
        model.train(training)
        targets = {part: windows[:, 1:].flatten() for part, windows in self.windows.items()}
        readouts = ridge(states["train"], targets["train"], self.tokens.vocabulary)
        wrong = [_error(readout, states["tune"], targets["tune"]) for readout in readouts]
        scored = states[self.split], targets[self.split]
        commonest = targets["train"].mode().values
        return {
            "probe": _error(readouts[int(np.argmin(wrong))], *scored),
            "guess": float((scored[1] != commonest).double().mean()),
            "alignment": target_alignment(*scored, self.tokens.vocabulary),
        }


def last_states(model: nn.Module, ids: Int[Tensor, "windows length"]) -> Float[Tensor, "tokens d_plus_1"]:
    """The last hidden states, float64 on the CPU, with a column of ones."""
    device = next(model.parameters()).device
    parts = [
        model(input_ids=part.to(device), use_cache=False, output_hidden_states=True).hidden_states[-1].cpu()
        for part in ids.split(32)
    ]
    return F.pad(torch.cat(parts).flatten(0, 1).double(), (0, 1), value=1.0)


def ridge(
    states: Float[Tensor, "tokens d"], targets: Int[Tensor, " tokens"], vocabulary: int
) -> list[Float[Tensor, "d vocabulary"]]:
    """Readouts of one-hot targets Y, a penalty each: (XᵀX + λI)⁻¹ XᵀY by the eigenvectors of XᵀX."""
    values, vectors = torch.linalg.eigh(states.T @ states)
    rotated = vectors.T @ _moments(states, targets, vocabulary)
    scale = float(values.mean())
    return [vectors @ (rotated / (values + penalty * scale)[:, None]) for penalty in PENALTIES]


def target_alignment(states: Float[Tensor, "tokens d"], targets: Int[Tensor, " tokens"], vocabulary: int) -> float:
    """Centred kernel–target alignment of XXᵀ with one-hot targets' YYᵀ, in [0, 1] (Cortes, Mohri & Rostamizadeh 2012).

    ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F), both centred; YᵀY − n nᵀ/N from the counts n of N tokens alone.
    """
    x = states - states.mean(0)
    counts = torch.bincount(targets, minlength=vocabulary).double()
    squares, total = counts.square().sum(), counts.sum()
    target = (squares - 2 * counts.pow(3).sum() / total + (squares / total).square()).sqrt()
    return float(_moments(x, targets, vocabulary).square().sum() / ((x.T @ x).norm() * target))


def _moments(states: Tensor, targets: Tensor, vocabulary: int) -> Float[Tensor, "d vocabulary"]:
    """XᵀY of one-hot Y, which is never formed."""
    sums = torch.zeros(vocabulary, states.shape[1], dtype=states.dtype)
    return sums.index_add_(0, targets, states).T


def _error(readout: Tensor, states: Tensor, targets: Tensor) -> float:
    return float(((states @ readout).argmax(-1) != targets).double().mean())
