"""A language model's body on patches: its draw, its attention, its genome, its donors and its cost."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY, padding_flops, tiny_checkpoint, tiny_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.model.constrain import body_parameters, constrain, merge, site_shapes, sites
from ontogeny.model.cost import flops_per_token
from ontogeny.model.initialise import fresh_model
from ontogeny.model.layers import MaskedLinear, SubspaceLinear
from ontogeny.model.vision import (
    Attention,
    ImageClassifier,
    classification_loss,
    donor_body,
    evaluate_images,
    flops_per_image,
    freeze_body,
    fresh_classifier,
)
from ontogeny.streams import stream
from ontogeny.training.images import ImageBatches, evaluation_images, read_images
from ontogeny.training.train import TrainConfig, make_optimizer

LANGUAGE = [name for name in TINY if name != "vit"]
OWN = {"patches.weight", "patches.bias", "positions", "head.weight", "head.bias"}
RECIPES = {"subspace": Recipe(rank="25%"), "mask": Recipe(density="25%")}
BOTH: tuple[Attention, ...] = ("causal", "bidirectional")


def classifier(name: str = "llama", attention: Attention = "bidirectional", seed: int = 0) -> ImageClassifier:
    """16 patches of 2 × 2 × 3, five classes."""
    return fresh_classifier(
        {"model_type": TINY[name][0]} | TINY[name][1],
        image_size=8,
        channels=3,
        classes=5,
        patch=2,
        attention=attention,
        seed=seed,
    )


def batch(size: int = 4) -> dict[str, Tensor]:
    pixels = torch.randn(size, 3, 8, 8, generator=stream(0, "pixels"))
    return {"pixels": pixels, "labels": torch.arange(size) % 5}


# The draw


@pytest.mark.parametrize("name", LANGUAGE)
def test_the_body_is_the_language_models_draw(name: str) -> None:
    model = classifier(name, seed=7)
    language = dict(fresh_model({"model_type": TINY[name][0]} | TINY[name][1], 7).named_parameters())
    ours = dict(model.named_parameters())
    body = ours.keys() - OWN
    assert {f"{model.body_name}.{key}" for key, _ in model.body.named_parameters()} == body
    for key in body:
        assert torch.equal(ours[key], language[key]), key
    embeddings = ("embed_tokens", "embed_in", "embed_out", "lm_head", "wte", "wpe")
    assert all(key.endswith(tuple(f"{stem}.weight" for stem in embeddings)) for key in language.keys() - body)
    assert not any(stem in key for key in ours for stem in embeddings)


def test_its_own_parameters_are_draws_of_the_same_width() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    models = [classifier(seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    first, second, other = (dict(model.named_parameters()) for model in models)
    for key in ("patches.weight", "positions", "head.weight"):
        assert torch.equal(first[key], second[key])
        assert not torch.equal(first[key], other[key])
        assert first[key].std().item() == pytest.approx(0.02, rel=0.3)
    assert first["positions"].shape == (16, 32)
    assert first["patches.weight"].shape == (32, 12)
    assert first["head.weight"].shape == (5, 32)
    assert not first["head.bias"].any()
    assert not first["patches.bias"].any()


def test_patches_are_read_row_by_row() -> None:
    """The embedding is a convolution with stride p, as in ViT, and then positions are added."""
    model, pixels, seen = classifier(), batch()["pixels"], []
    model.body.register_forward_pre_hook(lambda _, args, given: seen.append(given["inputs_embeds"]), with_kwargs=True)
    with torch.no_grad():
        model(pixels)
        expected = F.conv2d(pixels, model.patches.weight.view(32, 3, 2, 2), stride=2)  # (B, D, 4, 4)
    torch.testing.assert_close(seen[0], expected.flatten(2).transpose(1, 2) + model.positions)


@pytest.mark.parametrize("patch", [0, 3, 16])
def test_patches_must_tile_the_image(patch: int) -> None:
    with pytest.raises(InputError, match=f"patch {patch}: expected a divisor of the image size 8"):
        fresh_classifier(
            {"model_type": "llama"} | TINY["llama"][1],
            image_size=8,
            channels=3,
            classes=5,
            patch=patch,
            attention="causal",
            seed=0,
        )


# Attention


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", LANGUAGE)
@torch.no_grad()
def test_the_last_patch_reaches_the_first_only_without_causal_attention(name: str, kernel: str) -> None:
    pixels = batch()["pixels"]
    changed = pixels.clone()
    changed[:, :, 6:, 6:] += 1  # the last of the 16 patches
    for attention in BOTH:
        model = classifier(name, attention)
        model.body.set_attn_implementation(kernel)  # type: ignore[operator]
        difference = (model.features(changed) - model.features(pixels)).abs().amax((0, 2))  # one value a patch
        assert bool((difference[:15] > 1e-6).all() if attention == "bidirectional" else (difference[:15] == 0).all())
        assert difference[15] > 1e-3
        first = pixels.clone()
        first[:, :, :2, :2] += 1
        assert bool(((model.features(first) - model.features(pixels)).abs().amax((0, 2)) > 1e-6).all())


@pytest.mark.parametrize("name", LANGUAGE)
@torch.no_grad()
def test_bidirectional_attention_is_what_transformers_calls_so(name: str) -> None:
    """Its own switch, ``is_causal=False``, must give the same hidden states."""
    model, seen = classifier(name), []
    model.body.register_forward_pre_hook(lambda _, args, given: seen.append(given["inputs_embeds"]), with_kwargs=True)
    features = model.features(batch()["pixels"])
    theirs = model.body(inputs_embeds=seen[0], is_causal=False, use_cache=False).last_hidden_state
    torch.testing.assert_close(features, theirs)


@pytest.mark.parametrize("attention", BOTH)
def test_half_precision_changes_little(attention: Attention) -> None:
    model = classifier(attention=attention)
    exact = classification_loss(model, batch())
    with torch.autocast("cpu", torch.bfloat16):
        rough = classification_loss(model, batch())
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), abs=2e-2)


# Genomes


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_genome_fits(name: str, kind: str, tmp_path: Path) -> None:
    genome = extract(open_checkpoint(tiny_checkpoint(name, tmp_path)), RECIPES[kind])
    shapes = site_shapes(classifier(name))
    assert shapes == {site.name: site.shape for site in genome.genes}
    model = constrain(classifier(name), genome)
    language = constrain(fresh_model({"model_type": TINY[name][0]} | TINY[name][1], 0), genome)
    start = dict(sites(language))
    for key, layer in sites(model):  # the same start as the language model's, values and all
        assert isinstance(layer, SubspaceLinear if kind == "subspace" else MaskedLinear)
        assert torch.equal(layer.weight, start[key].weight)  # type: ignore[arg-type]
    assert body_parameters(model) == body_parameters(language)
    classification_loss(model, batch()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
    logits = model(batch()["pixels"])
    torch.testing.assert_close(merge(model)(batch()["pixels"]), logits, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_parameter() -> None:
    for attention in BOTH:
        model = classifier(attention=attention)
        classification_loss(model, batch()).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.isfinite().all()), key
            assert bool(parameter.grad.any()), key


# Frozen bodies


def test_a_frozen_body_leaves_patches_positions_and_head() -> None:
    model = freeze_body(classifier())
    assert {key for key, value in model.named_parameters() if value.requires_grad} == OWN
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = make_optimizer(model, TrainConfig(steps=1, body_rate=0.1, rest_rate=0.1))
    classification_loss(model, batch()).backward()
    optimizer.step()
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert changed == OWN


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("name", LANGUAGE)
@torch.no_grad()
def test_a_donors_body_computes_what_the_donor_does(name: str, trainable: bool, tmp_path: Path) -> None:
    """The donor's own hidden states on the same vectors (GPT-2's with its positions taken out)."""
    donor = tiny_model(name)
    model = donor_body(
        classifier(name, "causal"), open_checkpoint(tiny_checkpoint(name, tmp_path)), trainable=trainable
    )
    seen: list[Any] = []
    model.body.register_forward_pre_hook(lambda _, args, given: seen.append(given["inputs_embeds"]), with_kwargs=True)
    features = model.features(batch()["pixels"])
    if name == "gpt2":
        donor.transformer.wpe.weight.zero_()
    theirs = donor.base_model(inputs_embeds=seen[0], use_cache=False).last_hidden_state
    torch.testing.assert_close(features, theirs)
    assert {value.requires_grad for value in model.body.parameters()} == {trainable}
    assert all(value.requires_grad for key, value in model.named_parameters() if key in OWN)


def test_a_real_donors_body_fits(shared: Path) -> None:
    donor = open_checkpoint(shared / "checkpoints" / "stories260K")
    model = fresh_classifier(
        donor.config, image_size=8, channels=1, classes=10, patch=2, attention="bidirectional", seed=0
    )
    donor_body(model, donor, trainable=False)
    for site, W in donor.weights():
        layer, role = site.name.split(".")[1], {"attention.query": "self_attn.q_proj", "mlp.down": "mlp.down_proj"}
        if (module := role.get(site.name.split(".", 2)[2])) is not None:
            assert torch.equal(model.get_parameter(f"model.layers.{layer}.{module}.weight"), W.float())


def test_a_donor_that_does_not_fit_is_told(tmp_path: Path) -> None:
    donor = open_checkpoint(tiny_checkpoint("llama", tmp_path / "llama"))
    with pytest.raises(InputError, match=r"no tensor .*bias"):
        donor_body(classifier("qwen2"), donor, trainable=True)
    wide = {"model_type": "llama"} | TINY["llama"][1] | {"intermediate_size": 40}
    model = fresh_classifier(wide, image_size=8, channels=3, classes=5, patch=2, attention="causal", seed=0)
    with pytest.raises(InputError, match=r"mlp.* is \(48, 32\), the classifier's \(40, 32\)"):
        donor_body(model, donor, trainable=True)
    with pytest.raises(InputError, match="plain classifier"):
        donor_body(constrain(classifier(), extract(donor, RECIPES["subspace"])), donor, trainable=True)  # type: ignore[arg-type]


# Loss, evaluation, cost


def test_loss_and_error_by_hand() -> None:
    model, given = classifier(), batch(7)
    with torch.no_grad():
        nn.init.normal_(model.head.weight, generator=stream(0, "head"))
        logits = model(given["pixels"]).double()
    pairs = list(zip(logits, given["labels"], strict=True))
    chosen = torch.tensor([(row.logsumexp(0) - row[label]).item() for row, label in pairs])
    wrong = [int(row.argmax()) != int(label) for row, label in pairs]
    for size in (2, 7, 256):
        found = evaluate_images(model, given, size)
        assert found["loss"] == pytest.approx(chosen.mean().item(), rel=1e-5)
        assert found["error"] == sum(wrong) / 7
    assert classification_loss(model, given).item() == pytest.approx(chosen.mean().item(), rel=1e-5)
    assert model.training


@pytest.mark.parametrize("kind", ["dense", "subspace", "mask", "frozen"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt_neox", "gpt2"])
def test_flops_are_pytorchs_to_the_last_one(name: str, kind: str, tmp_path: Path) -> None:
    model = classifier(name)
    if kind in RECIPES:
        constrain(model, extract(open_checkpoint(tiny_checkpoint(name, tmp_path)), RECIPES[kind]))
    if kind == "frozen":
        freeze_body(model)
    model.body.set_attn_implementation("eager")  # type: ignore[operator]  # the counter sees nothing in fused kernels
    with FlopCounterMode(display=False) as counter:
        classification_loss(model, batch(3)).backward()
    padding = padding_flops(model) * len(model.positions)
    assert flops_per_image(model) + padding == counter.get_total_flops() / 3
    assert flops_per_image(model) < 16 * flops_per_token(model, 16)


def test_a_tiny_classifier_learns_digits(tmp_path: Path) -> None:
    images = read_images("digits", tmp_path)
    model = fresh_classifier(
        {"model_type": "llama"} | TINY["llama"][1] | {"num_hidden_layers": 1},
        image_size=8,
        channels=1,
        classes=10,
        patch=2,
        attention="bidirectional",
        seed=0,
    )
    test = evaluation_images(images, "test", 100)
    assert evaluate_images(model, test)["loss"] == pytest.approx(2.3026, abs=0.05)  # ln 10
    optimizer = make_optimizer(model, TrainConfig(steps=60, body_rate=1e-2, rest_rate=1e-2))
    batches = ImageBatches(images, 64, seed=0)
    for step in range(60):
        optimizer.zero_grad()
        classification_loss(model, batches(step)).backward()
        optimizer.step()
    found = evaluate_images(model, test)
    assert found["loss"] < 1.5
    assert found["error"] < 0.5
