"""Networks side by side compute what each computes by itself, whatever kind of layer they have."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY, VOCABULARY, tiny_model
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.genome import Gene, Genome, Mask, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import make_site
from ontogeny.model.constrain import READINGS, constrain, low_rank, site_shapes
from ontogeny.model.prune import set_alive
from ontogeny.model.stack import give_gradients, stack, structure
from ontogeny.streams import stream

LANGUAGE = [name for name in TINY if name not in ("vit", "gpt2")]
LARGEST = 0.5  # norm of a gradient


def drawn(model: nn.Module, seed: int, make: Callable[[tuple[int, int], torch.Generator], Gene]) -> Genome:
    genes = {make_site(n, shape): make(shape, stream(seed, "drawn", n)) for n, shape in site_shapes(model).items()}
    return Genome(genes, {})


def subspace(shape: tuple[int, int], generator: torch.Generator) -> Subspace:
    U, V = (haar(side, min(shape) // 4, generator).float() for side in shape)
    return Subspace(U, V)


def mask(shape: tuple[int, int], generator: torch.Generator) -> Mask:
    entries = shape[0] * shape[1]
    return Mask((torch.randperm(entries, generator=generator) < 0.3 * entries).view(shape))


def make(name: str, kind: str, seed: int) -> Any:
    model = tiny_model(name, seed)
    if kind == "dense":
        return model
    if kind == "low-rank":
        return low_rank(model, {n: min(shape) // 4 for n, shape in site_shapes(model).items()}, seed=seed)
    if kind == "mask":
        return constrain(model, drawn(model, seed, mask))
    return constrain(model, drawn(model, seed, subspace), kind)  # type: ignore[arg-type]


def windows(members: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (members, 3, 17), generator=stream(0, "windows"))


def gradients(model: Any, its: Tensor) -> dict[str, Tensor]:
    """Of a member by itself, its norm at most LARGEST."""
    logits = model(input_ids=its[:, :-1], use_cache=False).logits
    F.cross_entropy(logits.flatten(0, 1), its[:, 1:].flatten()).backward()
    nn.utils.clip_grad_norm_(model.parameters(), LARGEST)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


CASES = [(name, "dense") for name in LANGUAGE] + [(name, "full") for name in LANGUAGE]
CASES += [("llama", reading) for reading in READINGS if reading != "full"]
CASES += [("llama", kind) for kind in ("mask", "low-rank")] + [("gpt_neox", "mask")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_outputs_and_gradients_are_the_members_own(name: str, kind: str) -> None:
    models, alone, its = [make(name, kind, s) for s in (1, 2, 3)], [make(name, kind, s) for s in (1, 2, 3)], windows(3)
    whole: Any = stack(models)
    logits = whole(input_ids=its[..., :-1].flatten(0, 1), use_cache=False).logits
    expected = torch.cat([m(input_ids=own[:, :-1], use_cache=False).logits for m, own in zip(alone, its, strict=True)])
    assert torch.allclose(logits, expected, atol=2e-5)
    assert not torch.allclose(expected[:3], expected[3:6], atol=1e-2)
    each = F.cross_entropy(logits.flatten(0, 1), its[..., 1:].flatten(), reduction="none").view(3, -1).mean(1)
    each.sum().backward()
    give_gradients(whole, models, LARGEST)
    for model, other, own in zip(models, alone, its, strict=True):
        for parameter, gradient in gradients(other, own).items():
            found = model.get_parameter(parameter).grad
            assert found is not None
            assert torch.allclose(found, gradient, atol=2e-6), parameter


def test_members_and_stack_share_their_memory() -> None:
    models, its = [make("llama", "full", s) for s in (1, 2)], windows(2)
    whole: Any = stack(models)
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.mul_(0.5)
    logits = whole(input_ids=its[..., :-1].flatten(0, 1), use_cache=False).logits
    assert torch.allclose(logits[3:], models[1](input_ids=its[1, :, :-1], use_cache=False).logits, atol=2e-5)


def test_a_frozen_parameter_stays_frozen() -> None:
    models = [make("llama", "full", s) for s in (1, 2)]
    for model in models:
        model.lm_head.weight.requires_grad_(False)
    whole: Any = stack(models)
    assert not whole.get_parameter("lm_head.weight").requires_grad
    whole(input_ids=windows(2)[..., :-1].flatten(0, 1), use_cache=False).logits.square().mean().backward()
    give_gradients(whole, models, LARGEST)
    assert all((p.grad is None) == (n == "lm_head.weight") for m in models for n, p in m.named_parameters())


def test_what_cannot_stand_side_by_side_is_refused() -> None:
    assert structure(tiny_model("gpt2")) is None, "its positions' rows are shared by all sequences"
    pruned = make("llama", "full", 1)
    set_alive(pruned, {n: torch.arange(min(shape) // 4) > 0 for n, shape in site_shapes(tiny_model("llama")).items()})
    for models in (
        [tiny_model("gpt2"), tiny_model("gpt2", 1)],
        [make("llama", "full", 1), make("llama", "dense", 1)],
        [make("llama", "left", 1), make("llama", "right", 1)],
        [make("llama", "dense", 1), make("qwen2", "dense", 1)],
        [pruned, make("llama", "full", 2)],
    ):
        with pytest.raises(InputError, match="networks of one structure"):
            stack(models)
