"""Generated tiny checkpoints, one for every row of ARCHITECTURES: width 32, two layers, four heads, 64 tokens;
and tiny genomes of three sites."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ontogeny.genome.genome import Gene, Genome, Mask, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import Site, make_site
from ontogeny.model.layers import SubspaceLinear
from ontogeny.streams import stream

LAYERS, D, HEADS, KV_HEADS, FFN, VOCABULARY = 2, 32, 4, 2, 48, 64
COMMON = {
    "num_hidden_layers": LAYERS,
    "hidden_size": D,
    "num_attention_heads": HEADS,
    "intermediate_size": FFN,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = COMMON | {"num_key_value_heads": KV_HEADS}
GPT2 = {"n_layer": LAYERS, "n_embd": D, "n_head": HEADS, "n_inner": FFN, "n_positions": 64, "vocab_size": VOCABULARY}

# name -> (transformers model type, configuration)
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GROUPED),
    "llama-tied": ("llama", GROUPED | {"tie_word_embeddings": True}),
    "mistral": ("mistral", GROUPED),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", GROUPED | {"head_dim": 12}),
    "phi3": ("phi3", GROUPED),
    "gpt_neox": ("gpt_neox", COMMON),
    "gpt2": ("gpt2", GPT2 | {"bos_token_id": 1, "eos_token_id": 2}),
    "vit": ("vit", COMMON | {"image_size": 16, "patch_size": 8, "num_labels": 5}),
}


def padding_flops(model: nn.Module) -> int:
    """FLOPs a token, forward and backward, of the zeros that round products over a shared input up."""
    shared = {id(m.shared): m.shared.layers for m in model.modules() if isinstance(m, SubspaceLinear) and m.shared}
    return sum(4 * len(layers[0].V) * (-sum(layer.V.shape[1] for layer in layers) % 8) for layers in shared.values())


def tiny_model(name: str, seed: int = 0) -> Any:
    """The float32 transformers model of a row of ``TINY``, in evaluation mode, its weights a function of the seed.

    Matrices, biases and gains are all drawn, so that none can be left out unnoticed. The global generator is
    left as it was.
    """
    import transformers
    from transformers.initialization import no_init_weights

    model_type, keys = TINY[name]
    config = transformers.AutoConfig.for_model(model_type, **keys)
    head = transformers.AutoModelForImageClassification if model_type == "vit" else transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), no_init_weights():
        model = head.from_config(config, dtype=torch.float32)
    model.tie_weights()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=stream(seed, "tiny", name, key))
            is_gain = parameter.dim() == 1 and not key.endswith("bias")
            parameter.copy_(draw * 0.1 + (1 if is_gain else 0))
    return model.eval()


def tiny_checkpoint(name: str, directory: Path, seed: int = 0, *, sharded: bool = False) -> Path:
    """``tiny_model`` as a Hugging Face directory, in one safetensors file or in several."""
    tiny_model(name, seed).save_pretrained(directory, max_shard_size="20KB" if sharded else "1GB")
    return directory


QUERY = "layers.0.attention.query"
GENOME_SHAPES = {QUERY: (12, 8), "layers.10.mlp.down": (8, 19), "layers.2.mlp.up": (19, 8)}
PROVENANCE = {
    "recipe": {"rank": "25%", "basis": "canonical"},
    "source": {"id": "a/b", "config": {"ω": 1.5, "a": [1, None]}},
    "certificates": {QUERY: {"passed": True, "gap": 0.25}},
}


def tiny_subspaces(dtype: torch.dtype = torch.float32, rank: int = 3) -> Genome:
    """Haar bases at three sites."""
    genes: dict[Site, Gene] = {}
    for name, shape in GENOME_SHAPES.items():
        U, V = (haar(d, rank, stream(0, name, d, j)).to(dtype) for j, d in enumerate(shape))
        genes[make_site(name, shape)] = Subspace(U, V)
    return Genome(genes, PROVENANCE)


def tiny_masks() -> Genome:
    """Random masks of density 0.3 at three sites."""
    genes: dict[Site, Gene] = {
        make_site(name, shape): Mask(torch.rand(shape, generator=stream(0, name, "mask"), dtype=torch.float32) < 0.3)
        for name, shape in GENOME_SHAPES.items()
    }
    return Genome(genes, PROVENANCE)
