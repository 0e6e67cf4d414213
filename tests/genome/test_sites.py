"""Every site's matrix is what transformers' own forward multiplies by, captured while it runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FFN, GROUPED, HEADS, KV_HEADS, LAYERS, TINY, D, tiny_checkpoint, tiny_model
from torch import Tensor

from ontogeny.errors import CheckpointError
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.sites import ARCHITECTURES, architecture, layer_and_role, make_site, places

# model type -> the modules of a layer whose inputs and outputs are watched: attention, output, mlp, activation, down
LLAMA = ("model.layers", "self_attn", "self_attn.o_proj", "mlp", "mlp.act_fn", "mlp.down_proj")
MODULES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "phi3": (*LLAMA[:4], "mlp.activation_fn", "mlp.down_proj"),
    "gpt_neox": ("gpt_neox.layers", "attention", "attention.dense", "mlp", "mlp.act", "mlp.dense_4h_to_h"),
    "gpt2": ("transformer.h", "attn", "attn.c_proj", "mlp", "mlp.act", "mlp.c_proj"),
    "vit": ("vit.layers", "attention", "attention.o_proj", "mlp", "mlp.activation_fn", "mlp.fc2"),
}
NORMS = {
    "gpt2": ("ln_1", "ln_2"),
    "vit": ("layernorm_before", "layernorm_after"),
}


class Watch:
    """Runs a model on inputs and keeps, per layer, what goes in and out of its linear maps.

    Queries, keys and values are taken where the model hands them to attention: after its own split into heads, and
    after rotary embedding, which is the identity at the first position.
    """

    def __init__(self, name: str, model: Any) -> None:
        from transformers import AttentionInterface
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Any:
            for role, states in zip(("query", "key", "value"), (query, key, value), strict=True):
                self.seen[id(module), role] = states.transpose(1, 2).flatten(2)
            return sdpa_attention_forward(module, query, key, value, *rest, **options)

        AttentionInterface.register("watch", attention)
        model.set_attn_implementation("watch")
        self.model, self.seen = model, {}  # type: Any, dict[tuple[int, str], Tensor]
        self.layers = model.get_submodule(MODULES[TINY[name][0]][0])
        self.parts = [[layer.get_submodule(m) for m in MODULES[TINY[name][0]][1:]] for layer in self.layers]
        for part in (part for parts in self.parts for part in parts):
            part.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, module: Any, args: Any, options: Any, output: Any) -> None:
        self.seen[id(module), "in"] = args[0] if args else options["hidden_states"]
        self.seen[id(module), "out"] = output[0] if isinstance(output, tuple) else output

    def run(self, inputs: Tensor) -> list[dict[str, tuple[Tensor, Tensor]]]:
        """Per layer: role -> (input, what the model computed from it)."""
        with torch.no_grad():
            self.model(inputs)
        return [self._layer(*parts) for parts in self.parts]

    def _layer(self, attention: Any, output: Any, mlp: Any, activation: Any, down: Any) -> dict[str, Any]:
        def seen(module: Any, what: str) -> Tensor:
            return self.seen[id(module), what]

        x, h = seen(attention, "in"), seen(mlp, "in")
        found = {f"attention.{role}": (x, seen(attention, role)) for role in ("query", "key", "value")}
        found |= {
            role: (seen(m, "in"), seen(m, "out")) for role, m in (("attention.output", output), ("mlp.down", down))
        }
        if torch.equal(seen(activation, "out"), seen(down, "in")):  # no gate
            return found | {"mlp.up": (h, seen(activation, "in"))}
        return found | {
            "mlp.gate": (h, seen(activation, "in")),
            "mlp.up": (h, seen(down, "in") / seen(activation, "out")),
        }


def _inputs(name: str) -> tuple[Tensor, Tensor]:
    if name == "vit":
        images = torch.linspace(-1, 1, 2 * 3 * 16 * 16).sin().view(2, 1, 3, 16, 16)
        return images[0], images[1]
    return torch.tensor([[5]]), torch.tensor([[41]])


@pytest.fixture(params=list(TINY))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_architecture_has_a_tiny_model() -> None:
    assert {model_type for model_type, _ in TINY.values()} == set(ARCHITECTURES)


def test_sites_compute_what_the_model_computes(name: str, tmp_path: Path) -> None:
    """W (x − x') = y − y' for two inputs: biases cancel, so that W alone is tested."""
    weights = dict(open_checkpoint(tiny_checkpoint(name, tmp_path)).weights())
    model = tiny_model(name)
    watch = Watch(name, model)
    first, second = (watch.run(inputs) for inputs in _inputs(name))
    expected = {f"layers.{i}.{role}" for i, layer in enumerate(first) for role in layer}
    assert {site.name for site in weights} == expected
    assert len(expected) == LAYERS * (6 if name in ("gpt_neox", "gpt2", "vit") else 7)
    for site, W in weights.items():
        assert tuple(W.shape) == site.shape
        place = layer_and_role(site.name)
        assert place is not None
        layer, role = place
        (x1, y1), (x2, y2) = first[layer][role], second[layer][role]
        found = (x1 - x2) @ W.T
        if name == "qwen3" and role in ("attention.query", "attention.key"):  # normalised per head after the product
            attention = watch.parts[layer][0]
            norm = attention.q_norm if role.endswith("query") else attention.k_norm
            found = norm((x1 @ W.T).unflatten(-1, (-1, 12))).flatten(-2).detach()
            y1, y2 = y1, torch.zeros_like(y1)
        torch.testing.assert_close(found, y1 - y2, rtol=1e-3, atol=1e-5)


def test_sharded_is_the_same(name: str, tmp_path: Path) -> None:
    whole = open_checkpoint(tiny_checkpoint(name, tmp_path / "whole"))
    parts = open_checkpoint(tiny_checkpoint(name, tmp_path / "parts", sharded=True))
    assert len({stored.file for stored in parts.tensors.values()}) > 1
    assert whole.sites == parts.sites
    for (_, a), (_, b) in zip(whole.weights(), parts.weights(), strict=True):
        assert torch.equal(a, b)
    assert len(parts.source()["files"]) == len(list((tmp_path / "parts").glob("*.safetensors")))


def test_norm_gains_and_embeddings(name: str, tmp_path: Path) -> None:
    checkpoint, model = open_checkpoint(tiny_checkpoint(name, tmp_path)), tiny_model(name)
    model_type = TINY[name][0]
    layers = model.get_submodule(MODULES[model_type][0])
    norms = NORMS.get(model_type, ("input_layernorm", "post_attention_layernorm"))
    for site in checkpoint.sites:
        place = layer_and_role(site.name)
        assert place is not None
        gain = checkpoint.norm_gain(site.name)
        assert (gain is not None) == site.reads_residual
        if gain is not None:
            norm = layers[place[0]].get_submodule(norms[place[1].startswith("mlp")])
            assert torch.equal(gain, norm.weight.detach())
    embeddings = checkpoint.embeddings()
    if name == "vit":
        assert len(embeddings) == 4
        return
    assert any(torch.equal(E, model.get_input_embeddings().weight) for E in embeddings.values())
    tied = name in ("llama-tied", "gpt2")
    assert len(embeddings) == (1 if tied else 2) + (name == "gpt2")  # GPT-2 learns its positions
    assert tied or any(torch.equal(E, model.get_output_embeddings().weight) for E in embeddings.values())


def test_places_are_found_in_a_model_in_memory(name: str) -> None:
    model = tiny_model(name)
    parameters = dict(model.named_parameters())

    def shape_of(module: str) -> tuple[int, ...] | None:
        found = parameters.get(f"{module}.weight")
        return None if found is None else tuple(found.shape)

    for place in places(model.config.to_dict(), shape_of):
        rows = torch.cat(list(place.rows.values()))
        d_out = parameters[f"{place.name}.weight"].shape[1 if place.linear.transposed else 0]
        assert sorted(rows.tolist()) == list(range(d_out))  # every row belongs to exactly one site


def test_residual_sides() -> None:
    reads = {"attention.query", "attention.key", "attention.value", "mlp.gate", "mlp.up"}
    writes = {"attention.output", "mlp.down"}
    for role in reads | writes:
        site = make_site(f"layers.0.{role}", (4, 8))
        assert (site.reads_residual, site.writes_residual) == (role in reads, role in writes)
    assert not make_site("encoder.dense", (4, 8)).reads_residual
    assert layer_and_role("encoder.dense") is None


# A fused or plain projection whose rows don't fit the configuration
@pytest.mark.parametrize("name", ["llama", "phi3", "gpt_neox", "gpt2", "vit"])
@pytest.mark.parametrize("heads", [0, 7, -4, 10**9, "many", None, True, 4.0])
def test_impossible_head_counts(name: str, heads: Any) -> None:
    config = tiny_model(name).config.to_dict()
    shapes = {k.removesuffix(".weight"): tuple(p.shape) for k, p in tiny_model(name).named_parameters()}
    config[ARCHITECTURES[TINY[name][0]].heads_key] = heads
    with pytest.raises(CheckpointError) as error:
        places(config, shapes.get)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["llama", "phi3"])
@pytest.mark.parametrize("groups", [3, -2, 10**9, "many", 2.0])
def test_impossible_key_value_head_counts(name: str, groups: Any) -> None:
    shapes = {k.removesuffix(".weight"): tuple(p.shape) for k, p in tiny_model(name).named_parameters()}
    config = tiny_model(name).config.to_dict() | {"num_key_value_heads": groups}
    with pytest.raises(CheckpointError) as error:
        places(config, shapes.get)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model_type", ["mamba", None, 7, ["llama"], {"a": 1}])
def test_unknown_architecture_names_the_table(model_type: Any) -> None:
    with pytest.raises(CheckpointError, match=r"known are llama.*--pattern"):
        architecture({"model_type": model_type})


def test_tiny_shapes_are_what_they_say(tmp_path: Path) -> None:
    shapes = {s.name: s.shape for s in open_checkpoint(tiny_checkpoint("llama", tmp_path)).sites}
    head = D // HEADS
    assert GROUPED["num_key_value_heads"] == KV_HEADS
    assert shapes["layers.0.attention.key"] == (KV_HEADS * head, D)
    assert shapes["layers.1.mlp.down"] == (D, FFN)
