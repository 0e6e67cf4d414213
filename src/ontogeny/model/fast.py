"""The loss of a causal language model, and the forward of a Llama-like one, in few passes over memory.

The same numbers as transformers gives, to rounding, from the same modules; the models themselves are left alone.
On a CPU a third of a small model's step is spent on passes over memory that its own code makes and that need not be.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ontogeny.model.layers import SubspaceLinear

LLAMAS = ("llama", "mistral", "qwen2", "qwen3")  # the model types whose modules ``_llama`` knows
ENTRIES = {"cpu": 2**20}  # of what is computed part by part, at a time: as many as stay in the cache
MANY_ENTRIES = 2**27  # on an accelerator


def next_token_loss(model: nn.Module, windows: Int[Tensor, "size length_plus_1"]) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats a token) of predicting each window's tokens from the ones before."""
    ids, targets = windows[:, :-1], windows[:, 1:].flatten()
    head = model.get_output_embeddings()  # type: ignore[operator]
    spread = hasattr(model, "unshard")  # FSDP2: a parameter is whole only while the module that has it is called
    if spread or head.bias is not None:  # a bias: of no architecture of the table
        return F.cross_entropy(model(input_ids=ids, use_cache=False).logits.flatten(0, 1).float(), targets)
    return head_loss(hidden_states(model, ids).flatten(0, 1), head.weight, targets)


def hidden_states(model: nn.Module, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T d"]:
    """What the head of a causal language model reads."""
    body: Any = model.base_model
    if _known(body, ids.shape[1]):
        return _llama(body, ids)
    return body(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


def _known(body: Any, length: int) -> bool:
    """Whether ``_llama`` computes what this model's own forward does."""
    config = body.config
    if config.model_type not in LLAMAS or config._attn_implementation != "sdpa" or body.dtype != torch.float32:
        return False
    window = getattr(config, "sliding_window", None)
    return (window is None or length <= window) and not (body.training and config.attention_dropout)


def _llama(body: Any, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T d"]:
    x = body.embed_tokens(ids)  # (B, T, d)
    cos, sin = body.rotary_emb(x, torch.arange(ids.shape[1], device=ids.device)[None])
    turn = cos[0, :, None], sin[0, :, None, : sin.shape[-1] // 2]  # (T, 1, head), (T, 1, head / 2)
    for layer in body.layers:
        x = x + _attention(layer.self_attn, rms_norm(x, layer.input_layernorm), turn)
        x = x + _feed_forward(layer.mlp, rms_norm(x, layer.post_attention_layernorm))
    return rms_norm(x, body.norm)


def _attention(attention: Any, x: Float[Tensor, "B T d"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "B T d"]:
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    q, k, v = (project(x).unflatten(-1, (-1, attention.head_dim)) for project in projections)  # (B, T, heads, head)
    if hasattr(attention, "q_norm"):
        q, k = rms_norm(q, attention.q_norm), rms_norm(k, attention.k_norm)
    q, k, v = (part.transpose(1, 2) for part in (rotate(q, *turn), rotate(k, *turn), v))
    grouped = k.shape[1] != q.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=attention.scaling, enable_gqa=grouped)
    return attention.o_proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _feed_forward(mlp: Any, x: Float[Tensor, "B T d"]) -> Float[Tensor, "B T d"]:
    layers = gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
    usual = mlp.config.hidden_act in ("silu", "swish") and not mlp.act_fn._forward_hooks
    if not usual or any(type(layer) is not SubspaceLinear or layer.bias is not None for layer in layers):
        return down(mlp.act_fn(gate(x)) * up(x))  # type: ignore[no-any-return]
    g, u = (layer.apply_core(layer.read(x)).flatten(0, 1) for layer in (gate, up))
    z = _GatedUnits.apply(g, u, gate.U, up.U, down.V)  # type: ignore[no-untyped-call]
    return F.linear(down.apply_core(z.view(*x.shape[:-1], -1)), down.U)


class _GatedUnits(torch.autograd.Function):
    """(silu(g Uᵍᵀ) · (u Uᵘᵀ)) V: a feed-forward block between what its cores give and what the last one reads.

    All units exist a part of the tokens at a time, and once more in the backward pass: what is kept is g and u.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, u: Tensor, U_gate: Tensor, U_up: Tensor, V: Tensor) -> Tensor:
        ctx.save_for_backward(g, u, U_gate, U_up, V)
        U_gate, U_up, V = (basis.to(g.dtype) for basis in (U_gate, U_up, V))
        z = g.new_empty(len(g), V.shape[1])
        for at in _parts(g, len(V)):
            torch.mm(F.silu(g[at] @ U_gate.T).mul_(u[at] @ U_up.T), V, out=z[at])
        return z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        g, u, *bases = ctx.saved_tensors
        U_gate, U_up, V = (basis.to(g.dtype) for basis in bases)
        dg, du = torch.empty_like(g), torch.empty_like(u)
        for at in _parts(g, len(V)):
            gate, dh = g[at] @ U_gate.T, gradients[0][at] @ V.T
            torch.mm(F.silu(gate).mul_(dh), U_up, out=du[at])
            dh.mul_(u[at] @ U_up.T)
            torch.mm(torch.ops.aten.silu_backward(dh, gate), U_gate, out=dg[at])
        return dg, du, None, None, None


def head_loss(h: Float[Tensor, "N d"], W: Float[Tensor, "V d"], targets: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """``F.cross_entropy(h @ W.T, targets)`` without ever holding all logits.

    The gradients are made along with the loss, part by part, while a part's logits are in the cache.
    """
    if torch.is_grad_enabled():
        return _HeadLoss.apply(h, W, targets)  # type: ignore[no-any-return, no-untyped-call]
    rows = _rows(h, len(W))
    parts = zip(h.split(rows), targets.split(rows), strict=True)
    return torch.stack([F.cross_entropy(F.linear(x, W).float(), y, reduction="sum") for x, y in parts]).sum() / len(h)


def _rows(x: Float[Tensor, "N d"], columns: int) -> int:
    """How many rows of x to take at a time where each makes so many columns."""
    return max(1, ENTRIES.get(x.device.type, MANY_ENTRIES) // columns)


def _parts(x: Float[Tensor, "N d"], columns: int) -> Iterator[slice]:
    rows = _rows(x, columns)
    return (slice(start, start + rows) for start in range(0, len(x), rows))


class _HeadLoss(torch.autograd.Function):
    """Per row: with P = exp(z − max z) and its sum s, the loss is log s − (z_y − max z) and its gradient P/s − 1_y."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, W: Tensor, targets: Tensor) -> Tensor:
        kind = h.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else h.dtype  # of the products
        V, losses = W.to(dtype), torch.empty(len(h), device=h.device)
        dh = torch.empty_like(h) if ctx.needs_input_grad[0] else None
        dW = torch.zeros_like(W) if ctx.needs_input_grad[1] else None
        for at in _parts(h, len(W)):
            x, y = h[at].to(dtype), targets[at, None]
            z = F.linear(x, V).float()
            z -= z.amax(1, keepdim=True)
            true = z.gather(1, y)
            s = z.exp_().sum(1, keepdim=True)
            losses[at] = (s.log() - true).squeeze(1)
            P, share = z.scatter_add_(1, y, -s).to(dtype), (s * len(h)).reciprocal_()
            if dh is not None:
                dh[at] = (P @ V).mul_(share)
            if dW is not None:
                x = (x * share).to(dtype)
                torch.addmm(dW, P.T, x, out=dW) if dtype == dW.dtype else dW.add_(P.T @ x)
        ctx.save_for_backward(dh, dW)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        dh, dW = ctx.saved_tensors
        return None if dh is None else dh * gradients[0], None if dW is None else dW * gradients[0], None


def rms_norm(x: Float[Tensor, "*batch d"], norm: Any) -> Float[Tensor, "*batch d"]:
    """What transformers' RMSNorm module of a Llama-like model gives."""
    return _RMSNorm.apply(x.float(), norm.weight, norm.variance_epsilon)  # type: ignore[no-any-return, no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    """y = w · x r with r = (mean x² + ε)^-½; keeps x and r alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, epsilon: float) -> Tensor:
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, w, r)
        return x.mul(r).mul_(w)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (x, w, r), g = ctx.saved_tensors, gradients[0]
        n = x * r
        gn = g * n
        dw = gn.flatten(0, -2).sum(0)
        along = (gn @ w).div_(-x.shape[-1]).unsqueeze(-1)
        return n.mul_(along).addcmul_(g, w).mul_(r), dw, None


def rotate(
    x: Float[Tensor, "B T heads head"], cos: Float[Tensor, "T 1 head"], sin: Float[Tensor, "T 1 half"]
) -> Float[Tensor, "B T heads head"]:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): entries i and i + head / 2 turn by the angle of i."""
    return _Rotate.apply(x, cos, sin)  # type: ignore[no-any-return, no-untyped-call]


class _Rotate(torch.autograd.Function):
    """Its gradient is turned back; nothing of the input is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradients[0], cos, -sin), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half, y = x.shape[-1] // 2, x * cos
    y[..., :half].addcmul_(x[..., half:], sin, value=-1)
    y[..., half:].addcmul_(x[..., :half], sin)
    return y
