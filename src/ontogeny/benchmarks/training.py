"""The whole training step inside a genome, against dense layers and against other ways to hold the constraint."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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
from ontogeny.training.train import LossFunction

VOCABULARY, LENGTH, RANK = 2048, 128, 0.1  # the share of directions that is kept


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
DENSE, FREE, LOW_RANK = peer("dense nn.Linear"), peer("free"), peer("low rank A Bᵀ (CoLA, LORO)")
PARAMETRIZE, ADAPTERS = peer("torch.nn.utils.parametrize"), peer("frozen W + U C Vᵀ (LoRA-XS)")
STOCK, STOCK_FREE = peer("dense, its own forward and loss", "transformers"), peer("free, so", "transformers")


def measure() -> Iterator[Entry]:
    """Every training entry, on one thread, float32 and bfloat16 autocast.

    Where bfloat16 products are slower than float32 ones (a CPU without the instructions), bfloat16 steps take one
    sequence, at the two smaller shapes, and say so.
    """
    with one_thread_each():
        rates = {dtype: product_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
        emulated = rates[torch.bfloat16] < rates[torch.float32]
        for shape in SHAPES:
            yield from _measure(shape, torch.float32, rates[torch.float32], slow=False)
        for shape in SHAPES[:2] if emulated else SHAPES:
            yield from _measure(shape, torch.bfloat16, rates[torch.bfloat16], slow=emulated)


def _measure(shape: Shape, dtype: torch.dtype, rate: float, *, slow: bool) -> Iterator[Entry]:
    shape = Shape(shape.d, shape.layers, 1) if slow else shape
    whole = dtype == torch.float32
    at = f"d {shape.d} × {shape.layers}, batch {shape.batch}, {'fp32' if whole else 'bf16'}"
    if slow:
        at += f" (emulated: {rate / 1e9:.2g} GFLOP/s)"
    models = MODELS if whole else {name: MODELS[name] for name in ("ours", DENSE, FREE)}
    steps = {name: training_step(make(shape), shape.batch, dtype, loss) for name, (make, loss) in models.items()}
    seconds = cpu_seconds(steps, rounds=2 if slow else 4)
    yield from _saving(shape, seconds, rate, at, whole=whole)
    if whole:
        yield from _ceiling(shape, seconds, at)
        yield _memory(shape, at)


def _saving(shape: Shape, seconds: Mapping[str, float], rate: float, at: str, *, whole: bool) -> Iterator[Entry]:
    """What the constraint saves: of the step, of what could be saved, of the layer matrices alone."""
    mine, plain, rest = seconds["ours"], seconds[DENSE], seconds[FREE]
    peers = {name: value for name, value in seconds.items() if name not in ("ours", STOCK_FREE)}
    dense_flops, our_flops = (flops * shape.batch * LENGTH for flops in body_flops(shape))
    bound = our_flops / rate
    goal = "≥ 1.6 × dense" if whole and shape.d == SHAPES[0].d else None
    met = plain / mine >= 1.6 if goal else None
    yield Entry(f"whole step, {at}", mine, "CPU s", peers, plain / mine, rest + bound, goal, met)
    share = (plain - mine) / (plain - rest)
    best = 1 - our_flops / dense_flops
    words = "≥ 0.9 of what FLOPs allow"
    yield Entry(f"share of the attainable saving, {at}", share, "", bound=best, target=words, met=share >= 0.9 * best)
    layers = {name: peers[name] - rest for name in (DENSE, PARAMETRIZE, LOW_RANK, ADAPTERS) if name in peers}
    goal = "≥ 60 % of the FLOP bound" if shape.d >= 1024 else None
    met = bound >= 0.6 * (mine - rest) if goal else None
    ratio = layers[DENSE] / (mine - rest)
    yield Entry(f"layer matrices alone, {at}", mine - rest, "CPU s", layers, ratio, bound, goal, met)
    if whole:
        ratio = seconds[PARAMETRIZE] / mine
        peers = {PARAMETRIZE: seconds[PARAMETRIZE]}
        name = f"whole step against parametrize, {at}"
        yield Entry(name, mine, "CPU s", peers, ratio, target="≥ 1.5 × parametrize", met=ratio >= 1.5)


def _ceiling(shape: Shape, seconds: Mapping[str, float], at: str) -> Iterator[Entry]:
    """What every step pays, dense or constrained, beside transformers' own forward and PyTorch's cross-entropy."""
    rest, stock = seconds[FREE], seconds[STOCK_FREE]
    goal = "≤ 0.5 × transformers" if shape.d == SHAPES[0].d else None
    met = rest <= 0.5 * stock if goal else None
    name = f"left once layer matrices are free, {at}"
    yield Entry(name, rest, "CPU s", {STOCK_FREE: stock}, stock / rest, target=goal, met=met)
    plain, stock = seconds[DENSE], seconds[STOCK]
    yield Entry(f"dense step, {at}", plain, "CPU s", {STOCK: stock}, stock / plain)


def _memory(shape: Shape, at: str) -> Entry:
    """What is kept from the forward pass for the backward pass."""
    kept = {name: kept_bytes(make(shape), shape.batch, loss) for name, (make, loss) in MODELS.items()}
    mine, peers = (
        float(kept["ours"]),
        {name: float(kept[name]) for name in (DENSE, STOCK, LOW_RANK, PARAMETRIZE, ADAPTERS)},
    )
    goal = "≤ 50 % of dense" if shape.d >= 576 else None
    met = mine <= 0.5 * peers[DENSE] if goal else None
    return Entry(f"activation memory, {at}", mine, "bytes", peers, peers[DENSE] / mine, target=goal, met=met)


def body_flops(shape: Shape) -> tuple[int, int]:
    """FLOPs a token of the layer matrices, forward and backward: dense 6mn, ours 4k(m + n) + 6k²."""
    shapes = list(site_shapes(dense(shape)).values())
    ranks = [_rank(s) for s in shapes]
    factored = sum(4 * k * (m + n) + 6 * k * k for (m, n), k in zip(shapes, ranks, strict=True))
    return sum(6 * m * n for m, n in shapes), factored


def training_step(
    model: nn.Module, batch: int, dtype: torch.dtype, loss: LossFunction = next_token_loss
) -> Callable[[], None]:
    """The train module's step: forward, backward, clipping, fused AdamW; autocast for bfloat16."""
    windows = _windows(batch)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    enforce_masks(model, optimizer)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss(model, windows)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def kept_bytes(model: nn.Module, batch: int, loss: LossFunction) -> int:
    """Bytes that a forward pass keeps for the backward pass, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss(model, _windows(batch))
    return sum(storage.nbytes() for at, storage in kept.items() if at not in own)


def transformers_loss(model: nn.Module, windows: Tensor) -> Tensor:
    """``next_token_loss`` as it is without ``model/fast.py``."""
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


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


def adapted(shape: Shape) -> nn.Module:
    """Frozen weights and U C Vᵀ beside them, as LoRA-XS trains (Bałazy et al. 2024, arXiv:2405.17604)."""
    model, constrained = dense(shape), ours(shape)
    for place in model_places(model):
        parts = model.get_submodule(place.name), constrained.get_submodule(place.name)
        model.set_submodule(place.name, Adapted(*parts))
    return model


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


# name -> (how to make the model, the loss of a step)
MODELS: dict[str, tuple[Callable[[Shape], nn.Module], LossFunction]] = {
    "ours": (ours, next_token_loss),
    DENSE: (dense, next_token_loss),
    FREE: (free, next_token_loss),
    PARAMETRIZE: (parametrized, next_token_loss),
    LOW_RANK: (low, next_token_loss),
    ADAPTERS: (adapted, next_token_loss),
    STOCK: (dense, transformers_loss),
    STOCK_FREE: (free, transformers_loss),
}


class Adapted(nn.Module):
    """A frozen layer and a trained one beside it."""

    def __init__(self, frozen: nn.Module, trained: nn.Module) -> None:
        super().__init__()
        self.frozen, self.trained = frozen.requires_grad_(False), trained

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return self.frozen(x) + self.trained(x)  # type: ignore[no-any-return]


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


def _windows(batch: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, LENGTH + 1), generator=stream(0, "bench", "tokens"))


def _rank(shape: tuple[int, int]) -> int:
    return max(1, round(RANK * min(shape)))


def _bases(name: str, shape: tuple[int, int]) -> list[Tensor]:
    k = _rank(shape)
    return [haar(d, k, stream(0, "bench", name, side)).float() for side, d in zip("UV", shape, strict=True)]
