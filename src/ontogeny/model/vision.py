"""A language model's body as an image classifier: patches in, the same layers, a class out."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint
from ontogeny.genome.sites import architecture, find
from ontogeny.model.cost import flops_per_token
from ontogeny.model.initialise import fresh_model, initialise

Attention = Literal["causal", "bidirectional"]


class NoEmbedding(nn.Module):
    """Stands where the body's own embeddings were: no parameters, and GPT-2's positions become zero."""

    def forward(self, ids: Tensor) -> Float[Tensor, ""]:
        return torch.zeros((), device=ids.device)


class ImageClassifier(nn.Module):
    """Patches -> linear embedding + learned positions -> a language model's body -> mean over patches -> classes.

    The body hangs under the name it has in its language model (``model``, ``gpt_neox``, ``transformer``) and its
    configuration is ``config``, so whatever finds, constrains or counts a language model's layers works on this too.
    Vocabulary embedding and head are gone. Positions are a learned vector a patch, as in ViT (Dosovitskiy et al. 2021),
    in every architecture: rotary positions know the order of the patches, row by row, but not which lie above each
    other. The mean is the readout (no class token), because it serves causal and bidirectional attention alike.
    """

    def __init__(
        self, language_model: Any, *, image_size: int, channels: int, classes: int, patch: int, attention: Attention
    ) -> None:
        super().__init__()
        self.config = language_model.config
        self.body_name: str = language_model.base_model_prefix
        self.patch, self.attention = patch, attention
        self.add_module(self.body_name, language_model.base_model)
        self._remove_embeddings()
        width = self.config.hidden_size
        self.patches = nn.Linear(channels * patch * patch, width)
        self.positions = nn.Parameter(torch.zeros((image_size // patch) ** 2, width))
        self.head = nn.Linear(width, classes)

    def _remove_embeddings(self) -> None:
        row = architecture(self.config.to_dict())
        modules = dict(self.named_modules())
        for names in row.embeddings:
            stems = tuple(name.removesuffix(".weight") for name in names)
            if (found := find(stems, row.prefixes, modules.__contains__)) is not None:
                self.set_submodule(found, NoEmbedding())

    @property
    def body(self) -> nn.Module:
        """The language model's layers and final norm."""
        return self.get_submodule(self.body_name)

    def features(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B T D"]:
        """The hidden state of each patch after the final norm; patches in reading order."""
        patches = F.pixel_unshuffle(pixels, self.patch).flatten(2).transpose(1, 2)  # (B, T, C·p·p)
        x = self.patches(patches) + self.positions  # (B, T, D)
        # A full mask of nothing to add: transformers takes a 4-D mask as it is. Without one its layers are causal.
        mask = None if self.attention == "causal" else x.new_zeros(1, 1, x.shape[1], x.shape[1])
        hidden: Tensor = self.body(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state
        return hidden

    def forward(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
        logits: Tensor = self.head(self.features(pixels).mean(1))
        return logits


def fresh_classifier(
    config: Mapping[str, Any],
    *,
    image_size: int,
    channels: int,
    classes: int,
    patch: int,
    attention: Attention,
    seed: int,
) -> ImageClassifier:
    """A fresh classifier of square images (``image_size`` and ``patch`` in pixels) with this language model's body.

    Its body is ``fresh_model(config, seed)``'s, value by value; patch embedding, positions and head are
    N(0, ``initializer_range``²) from streams of their own. Raises InputError for a configuration that transformers
    refuses, and for patches that don't tile the image.
    """
    if patch < 1 or image_size % patch:
        raise InputError(f"patch {patch}: expected a divisor of the image size {image_size}, for patches that tile it")
    language_model = fresh_model(config, seed)
    with torch.random.fork_rng(devices=[]):
        model = ImageClassifier(
            language_model, image_size=image_size, channels=channels, classes=classes, patch=patch, attention=attention
        )
    initialise(model, model.config.initializer_range, seed)
    return model


def freeze_body(model: ImageClassifier) -> ImageClassifier:
    """Leave only the patch embedding, the positions and the head to train; in place."""
    model.body.requires_grad_(False)
    return model


@torch.no_grad()
def donor_body(model: ImageClassifier, checkpoint: Checkpoint, *, trainable: bool) -> ImageClassifier:
    """Copy the donor's layer matrices, biases and norms into a plain classifier, in place; frozen unless ``trainable``.

    With ``trainable=False`` this is Lu et al. 2021's frozen pretrained transformer (arXiv:2103.05247), its norms
    frozen too. Raises InputError where the donor lacks a tensor of the body or has it in another shape.
    """
    prefixes = architecture(checkpoint.config).prefixes
    for name, parameter in model.body.named_parameters():
        stored = find((name,), prefixes, checkpoint.tensors.__contains__)
        if stored is None:
            raise InputError(
                f"{checkpoint.name}: no tensor {name}, which the classifier's body has: a donor's body fits a plain "
                "classifier of its own architecture"
            )
        if (shape := checkpoint.tensors[stored].shape) != tuple(parameter.shape):
            raise InputError(
                f"{checkpoint.name}: {stored} is {shape}, the classifier's {tuple(parameter.shape)}: a donor's body "
                "fits a classifier of its own size"
            )
        parameter.copy_(checkpoint.read(stored))
    model.body.requires_grad_(trainable)
    return model


def classification_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats an image; ``batch`` has "pixels" (B, C, H, W) and "labels" (B,)."""
    device = next(model.parameters()).device
    logits = model(batch["pixels"].to(device))
    return F.cross_entropy(logits.float(), batch["labels"].to(device))


@torch.no_grad()
def evaluate_images(model: nn.Module, batch: Mapping[str, Tensor], size: int = 256) -> dict[str, float]:
    """{"loss": mean cross-entropy in nats an image, "error": share classified wrong}, ``size`` images at a time."""
    device = next(model.parameters()).device
    model.eval()
    logits = torch.cat([model(part.to(device)).float().cpu() for part in batch["pixels"].split(size)])
    model.train()
    wrong = logits.argmax(-1) != batch["labels"]
    return {"loss": F.cross_entropy(logits, batch["labels"]).item(), "error": wrong.double().mean().item()}


def flops_per_image(model: ImageClassifier) -> int:
    """Forward and backward FLOPs of one image, counted as ``flops_per_token`` counts a patch.

    Two things differ from a language model: the head reads one mean, not each patch, and no gradient goes on
    into the pixels.
    """
    patches = len(model.positions)
    head, embedding = model.head.weight.numel(), model.patches.weight.numel()
    return patches * flops_per_token(model, patches) - 6 * head * (patches - 1) - 2 * embedding * patches
