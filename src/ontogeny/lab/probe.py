"""What a linear readout of a network's last hidden states knows of the next token, whatever the network itself says."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ontogeny.training.batches import evaluation_windows
from ontogeny.training.text import Split, Tokens

FITTED = 16_384  # tokens of the train split that the readout is fitted on
SCORED = 4_096  # tokens of tune, and of the scored split
PENALTIES = tuple(10.0**power for power in range(-5, 2))  # ridge, as shares of the states' variance


@dataclass(frozen=True)
class Probe:
    """Fits a ridge readout of the next token on train windows, its penalty chosen on tune, and scores it on a split."""

    tokens: Tokens
    length: int
    split: Split

    @cached_property
    def windows(self) -> dict[str, Int[Tensor, "windows length_plus_1"]]:
        """Split -> windows to fit or to score on."""
        counts = {"train": FITTED, "tune": SCORED, self.split: SCORED}
        return {
            part: evaluation_windows(getattr(self.tokens, part), self.length, max(1, count // self.length))
            for part, count in counts.items()
        }

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """``probe``: the share of next tokens that the readout gets wrong; ``guess``: that the commonest token does.

        ``embedded``: the same readout of the embeddings, before any layer. ``alignment``: the kernel–target alignment
        of the last states with the next token.
        """
        training = model.training
        model.eval()
        states = {part: hidden_states(model, windows[:, :-1]) for part, windows in self.windows.items()}
        model.train(training)
        targets = {part: windows[:, 1:].flatten() for part, windows in self.windows.items()}
        commonest = targets["train"].mode().values
        first, last = ({part: found[end] for part, found in states.items()} for end in (0, 1))
        return {
            "probe": self._error(last, targets),
            "embedded": self._error(first, targets),
            "guess": float((targets[self.split] != commonest).double().mean()),
            "alignment": target_alignment(last[self.split], targets[self.split], self.tokens.vocabulary),
        }

    def _error(self, states: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> float:
        """Wrong on the split, by the readout whose penalty does best on tune."""
        readouts = ridge(states["train"], targets["train"], self.tokens.vocabulary)
        wrong = [readout.error(states["tune"], targets["tune"]) for readout in readouts]
        return readouts[int(np.argmin(wrong))].error(states[self.split], targets[self.split])


def hidden_states(
    model: nn.Module, ids: Int[Tensor, "windows length"]
) -> tuple[Float[Tensor, "tokens d"], Float[Tensor, "tokens d"]]:
    """The embeddings and the last hidden states, float64 on the CPU."""
    device = next(model.parameters()).device
    found = [
        model(input_ids=part.to(device), use_cache=False, output_hidden_states=True).hidden_states
        for part in ids.split(32)
    ]
    first, last = (torch.cat([states[end].cpu() for states in found]).flatten(0, 1).double() for end in (0, -1))
    return first, last


@dataclass(frozen=True)
class Readout:
    """Scores of the next token: ``prior + (x − mean) · weights``."""

    weights: Float[Tensor, "d vocabulary"]
    mean: Float[Tensor, " d"]
    prior: Float[Tensor, " vocabulary"]

    def error(self, states: Float[Tensor, "tokens d"], targets: Int[Tensor, " tokens"]) -> float:
        """The share of targets that it doesn't score highest."""
        scores = torch.addmm(self.prior.float(), (states - self.mean).float(), self.weights.float())
        return float((scores.argmax(-1) != targets).double().mean())


def ridge(states: Float[Tensor, "tokens d"], targets: Int[Tensor, " tokens"], vocabulary: int) -> list[Readout]:
    """Readouts of one-hot targets Y, a penalty each: (XᵀX + λI)⁻¹ XᵀY of centred X, by the eigenvectors of XᵀX.

    The prior isn't penalised, and λ is in units of XᵀX's mean eigenvalue, so that the scale of the states is nothing.
    """
    mean = states.mean(0)
    x = states - mean
    values, vectors = torch.linalg.eigh(x.T @ x)
    rotated, scale = vectors.T @ _moments(x, targets, vocabulary), float(values.mean())
    prior = torch.bincount(targets, minlength=vocabulary).double() / len(targets)
    return [Readout(vectors @ (rotated / (values + p * scale)[:, None]), mean, prior) for p in PENALTIES]


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
