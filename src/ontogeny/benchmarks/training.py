"""The whole training step inside a genome, against dense layers and against other ways to hold the constraint."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ontogeny.benchmarks.measure import Entry, cpu_seconds, peer, product_rate
from ontogeny.genome.extract import one_thread_each
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import make_site
from ontogeny.model.constrain import constrain, low_rank, model_places, site_shapes
from ontogeny.model.fast import next_token_loss
from ontogeny.model.initialise import fresh_model
from ontogeny.model.layers import SubspaceLinear, enforce_masks
from ontogeny.streams import stream

VOCABULARY, LENGTH, RANK = 2048, 128, 0.1  # the share of directions that is kept
SECONDS = 15.0  # for each shape and precision, and more where four rounds take longer


@dataclass(frozen=True)
class Shape:
    """A Llama with heads of 64 and a feed-forward width of 8/3 d, and how many sequences a step takes."""

    d: int
    layers: int
    batch: int

    def config(self) -> dict[str, Any]:
        """The transformers configuration."""
        heads = max(1, self.d // 64)
        return {
            "model_type": "llama",
            "hidden_size": self.d,
            "intermediate_size": -(-8 * self.d // 96) * 32,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": LENGTH,
            "tie_word_embeddings": False,
        }


SHAPES = (Shape(256, 4, 16), Shape(576, 4, 8), Shape(1024, 2, 8))
DENSE, FREE, LOW_RANK = peer("dense nn.Linear"), peer("free"), peer("low rank A Bᵀ")
PARAMETRIZE = peer("torch.nn.utils.parametrize")


def measure() -> Iterator[Entry]:
    """Every training entry, on one thread, float32 and bfloat16 autocast.

    Where bfloat16 products are slower than float32 ones (a CPU without the instructions), bfloat16 steps take one
    sequence, and say so.
    """
    with one_thread_each():
        rates = {dtype: product_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
        emulated = rates[torch.bfloat16] < rates[torch.float32]
        for shape in SHAPES:
            yield from _measure(shape, torch.float32, rates[torch.float32], slow=False)
            yield from _measure(shape, torch.bfloat16, rates[torch.bfloat16], slow=emulated)


def _measure(shape: Shape, dtype: torch.dtype, rate: float, *, slow: bool) -> Iterator[Entry]:
    shape = Shape(shape.d, shape.layers, 1) if slow else shape
    whole = dtype == torch.float32
    models = {"ours": ours, DENSE: dense, FREE: free}
    models |= {PARAMETRIZE: parametrized, LOW_RANK: low} if whole else {}
    steps = {name: training_step(make(shape), shape.batch, dtype) for name, make in models.items()}
    seconds = cpu_seconds(steps, rounds=2 if slow else 4, limit=SECONDS)
    mine, plain, rest = seconds.pop("ours"), seconds[DENSE], seconds[FREE]
    dense_flops, our_flops = (flops * shape.batch * LENGTH for flops in body_flops(shape))
    at = f"d {shape.d} × {shape.layers}, batch {shape.batch}, {'fp32' if whole else 'bf16'}"
    if slow:
        at += f" (emulated: {rate / 1e9:.2g} GFLOP/s)"
    bound = our_flops / rate
    goal = "≥ 1.6 × dense" if whole and shape.d == SHAPES[0].d else None
    met = plain / mine >= 1.6 if goal else None
    yield Entry(f"whole step, {at}", mine, "CPU s", seconds, plain / mine, rest + bound, goal, met)
    share = (plain - mine) / (plain - rest)
    best = 1 - our_flops / dense_flops
    words = "≥ 0.9 of what FLOPs allow"
    yield Entry(f"share of the attainable saving, {at}", share, "", bound=best, target=words, met=share >= 0.9 * best)
    layers = {DENSE: plain - rest} | {name: seconds[name] - rest for name in (PARAMETRIZE, LOW_RANK) if whole}
    goal = "≥ 60 % of the FLOP bound" if shape.d >= 1024 else None
    met = bound >= 0.6 * (mine - rest) if goal else None
    ratio = layers[DENSE] / (mine - rest)
    yield Entry(f"layer matrices alone, {at}", mine - rest, "CPU s", layers, ratio, bound, goal, met)
    if whole:
        ratio = seconds[PARAMETRIZE] / mine
        peers = {PARAMETRIZE: seconds[PARAMETRIZE]}
        name = f"whole step against parametrize, {at}"
        yield Entry(name, mine, "CPU s", peers, ratio, target="≥ 1.5 × parametrize", met=ratio >= 1.5)


def body_flops(shape: Shape) -> tuple[int, int]:
    """FLOPs a token of the layer matrices, forward and backward: dense 6mn, ours 4k(m + n) + 6k²."""
    shapes = list(site_shapes(dense(shape)).values())
    ranks = [_rank(s) for s in shapes]
    factored = sum(4 * k * (m + n) + 6 * k * k for (m, n), k in zip(shapes, ranks, strict=True))
    return sum(6 * m * n for m, n in shapes), factored


def training_step(model: nn.Module, batch: int, dtype: torch.dtype) -> Callable[[], None]:
    """The train module's step: forward, backward, clipping, fused AdamW; autocast for bfloat16."""
    windows = torch.randint(0, VOCABULARY, (batch, LENGTH + 1), generator=stream(0, "bench", "tokens"))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    enforce_masks(model, optimizer)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = next_token_loss(model, windows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def dense(shape: Shape) -> nn.Module:
    """The plain model."""
    return fresh_model(shape.config(), seed=0)


def ours(shape: Shape) -> nn.Module:
    """The model inside a Haar-random genome: ``SubspaceLinear``."""
    model = dense(shape)
    genes = {make_site(name, s): Subspace(*_bases(name, s)) for name, s in site_shapes(model).items()}
    return constrain(model, Genome(genes, {}))


def low(shape: Shape) -> nn.Module:
    """Both factors of the same rank trained: ``LowRankLinear``."""
    model = dense(shape)
    return low_rank(model, {name: _rank(s) for name, s in site_shapes(model).items()}, seed=0)


def parametrized(shape: Shape) -> nn.Module:
    """The same constraint and start with PyTorch's own tool, which forms U C Vᵀ in every forward."""
    model, constrained = dense(shape), ours(shape)
    for place in model_places(model):
        layer = constrained.get_submodule(place.name)
        assert isinstance(layer, SubspaceLinear)
        parametrize.register_parametrization(model.get_submodule(place.name), "weight", Factored(layer))
    return model


def free(shape: Shape) -> nn.Module:
    """The model whose layer matrices cost nothing: what is left is attention, norms, head, loss and their optimiser."""
    model = dense(shape)
    for place in model_places(model):
        model.set_submodule(place.name, Free(model.get_submodule(place.name).out_features))  # type: ignore[arg-type]
    return model


class Factored(nn.Module):
    """W = U C Vᵀ as a parametrization of ``weight``."""

    U: Tensor
    V: Tensor

    def __init__(self, layer: SubspaceLinear) -> None:
        super().__init__()
        self.register_buffer("U", layer.U)
        self.register_buffer("V", layer.V)
        self.start = layer.core.detach().clone()

    def forward(self, core: Float[Tensor, "k k"]) -> Float[Tensor, "d_out d_in"]:
        return self.U @ core @ self.V.T

    def right_inverse(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "k k"]:
        return self.start


class Free(nn.Module):
    """A linear layer at no cost: the same tensor out every time, the same gradient back, no arithmetic and no copy.

    A slice of the input would do where d_out ≤ d_in, but its backward pass fills and copies, and wider outputs need
    new memory; so this bounds the saving from above, and the share that is reported from below.
    """

    def __init__(self, d_out: int) -> None:
        super().__init__()
        self.d_out = d_out
        self.y: Tensor | None = None
        self.gradient: Tensor | None = None

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        if self.y is None:
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            self.y = torch.ones(*x.shape[:-1], self.d_out, dtype=dtype)
            self.gradient = torch.full_like(x, 1e-6).detach()
        return _Constant.apply(x, self.y, self.gradient)  # type: ignore[no-any-return, no-untyped-call]


class _Constant(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient, None, None


def _rank(shape: tuple[int, int]) -> int:
    return max(1, round(RANK * min(shape)))


def _bases(name: str, shape: tuple[int, int]) -> list[Tensor]:
    k = _rank(shape)
    return [haar(d, k, stream(0, "bench", name, side)).float() for side, d in zip("UV", shape, strict=True)]
