"""Genome -> constrained model -> training -> merged model -> a standard Hugging Face checkpoint, and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from constrained import FUSED, KINDS, RECIPES, allowed, assert_round_off, logits, train_five_steps
from safetensors import safe_open
from tiny import TINY, tiny_checkpoint, tiny_model
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
from ontogeny.genome.controls import transform
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.genome import Genome, Mask
from ontogeny.genome.sites import ARCHITECTURES
from ontogeny.model.constrain import (
    body_parameters,
    constrain,
    effective_weights,
    low_rank,
    merge,
    sites,
    start_cores,
)
from ontogeny.model.layers import Constrained, LowRankLinear, MaskedLinear, SubspaceLinear

CASES = [(name, kind) for kind in KINDS for name in (TINY if kind in RECIPES else ("llama", "gpt_neox", "gpt2"))]


QKV, GATE_UP = ("attention.query", "attention.key", "attention.value"), ("mlp.gate", "mlp.up")


@dataclass
class Case:
    """One trip of one architecture: the trained constrained model's logits and what came back from its checkpoint."""

    genome: Genome
    merged: nn.Module
    constrained_logits: Tensor
    directory: Path
    reloaded: Any
    clean: bool


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Case]:
    root = tmp_path_factory.mktemp("trip")
    found: dict[tuple[str, str], Case] = {}
    for name in TINY:
        donor = open_checkpoint(tiny_checkpoint(name, root / name / "donor"))
        auto = transformers.AutoModelForImageClassification if name == "vit" else transformers.AutoModelForCausalLM
        for kind in (kind for case, kind in CASES if case == name):
            recipe, reading = KINDS[kind]
            model = tiny_model(name, seed=1).train()
            genome = extract(donor, recipe)
            constrain(model, genome, reading)
            train_five_steps(model, name)
            expected = logits(model, name)
            directory = root / name / kind
            merge(model).save_pretrained(directory)  # type: ignore[operator]
            reloaded, info = auto.from_pretrained(directory, output_loading_info=True)
            found[name, kind] = Case(genome, model, expected, directory, reloaded.eval(), not any(info.values()))
    return found


def test_the_tiny_models_cover_every_architecture() -> None:
    assert {model_type for model_type, _ in TINY.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_merged_model_is_a_standard_checkpoint(
    cases: dict[tuple[str, str], Case], name: str, kind: str, tmp_path: Path
) -> None:
    case, plain = cases[name, kind], tiny_model(name, seed=1)
    assert_round_off(logits(case.reloaded, name), case.constrained_logits)
    assert not torch.allclose(case.constrained_logits, logits(plain, name), rtol=0.1)
    assert case.clean
    assert case.merged.state_dict().keys() == plain.state_dict().keys()
    head = case.reloaded.get_output_embeddings()
    tied = head is not None and head.weight is case.reloaded.get_input_embeddings().weight
    assert tied == (name in ("llama-tied", "gpt2"))
    plain.save_pretrained(tmp_path)
    assert type(case.reloaded) is type(case.merged) is type(plain)
    with (
        safe_open(tmp_path / "model.safetensors", "pt") as file,
        safe_open(case.directory / "model.safetensors", "pt") as merged_file,
    ):
        assert set(merged_file.keys()) == set(file.keys())


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if KINDS[case[1]][1] != "start"])
def test_training_never_leaves_the_genome(cases: dict[tuple[str, str], Case], name: str, kind: str) -> None:
    """Read back with the same reader: at every site W is what the reading allows, or exactly zero outside the mask."""
    case = cases[name, kind]
    weights = dict(open_checkpoint(case.directory).weights())
    assert weights.keys() == case.genome.genes.keys()
    for site, gene in case.genome.genes.items():
        W = weights[site].double()
        assert float(W.norm()) > 0
        if isinstance(gene, Mask):
            assert torch.equal(W != 0, gene.keep)
        else:
            held = allowed(gene.U.double(), gene.V.double(), W, KINDS[kind][1])
            assert float((W - held).norm() / W.norm()) <= 1e-6


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if KINDS[case[1]][1] == "start"])
def test_a_start_is_free_afterwards(cases: dict[tuple[str, str], Case], name: str, kind: str) -> None:
    for site, W in open_checkpoint(cases[name, kind].directory).weights():
        gene = cases[name, kind].genome.genes[site]
        if isinstance(gene, Mask):
            assert float((W[~gene.keep] != 0).double().mean()) > 0.9
        else:
            assert float((W - allowed(gene.U, gene.V, W, "full")).norm() / W.norm()) > 1e-2


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("donors")
    return {name: open_checkpoint(tiny_checkpoint(name, root / name)) for name in TINY}


@pytest.mark.parametrize("name", TINY)
def test_full_rank_with_the_donors_values_is_the_donor(donors: dict[str, Checkpoint], name: str) -> None:
    """C = Uᵀ W V at 100 % rank: Hugging Face's own model and the constrained one agree."""
    model = constrain(tiny_model(name), extract(donors[name], Recipe(rank="100%")))
    start_cores(model, donors[name], "values", seed=0)
    assert_round_off(logits(model, name), logits(tiny_model(name), name))


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("role", ["attention.query", "attention.value", "mlp.up"])
def test_a_genome_of_part_of_a_fused_projection(donors: dict[str, Checkpoint], name: str, role: str) -> None:
    """The other parts stay as they were, trainable, in their places."""
    whole = extract(donors[name], Recipe(rank="100%"))
    genome = Genome({s: gene for s, gene in whole.genes.items() if s.name.endswith(role)}, whole.provenance)
    model = constrain(tiny_model(name), genome)
    start_cores(model, donors[name], "values", seed=0)
    assert sum(isinstance(module, SubspaceLinear) for module in model.modules()) == 2  # one a layer
    assert_round_off(logits(model, name), logits(tiny_model(name), name))
    plain = merge(model)
    assert not any(isinstance(module, Constrained) for module in plain.modules())
    assert_round_off(logits(plain, name), logits(tiny_model(name), name))


def test_values_with_the_norms_gains_folded_in(donors: dict[str, Checkpoint]) -> None:
    """At full rank the weight is W·diag(γ) for readers, W for writers."""
    donor = donors["llama"]
    model = constrain(tiny_model("llama"), extract(donor, Recipe(rank="100%", fold_norms=True)))
    layers = dict(sites(start_cores(model, donor, "values", seed=0, fold_norms=True)))
    for site, W in donor.weights():
        gain = donor.norm_gain(site.name)
        expected = W.double() if gain is None else W.double() * gain.double()
        assert (gain is None) is site.writes_residual
        assert_round_off(layers[site.name].weight.double(), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("start", ["signs-flipped", "permuted"])
def test_core_starts_keep_the_spectrum_and_the_frames(donors: dict[str, Checkpoint], start: Any) -> None:
    genome = extract(donors["llama"], Recipe(rank="50%"))
    values, changed = (
        dict(sites(start_cores(constrain(tiny_model("llama"), genome), donors["llama"], how, seed=3)))
        for how in ("values", start)
    )
    for name, layer in values.items():
        P, s, Qt = torch.linalg.svd(layer.core.detach().double())  # type: ignore[operator]
        turned = P.T @ changed[name].core.detach().double() @ Qt.T  # type: ignore[operator]
        diagonal = turned.diagonal()
        assert float((turned - diagonal.diag()).abs().max()) <= 1e-5 * float(s[0])
        torch.testing.assert_close(diagonal.abs().sort(descending=True).values, s, rtol=1e-4, atol=1e-6)
        moved = diagonal < 0 if start == "signs-flipped" else (diagonal - s).abs() > 1e-4
        assert 0 < int(moved.sum()) <= len(s)
        assert (start == "permuted") == bool((diagonal > 0).all())


def test_low_rank_starts_where_the_random_genome_does(donors: dict[str, Checkpoint]) -> None:
    random = transform("random", [extract(donors["llama"], Recipe(rank=4))], seed=5)
    free = low_rank(tiny_model("llama"), {site.name: 4 for site in random.genes}, seed=5)
    fixed = constrain(tiny_model("llama"), random)
    assert all(isinstance(layer, LowRankLinear) for _, layer in sites(free))
    assert_round_off(logits(free, "llama"), logits(fixed, "llama"))
    assert_round_off(logits(merge(free), "llama"), logits(fixed, "llama"))


def test_low_rank_leaves_other_sites_alone() -> None:
    before = effective_weights(tiny_model("phi3"))
    model = low_rank(tiny_model("phi3"), {"layers.1.attention.key": 3}, seed=0)
    assert sum(isinstance(module, LowRankLinear) for module in model.modules()) == 1
    merged = merge(model)
    key = "model.layers.1.self_attn.qkv_proj.weight"
    W, original = merged.state_dict()[key], tiny_model("phi3").state_dict()[key]
    assert torch.equal(W[:32], original[:32])
    assert torch.linalg.matrix_rank(W[32:48]) == 3
    assert torch.equal(W[48:], original[48:])
    assert torch.equal(effective_weights(merged)["layers.0.mlp.down"], before["layers.0.mlp.down"])


@pytest.mark.parametrize("name", TINY)
def test_body_parameters_are_the_layer_matrices_alone(donors: dict[str, Checkpoint], name: str) -> None:
    plain = tiny_model(name)
    body = sum(p.numel() for key, p in plain.named_parameters() if key in body_parameters(plain))
    assert body == sum(site.shape[0] * site.shape[1] for site in donors[name].sites)
    genome = extract(donors[name], Recipe(rank=4))
    model = constrain(plain, genome)
    named = dict(model.named_parameters())
    assert all(key.endswith("core") for key in body_parameters(model))
    assert sum(named[key].numel() for key in body_parameters(model)) == 16 * len(genome.genes)


@pytest.mark.parametrize("name", TINY)
def test_layers_that_read_the_same_input_share_a_product(donors: dict[str, Checkpoint], name: str) -> None:
    """Queries, keys and values; gates and ups. Had one of them been given another input, something would wait."""
    model = constrain(tiny_model(name), extract(donors[name], Recipe(rank=4)))
    layers = {key: layer for key, layer in sites(model) if isinstance(layer, SubspaceLinear)}
    logits(model, name)
    for key, layer in layers.items():
        sharing = {
            other for other, one in layers.items() if one is layer or (one.shared and one.shared is layer.shared)
        }
        block, role = key.rsplit(".", 2)[0], key.split(".", 2)[2]
        group = next((g for g in (QKV, GATE_UP) if role in g), (role,))
        assert sharing == {f"{block}.{one}" for one in group} & set(layers)
        assert layer.shared is None or not layer.shared.waiting


def test_a_masked_model_starts_with_zeros_outside(donors: dict[str, Checkpoint]) -> None:
    model = constrain(tiny_model("llama"), extract(donors["llama"], RECIPES["mask"]))
    layers = [module for module in model.modules() if isinstance(module, MaskedLinear)]
    assert len(layers) == 14
    assert all(torch.equal(layer.weight != 0, layer.keep) for layer in layers)


def test_a_genome_that_does_not_fit_is_refused(donors: dict[str, Checkpoint]) -> None:
    genome = extract(donors["llama"], Recipe(rank=4))
    with pytest.raises(InputError, match=r"layers\.0\.attention\.\w+: the genome has the shape .* the model"):
        constrain(tiny_model("qwen3"), genome)  # its heads are wider
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.gate.*no such site"):
        constrain(tiny_model("gpt2"), Genome({s: g for s, g in genome.genes.items() if "gate" in s.name}, {}))
    model = constrain(tiny_model("llama"), genome)
    with pytest.raises(InputError, match="already constrained"):
        constrain(model, genome)
    assert isinstance(merge(model), type(tiny_model("llama")))
    constrain(model, genome)  # merged: plain again
