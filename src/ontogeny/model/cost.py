"""What a training step costs: matrix-product FLOPs a token, counted from the model's layers."""

from torch import nn

from ontogeny.genome.sites import architecture
from ontogeny.model.layers import LowRankLinear, MaskedLinear, SubspaceLinear


def flops_per_token(model: nn.Module, length: int) -> int:
    """Forward and backward FLOPs a token of a sequence of ``length`` tokens; head and attention counted.

    A trained (m, n) map costs 6mn, a frozen one 4mn; a core with U and V frozen 4k(m + n) + 6k²; a low-rank
    map 6k(m + n). Attention is counted without its causal half; norms and activations are not counted.
    """
    config = model.config.to_dict()  # type: ignore[operator, union-attr]
    row = architecture(config)
    heads, layers = config[row.heads_key], config[row.layers_key]
    head_size = config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads
    attention: int = 12 * length * heads * head_size * layers
    return sum(map(_layer_flops, model.modules())) + attention


def _layer_flops(module: nn.Module) -> int:
    if isinstance(module, SubspaceLinear):
        k = module.core.shape[0]
        return 4 * k * (len(module.U) + len(module.V)) + 6 * k * k
    if isinstance(module, LowRankLinear):
        return 6 * (module.A.numel() + module.B.numel())
    weight = getattr(module, "kept", None) if hasattr(module, "kept") else getattr(module, "weight", None)
    if isinstance(weight, nn.Parameter) and weight.ndim == 2 and not isinstance(module, nn.Embedding):
        return (6 if weight.requires_grad else 4) * weight.numel()
    return 0


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """``parameters`` (every stored value, fixed bases included) and ``trainable_parameters`` (no dead weights)."""
    fixed = sum(b.numel() for m in model.modules() if isinstance(m, SubspaceLinear) for b in (m.U, m.V))
    dead = sum(int((~m.keep).sum()) for m in model.modules() if isinstance(m, MaskedLinear))
    return {
        "parameters": sum(p.numel() for p in model.parameters()) + fixed,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad) - dead,
    }
