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
    def error(self, model: nn.Module) -> float:
        """The share of next tokens that the readout gets wrong."""
        training = model.training
        model.eval()
        states = {part: last_states(model, windows[:, :-1]) for part, windows in self.windows.items()}
        model.train(training)
        targets = {part: windows[:, 1:].flatten().cpu() for part, windows in self.windows.items()}
        readouts = ridge(states["train"], targets["train"], self.tokens.vocabulary)
        wrong = [_error(readout, states["tune"], targets["tune"]) for readout in readouts]
        best = readouts[int(np.argmin(wrong))]
        return _error(best, states[self.split], targets[self.split])


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
    """Readouts of one-hot targets, a penalty each: (XᵀX + λI)⁻¹ Xᵀ Y by XᵀX's eigenvectors."""
    gram = states.T @ states
    moments = torch.zeros(vocabulary, states.shape[1], dtype=states.dtype).index_add_(0, targets, states).T
    values, vectors = torch.linalg.eigh(gram)
    scale = float(gram.diagonal().mean())
    rotated = vectors.T @ moments
    return [vectors @ (rotated / (values + penalty * scale)[:, None]) for penalty in PENALTIES]


def _error(readout: Tensor, states: Tensor, targets: Tensor) -> float:
    return float(((states @ readout).argmax(-1) != targets).double().mean())
