"""Two trained networks side by side: how far their predictions and their representations agree (E14)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ontogeny.canonical import digest
from ontogeny.evolution.representations import linear_alignment
from ontogeny.files import read_json
from ontogeny.lab.experiment import Run
from ontogeny.lab.networks import Lab, trained_network
from ontogeny.lab.store import RESULT, begin, claim, finish
from ontogeny.lab.tasks import run_tokens
from ontogeny.training.batches import evaluation_windows

WINDOWS = 64  # of the test split


@dataclass(frozen=True)
class Comparison:
    """Two runs of one setting, each of which has kept its network."""

    first: Run
    second: Run

    @property
    def id(self) -> str:
        return digest(self.recipe)[:16]

    @property
    def recipe(self) -> dict[str, Any]:
        """What determines the result, as plain JSON."""
        pair = [[run.id, run.replicate] for run in (self.first, self.second)]
        return {"kind": "comparison", "runs": pair, "windows": WINDOWS, "alignment": "debiased"}


def compare_networks(pair: Comparison, lab: Lab) -> dict[str, Any]:
    """Predictions and last hidden states of both on the same test windows; measured once and stored as a result."""
    directory = lab.store.run_directory(pair.id, 0)
    with claim(directory):
        if not (directory / RESULT).exists():
            begin(directory, {"recipe": pair.recipe})
            setting = pair.first.setting
            windows = evaluation_windows(run_tokens(setting, lab.store).test, setting.length, WINDOWS)
            models = [trained_network(run, lab)[0].eval() for run in (pair.first, pair.second)]
            result = {
                "kind": "comparison",
                "id": pair.id,
                "replicate": 0,
                "first": [pair.first.id, pair.first.replicate],
                "second": [pair.second.id, pair.second.replicate],
                **_beside(models, windows[:, :-1]),
            }
            finish(directory, result)
    return read_json(directory / RESULT)


@torch.no_grad()
def _beside(models: list[nn.Module], ids: Int[Tensor, "windows length"]) -> dict[str, float]:
    """Divergence, agreement and alignment, a few windows at a time: a vocabulary may be large."""
    states: list[list[Tensor]] = [[], []]
    apart, same = [], []
    for part in ids.split(4):
        outs = [model(input_ids=part, use_cache=False, output_hidden_states=True) for model in models]
        p, q = (F.log_softmax(out.logits.flatten(0, 1).double(), dim=-1) for out in outs)
        apart.append(divergence(p, q) * len(p))
        same.append(int((p.argmax(-1) == q.argmax(-1)).sum()))
        for held, out in zip(states, outs, strict=True):
            held.append(out.hidden_states[-1].flatten(0, 1).double())
    x, y = (torch.cat(held) for held in states)
    return {
        "divergence": sum(apart) / ids.numel(),
        "agreement": sum(same) / ids.numel(),
        "alignment": linear_alignment(x, y),
    }


def divergence(p: Float[Tensor, "n vocabulary"], q: Float[Tensor, "n vocabulary"]) -> float:
    """The mean of KL(p‖q) and KL(q‖p) of two log-probabilities, nats a token."""
    return float((0.5 * (p.exp() - q.exp()) * (p - q)).sum(-1).mean())
