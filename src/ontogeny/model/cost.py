"""What a training step costs: matrix-product FLOPs a token, counted from the model's layers."""

from torch import nn

from ontogeny.genome.sites import architecture
from ontogeny.model.layers import LowRankLinear, MaskedLinear, OneSidedLinear, SubspaceLinear


def flops_per_token(model: nn.Module, length: int) -> int:
    """Forward and backward FLOPs a token of a sequence of ``length`` tokens; head and attention counted.

    A trained (m, n) map costs 6mn, a frozen one 4mn; a core with U and V frozen 4k(m + n) + 6k², a diagonal one
    4k(m + n); U A with U (m, k) frozen 4km + 6kn; a low-rank map 6k(m + n). Attention is counted without its causal
    half; norms, activations and other products entry by entry are not counted, nor zeros that fill products up.
    """
    config = model.config.to_dict()  # type: ignore[operator, union-attr]
    row = architecture(config)
    heads, layers = config[row.heads_key], config[row.layers_key]
    head_size = config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads
    attention: int = 12 * length * heads * head_size * layers
    return sum(map(_layer_flops, model.modules())) + attention


def _layer_flops(module: nn.Module) -> int:
    if isinstance(module, SubspaceLinear):
        return 4 * (module.U.numel() + module.V.numel()) + 6 * (module.core.numel() if module.core.ndim == 2 else 0)
    if isinstance(module, OneSidedLinear):
        return 4 * module.basis.numel() + 6 * module.factor.numel()
    if isinstance(module, LowRankLinear):
        return 6 * (module.A.numel() + module.B.numel())
    if isinstance(module, MaskedLinear):  # as many as a dense map: its zeros are multiplied too
        return (6 if module.kept.requires_grad else 4) * module.keep.numel()
    weight = getattr(module, "weight", None)
    if isinstance(weight, nn.Parameter) and weight.ndim == 2 and not isinstance(module, nn.Embedding):
        return (6 if weight.requires_grad else 4) * weight.numel()
    return 0


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """``parameters`` (every value; fixed bases, a mask's zeros too) and ``trainable_parameters`` (none dead)."""
    factored = [m for m in model.modules() if isinstance(m, SubspaceLinear | OneSidedLinear)]
    fixed = sum(basis.numel() for m in factored for basis in m.buffers(recurse=False))
    zeros = sum(m.keep.numel() - m.kept.numel() for m in model.modules() if isinstance(m, MaskedLinear))
    dead = sum(int(m.dead.sum()) for m in model.modules() if isinstance(m, SubspaceLinear) and m.dead is not None)
    return {
        "parameters": sum(p.numel() for p in model.parameters()) + fixed + zeros,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad) - dead,
    }
