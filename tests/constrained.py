"""Tiny models under every reading of a genome: how they are made, what they may hold, how they compute and train."""

from typing import Any

import torch
from tiny import VOCABULARY
from torch import Tensor, nn

from ontogeny.genome.extract import Recipe
from ontogeny.streams import stream
from ontogeny.training.train import TrainConfig, train

RECIPES = {"subspace": Recipe(rank="25%"), "mask": Recipe(density="30%")}
FUSED = ("phi3", "gpt_neox", "gpt2")
READ = ("llama", *FUSED)  # plain, fused, fused and interleaved, transposed
# kind of case -> how the genome is read from the donor, and what constrained means
KINDS: dict[str, tuple[Recipe, Any]] = {
    "subspace": (RECIPES["subspace"], "full"),
    "mask": (RECIPES["mask"], "full"),
    "diagonal": (Recipe(rank="25%", basis="singular"), "diagonal"),
    "left": (RECIPES["subspace"], "left"),
    "right": (RECIPES["subspace"], "right"),
    "start": (RECIPES["subspace"], "start"),
    "mask-start": (RECIPES["mask"], "start"),
}


def inputs(name: str, seed: int = 0) -> dict[str, Tensor]:
    if name == "vit":
        return {"pixel_values": torch.randn(4, 3, 16, 16, generator=stream(seed, "pixels"))}
    return {"input_ids": torch.randint(0, VOCABULARY, (4, 16), generator=stream(seed, "ids"))}


@torch.no_grad()
def logits(model: nn.Module, name: str) -> Tensor:
    found: Tensor = model.eval()(**inputs(name)).logits
    return found


def assert_round_off(found: Tensor, expected: Tensor) -> None:
    """Equal up to the float32 rounding of sums in another order."""
    assert float((found - expected).abs().max()) <= 2e-6 * float(expected.abs().max())


def train_five_steps(model: nn.Module, name: str) -> None:
    if name != "vit":
        config = TrainConfig(steps=5, body_rate=1e-2, rest_rate=1e-2)
        train(model, lambda step: inputs(name, step)["input_ids"], config, evaluate=lambda model: {"loss": 0.0})
        return
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(5):
        loss = model(**inputs(name, step), labels=torch.arange(4)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def allowed(U: Tensor, V: Tensor, W: Tensor, reading: str) -> Tensor:
    """The part of W that a reading can hold."""
    C = U.T @ W @ V
    held = {"full": U @ C @ V.T, "diagonal": U * C.diagonal() @ V.T, "left": U @ U.T @ W, "right": W @ V @ V.T}
    return held[reading]
