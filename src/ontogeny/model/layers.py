"""Linear layers under a structural constraint. Drop-in for ``nn.Linear``; ``plain()`` gives it back."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class Constrained(nn.Module):
    """What the constrained layers share: an effective ``weight`` (d_out, d_in), and the way back to a plain layer.

    ``transposed``: the plain layer is transformers' ``Conv1D``, which stores (d_in, d_out).
    """

    bias: nn.Parameter | None
    transposed: bool = False

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in), without making the weight."""
        raise NotImplementedError

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """An unconstrained layer with the same weight and bias."""
        from transformers.pytorch_utils import Conv1D

        W = self.weight.detach()
        with torch.device("meta"):  # the values come from W: draw none
            layer: nn.Module = (
                Conv1D(*W.shape) if self.transposed else nn.Linear(W.shape[1], W.shape[0], bias=self.bias is not None)
            )
        layer.weight = nn.Parameter((W.T if self.transposed else W).contiguous())
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone())
        return layer


class SubspaceLinear(Constrained):
    """``y = U C Vᵀ x + b`` with U (d_out, k) and V (d_in, k) fixed and only the core C (k, k) and b trained.

    A core given as a vector (k,) is the diagonal of C, and the rest of C stays zero.
    The product U C Vᵀ is never formed; U and V are buffers, so no gradient for them is ever computed.
    Where ``alive`` is set (``model/prune.py``), the i-th pair of directions is used only if alive[i].
    Where ``shared`` is set, V's product is one with that of the other layers that read the same input.
    """

    shared: "SharedInput | None" = None

    U: Float[Tensor, "d_out k"]
    V: Float[Tensor, "d_in k"]
    alive: Bool[Tensor, " k"] | None
    lived: Bool[Tensor, "rounds k"] | None  # what development keeps (``training/develop.py``)
    score: Float[Tensor, "*core"] | None

    def __init__(
        self,
        U: Float[Tensor, "d_out k"],
        V: Float[Tensor, "d_in k"],
        core: Float[Tensor, "k k"] | Float[Tensor, " k"],
        bias: Float[Tensor, " d_out"] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("U", _by_column(U))
        self.register_buffer("V", _by_column(V))
        for name in ("alive", "lived", "score"):
            self.register_buffer(name, None)
        self.core = nn.Parameter(core.contiguous())
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return F.linear(self.apply_core(self.read(x)), self.U, self.bias)

    def read(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch k"]:
        """Vᵀ x."""
        return F.linear(x, self.V.T) if self.shared is None else self.shared.product(x, self)

    def apply_core(self, z: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k"]:
        """C z."""
        core = self.living_core
        return F.linear(z, core) if core.ndim == 2 else z * core

    @property
    def living_core(self) -> Float[Tensor, "*core"]:
        """The core; zero along dead directions, where its entries have no effect and no gradient."""
        if self.alive is None:
            return self.core
        return self.core * self.alive if self.core.ndim == 1 else self.core * self.alive * self.alive[:, None]

    @property
    def core_matrix(self) -> Float[Tensor, "k k"]:
        return self.living_core if self.core.ndim == 2 else self.living_core.diag()

    @property
    def dead(self) -> Bool[Tensor, "*core"] | None:
        """Which entries of the core are of no use; None while every direction lives."""
        if self.alive is None:
            return None
        return ~self.alive if self.core.ndim == 1 else ~(self.alive & self.alive[:, None])

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        return self.U @ self.core_matrix @ self.V.T

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.U), len(self.V)

    def projection(self, W: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "k k"] | Float[Tensor, " k"]:
        """The core, float64, of the weight nearest to W in Frobenius norm: Uᵀ W V, or its diagonal."""
        C = self.U.double().T @ W.to(self.U.device).double() @ self.V.double()
        return C if self.core.ndim == 2 else C.diagonal()

    @torch.no_grad()
    def project_(self, W: Float[Tensor, "d_out d_in"]) -> None:
        """Move to the nearest weight to W in Frobenius norm."""
        self.core.copy_(self.projection(W))


class SharedInput:
    """One product with the V of every layer that reads the same input: the first to be called computes it for all.

    Side by side, with zeros up to a multiple of 8 columns, they run at up to 1.8 times the rate of narrow products, and
    the input's gradient is one product rather than a sum of several.
    """

    def __init__(self, layers: Sequence[SubspaceLinear]) -> None:
        self.layers = layers
        self.of: tuple[Any, ...] = ()  # the input that is waited for, and how it is computed with
        self.waiting: dict[SubspaceLinear, Tensor] = {}

    def product(self, x: Float[Tensor, "*batch d_in"], layer: SubspaceLinear) -> Float[Tensor, "*batch k"]:
        """x V of one of the layers; what is left for the others goes when another input comes."""
        kind = x.device.type
        of = (x, torch.is_grad_enabled(), torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind))
        if layer not in self.waiting or any(a is not b for a, b in zip(of, self.of, strict=True)):
            V = torch.cat([one.V.T for one in self.layers])  # (K, d_in)
            z = F.linear(x, F.pad(V, (0, 0, 0, -len(V) % 8)))
            widths = [one.V.shape[1] for one in self.layers]
            parts = z.split([*widths, z.shape[-1] - len(V)], -1)  # the last are the zeros
            self.of, self.waiting = of, dict(zip(self.layers, parts, strict=False))
        z = self.waiting.pop(layer)
        self.of = self.of if self.waiting else ()
        return z


class OneSidedLinear(Constrained):
    """``y = U A x + b`` with U (d_out, k) fixed ("left"), or ``y = A Vᵀ x + b`` with V (d_in, k) fixed ("right").

    The ``factor`` A, (k, d_in) or (d_out, k), and b are trained. ``basis`` is the fixed U or V, a buffer.
    """

    basis: Float[Tensor, "d k"]

    def __init__(
        self,
        basis: Float[Tensor, "d k"],
        factor: Float[Tensor, "rows columns"],
        bias: Float[Tensor, " d_out"] | None = None,
        *,
        side: Literal["left", "right"],
    ) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("basis", _by_column(basis))
        self.factor = nn.Parameter(factor.contiguous())
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    def _factors(self) -> tuple[Tensor, Tensor]:
        """(d_out, k) and (k, d_in), whose product is the weight."""
        return (self.basis, self.factor) if self.side == "left" else (self.factor, self.basis.T)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        left, right = self._factors()
        return F.linear(F.linear(x, right), left, self.bias)

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        left, right = self._factors()
        return left @ right

    @property
    def shape(self) -> tuple[int, int]:
        left, right = self._factors()
        return left.shape[0], right.shape[1]

    @torch.no_grad()
    def project_(self, W: Float[Tensor, "d_out d_in"]) -> None:
        """Move to the nearest weight to W in Frobenius norm: A = Uᵀ W or W V."""
        W, basis = W.to(self.basis.device).double(), self.basis.double()
        self.factor.copy_(basis.T @ W if self.side == "left" else W @ basis)


class LowRankLinear(Constrained):
    """``y = A Bᵀ x + b`` with A (d_out, k) and B (d_in, k) trained: the same rank, the directions free."""

    def __init__(
        self, A: Float[Tensor, "d_out k"], B: Float[Tensor, "d_in k"], bias: Float[Tensor, " d_out"] | None = None
    ) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(A.contiguous()), nn.Parameter(B.contiguous())
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return F.linear(F.linear(x, self.B.T), self.A, self.bias)

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        return self.A @ self.B.T

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.A), len(self.B)


class MaskedLinear(Constrained):
    """A linear layer that has only the weights in ``keep``; the others are exactly zero, whatever the optimiser does.

    ``kept`` (row by row) is all that is trained, so gradients, clipping and optimiser state are of its size too. Every
    forward lays it out as a matrix of zeros else: up to a kept half, cheaper than to hold dead weights at zero.
    """

    keep: Bool[Tensor, "d_out d_in"]
    places: Int[Tensor, " kept"]  # in the matrix, flattened

    def __init__(
        self,
        weight: Float[Tensor, "d_out d_in"],
        keep: Bool[Tensor, "d_out d_in"],
        bias: Float[Tensor, " d_out"] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("keep", keep.contiguous())
        self.register_buffer("places", keep.flatten().nonzero().flatten(), persistent=False)
        self.kept = nn.Parameter(weight[keep])
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return F.linear(x, self.weight, self.bias)

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        zeros = self.kept.new_zeros(self.keep.numel())
        return zeros.index_copy_(0, self.places, self.kept).view(self.keep.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self.keep.shape[0], self.keep.shape[1]

    @torch.no_grad()
    def project_(self, W: Float[Tensor, "d_out d_in"]) -> None:
        """Move to the nearest weight to W in Frobenius norm: W where kept."""
        self.kept.copy_(W.to(self.keep.device)[self.keep])


class FusedLinear(Constrained):
    """Several layers over one input whose outputs stand in one tensor, as a fused projection stores them.

    ``order`` is where each stored row lies in the parts' outputs side by side; None if already in order.
    """

    order: Int[Tensor, " d_out"] | None

    def __init__(self, parts: dict[str, nn.Module], order: Int[Tensor, " d_out"] | None, transposed: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name.replace(".", "_"): part for name, part in parts.items()})
        self.register_buffer("order", order, persistent=False)
        self.transposed = transposed

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        y = torch.cat([part(x) for part in self.parts.values()], dim=-1)
        return y if self.order is None else y.index_select(-1, self.order)

    def _stored(self, values: list[Tensor]) -> Tensor:
        joined = torch.cat(values)
        return joined if self.order is None else joined[self.order]

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        return self._stored([part.weight for part in self.parts.values()])  # type: ignore[misc]

    @property
    def shape(self) -> tuple[int, int]:
        parts: list[Any] = list(self.parts.values())
        shapes = [part.shape if isinstance(part, Constrained) else part.weight.shape for part in parts]
        return sum(d_out for d_out, _ in shapes), shapes[0][1]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        biases = [part.bias for part in self.parts.values()]
        return None if biases[0] is None else self._stored(biases)  # type: ignore[arg-type]


def _by_column(Q: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Column by column in memory: bf16 products on CPUs without bf16 instructions run up to 4 × faster on it."""
    return Q.T.contiguous().T


def enforce_masks(model: nn.Module, optimizer: Optimizer) -> RemovableHandle:
    """After every step of ``optimizer``, cores' entries along dead directions and their optimiser state are zero.

    Exactly, and for any optimiser, momentum and weight decay included: what a step revives is zeroed before anyone
    reads it. Dead weights of a ``MaskedLinear`` need none of it, as there are none.
    """
    layers = [module for module in model.modules() if isinstance(module, SubspaceLinear)]

    @torch.no_grad()
    def clean(optimizer: Optimizer, *_: Any) -> None:
        for layer in layers:
            dead = layer.dead  # read here: directions die on the way, and the model may have moved to another device
            if dead is None:
                continue
            layer.core.masked_fill_(dead, 0)
            for state in optimizer.state.get(layer.core, {}).values():
                if torch.is_tensor(state) and state.shape == layer.core.shape:
                    state.masked_fill_(dead, 0)

    return optimizer.register_step_post_hook(clean)
