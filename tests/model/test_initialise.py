"""Fresh models from named streams, the Frobenius norm every arm starts with, a donor's embeddings, the matched gain."""

import math
import pickle
import random
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY, tiny_checkpoint, tiny_model
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.genome import Gene, Genome, Mask, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import make_site
from ontogeny.model.constrain import constrain, sites
from ontogeny.model.initialise import donor_embeddings, fresh_model, initialise, matched_gain, set_final_gain
from ontogeny.streams import stream
from ontogeny.training.train import evaluation_loss

LANGUAGE = [name for name in TINY if name != "vit"]


def config(name: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": TINY[name][0]} | TINY[name][1] | changes


def equal(a: nn.Module, b: nn.Module) -> bool:
    theirs = dict(b.named_parameters())
    return all(torch.equal(value, theirs[name]) for name, value in a.named_parameters())


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_seed_fixes_the_weights_and_global_generators_stay_as_they_were(name: str) -> None:
    torch.manual_seed(1)
    first = fresh_model(config(name), 7)
    torch.manual_seed(2)
    before = torch.get_rng_state(), pickle.dumps(np.random.get_state()), random.getstate()  # noqa: NPY002
    second = fresh_model(config(name), 7)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == pickle.dumps(np.random.get_state())  # noqa: NPY002
    assert before[2] == random.getstate()
    assert equal(first, second)
    assert not equal(first, fresh_model(config(name), 8))


def test_the_order_of_modules_does_not_matter() -> None:
    names = ("a", "b", "c")
    there, back = (nn.ModuleDict({n: nn.Linear(3, 3) for n in order}) for order in (names, names[::-1]))
    for model in (there, back):
        initialise(model, 0.02, 0)
    assert equal(there, back)


@pytest.mark.parametrize("name", LANGUAGE)
def test_every_matrix_is_its_own_normal_draw(name: str) -> None:
    model = fresh_model(config(name, initializer_range=0.05), 0)
    matrices = {key: p.detach() for key, p in model.named_parameters() if p.ndim == 2}
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert bool((parameter == (0 if key.endswith("bias") else 1)).all()), key
    for key, W in matrices.items():
        spread = 5 / math.sqrt(W.numel())  # five standard errors
        assert abs(float(W.mean())) < 0.05 * spread, key
        assert abs(float(W.std()) / 0.05 - 1) < spread, key
    for (_, A), (_, B) in combinations(matrices.items(), 2):
        if A.shape == B.shape:
            assert abs(float((A * B).mean()) / 0.05**2) < 5 / math.sqrt(A.numel())


def test_dropout_is_off_though_the_configuration_does_not_name_it() -> None:
    """GPT-2's rates default to 0.1."""
    for given in (config("gpt2"), config("gpt2", resid_pdrop=0.3, embd_pdrop=0.2), config("gpt_neox")):
        model = fresh_model(given, 0).train()
        assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))
        ids = torch.arange(16)[None]
        assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize(
    "change", [{"model_type": "nope"}, {"hidden_size": "wide"}, {"num_attention_heads": 5}, {"vocab_size": None}]
)
def test_a_configuration_transformers_refuses_is_an_input_error(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^transformers can't build a model[^\n]*$"):
        fresh_model(config("llama") | change, 0)


WIDE = config("llama", hidden_size=128, intermediate_size=256, num_hidden_layers=4)


def random_genome(model: nn.Module, share: float, kind: str) -> Genome:
    genes: dict[Any, Gene] = {}
    for name, layer in sites(model):
        m, n = layer.weight.shape  # type: ignore[misc]
        if kind == "mask":
            genes[make_site(name, (m, n))] = Mask(torch.rand(m, n, generator=stream(0, "keep", name)) < share)
            continue
        k = round(share * min(m, n))
        U, V = (haar(d, k, stream(0, side, name)).float() for side, d in (("U", m), ("V", n)))
        genes[make_site(name, (m, n))] = Subspace(U, V)
    return Genome(genes, {})


@pytest.mark.parametrize("kind", ["subspace", "mask"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@torch.no_grad()
def test_every_arm_starts_with_the_dense_norm(kind: str, share: float) -> None:
    """E‖W‖²_F = d_out·d_in·σ² whatever the rank or density; the mean over 28 sites shows it within 5 %."""
    model = fresh_model(WIDE, 0)
    dense = {name: float(layer.weight.square().sum()) for name, layer in sites(model)}  # type: ignore[operator]
    constrain(model, random_genome(model, share, kind))
    ratios = [float(layer.weight.square().sum()) / dense[name] for name, layer in sites(model)]  # type: ignore[operator]
    assert len(ratios) == 28
    assert abs(sum(ratios) / len(ratios) - 1) < 0.05


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("name", LANGUAGE)
def test_donor_embeddings(name: str, trainable: bool, tmp_path: Path) -> None:
    donor = open_checkpoint(tiny_checkpoint(name, tmp_path, seed=3))
    fresh, model = fresh_model(config(name), 0), fresh_model(config(name), 0)
    assert donor_embeddings(model, donor, trainable=trainable) is model
    theirs, original = (dict(m.named_parameters()) for m in (tiny_model(name, seed=3), fresh))
    copied = {key for key in theirs if re.search(r"embed|wte|wpe|lm_head", key)}
    assert len(copied) == {"llama-tied": 1}.get(name, 2)
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, theirs[key] if key in copied else original[key])
        assert parameter.requires_grad == (trainable or key not in copied)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight  # type: ignore[operator]
    assert (head is embedding) == (name in ("llama-tied", "gpt2"))


def test_donor_embeddings_of_another_width_or_vocabulary_are_refused(tmp_path: Path) -> None:
    donor = open_checkpoint(tiny_checkpoint("llama", tmp_path))
    for change in ({"vocab_size": 65}, {"hidden_size": 16, "head_dim": 8}):
        with pytest.raises(InputError, match=r"embed_tokens.weight is .* donor's width and vocabulary"):
            donor_embeddings(fresh_model(config("llama", **change), 0), donor, trainable=True)


@pytest.mark.parametrize("name", LANGUAGE)
def test_the_final_gain_alone_is_set(name: str) -> None:
    model = fresh_model(config(name), 0)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    set_final_gain(model, 0.25)
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    final = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}.get(name, "model.norm")
    assert changed == {f"{final}.weight"}
    assert bool((dict(model.named_parameters())[f"{final}.weight"] == 0.25).all())


def stories_windows(shared: Path) -> Tensor:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shared / "checkpoints/stories260K/tokenizer.json"))
    ids = tokenizer.encode((shared / "text/fiction.txt").read_text(encoding="utf-8")[:20_000]).ids
    return torch.tensor(ids[: 65 * 32]).view(32, 65)


def test_the_matched_gain_starts_a_frozen_head_at_uniform(shared: Path) -> None:
    """stories260K's tied head on a fresh body starts at about 14 nats; ln 512 is 6.24."""
    donor = open_checkpoint(shared / "checkpoints/stories260K")
    windows, target = stories_windows(shared), math.log(512)
    model = donor_embeddings(fresh_model(donor.config, 0), donor, trainable=False)
    assert evaluation_loss(model, windows) > target + 5
    gain = matched_gain(model, lambda model: evaluation_loss(model, windows), target)
    assert abs(evaluation_loss(model, windows) - target) <= 0.1
    assert math.log2(gain).is_integer()
    assert abs(evaluation_loss(set_final_gain(model, 2 * gain), windows) - target) > 0.1  # the largest that does


def test_a_loss_that_no_gain_matches_is_refused() -> None:
    with pytest.raises(InputError, match=r"within 0\.1 nats of 4\.16"):
        matched_gain(fresh_model(config("llama"), 0), lambda model: math.nan, math.log(64))
