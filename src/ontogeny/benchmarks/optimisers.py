"""What masks cost beside dense layers, an optimiser state of kept weights alone, and Muon for the cores."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ontogeny.benchmarks.measure import Entry, cpu_seconds, peer, product_rate
from ontogeny.benchmarks.training import DENSE, Shape, dense, training_step
from ontogeny.genome.extract import one_thread_each
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import make_site
from ontogeny.model.constrain import constrain, site_shapes
from ontogeny.model.initialise import fresh_model
from ontogeny.model.layers import MaskedLinear
from ontogeny.streams import stream
from ontogeny.training.batches import Batches, evaluation_windows
from ontogeny.training.muon import STEPS, Muon
from ontogeny.training.text import read_corpus
from ontogeny.training.train import TrainConfig, evaluation_loss, train

MASKED = (Shape(256, 4, 16), Shape(1024, 2, 8))
DENSITIES = (0.1, 0.25, 0.5, 0.9)
CORES, CORE = 120, 58  # how many, of which rank
LEARNER, SHARE = Shape(64, 2, 8), 0.25  # the share of directions
LEARNT, LENGTH, CHARACTERS = 150, 64, 400_000  # steps; tokens a sequence, which are bytes; characters of text
BODY_RATES, REST_RATE = (1e-2, 3e-2, 1e-1), 3e-2
FULL_STATE, ADAMW = peer("full state, gradient masked"), peer("AdamW, fused")


def measure() -> Iterator[Entry]:
    """Every entry of masks and optimisers, on one thread, float32."""
    with one_thread_each():
        for shape in MASKED:
            yield from _masks(shape)
        yield _muon()
        yield _losses()


def _masks(shape: Shape) -> Iterator[Entry]:
    """What masks add to a dense step, beside what they add where the dead have a state too; and what is held."""
    (plain,) = cpu_seconds({DENSE: training_step(dense(shape), shape.batch, torch.float32)}, rounds=2).values()
    weights = [torch.randn(s, generator=stream(0, "bench", name)) for name, s in site_shapes(dense(shape)).items()]
    for density in DENSITIES:
        keeps = [torch.rand(W.shape, generator=stream(0, "bench", i)) < density for i, W in enumerate(weights)]
        made = {name: upkeep(kind, weights, keeps) for name, kind in KINDS.items()}
        seconds = cpu_seconds({name: step for name, (step, _) in made.items()}, rounds=3)
        added = {name: (seconds[name] - seconds[DENSE]) / plain for name in ("ours", FULL_STATE)}
        mine, at = added.pop("ours"), f"d {shape.d} × {shape.layers}, batch {shape.batch}, density {density:.0%}"
        yield Entry(f"added by masks, {at}", mine, "dense steps", added, target="≤ 0.03", met=mine <= 0.03)
        kept = seconds.pop("ours")
        yield Entry(f"upkeep of masked weights, {at}", kept, "CPU s", seconds, seconds[FULL_STATE] / kept)
        held, full = (_state_megabytes(made[name][1]) for name in ("ours", FULL_STATE))
        words, met = ("≤ 0.11 of the full", held <= 0.11 * full) if density == 0.1 else (None, None)
        yield Entry(f"state of AdamW, {at}", held, "MB", {FULL_STATE: full}, full / held, target=words, met=met)


def upkeep(kind: "Kind", weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> tuple[Callable[[], None], Optimizer]:
    """A step of layer matrices less its products: weights made, gradients given, clipping, fused AdamW."""
    layers = [kind(W, keep) for W, keep in zip(weights, keeps, strict=True)]
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = AdamW(parameters, lr=1e-3, fused=True)

    def step() -> None:
        for layer, W in zip(layers, weights, strict=True):
            torch.dot(layer.weight.flatten(), W.flatten()).backward()  # type: ignore[operator]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, optimizer


class FullState(nn.Module):
    """Dead weights are held, and AdamW leaves them at zero: they start there, with no state, and get no gradient."""

    def __init__(self, weight: Float[Tensor, "d_out d_in"], keep: Bool[Tensor, "d_out d_in"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.where(keep, weight, 0.0))
        mask = keep.float()  # cheaper to multiply with than booleans, or than filling

        def masked(weight: Tensor) -> None:
            assert weight.grad is not None
            weight.grad.mul_(mask)

        self.weight.register_post_accumulate_grad_hook(masked)


def _dense(weight: Float[Tensor, "d_out d_in"], keep: Bool[Tensor, "d_out d_in"]) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.clone())
    return layer


Kind = Callable[[Tensor, Tensor], nn.Module]
KINDS: dict[str, Kind] = {"ours": MaskedLinear, FULL_STATE: FullState, DENSE: _dense}


def _state_megabytes(optimizer: Optimizer) -> float:
    return float(sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values())) / 1e6


def _muon() -> Entry:
    """One step of all cores; torch's takes them one by one, in bf16, which CPUs without the instructions emulate."""
    kinds: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
        "ours": lambda cores: Muon([{"params": cores, "orthogonal": True}]),
        peer("torch.optim.Muon"): torch.optim.Muon,
        peer("ours, core by core"): lambda cores: Muon([{"params": [core], "orthogonal": True} for core in cores]),
        ADAMW: partial(AdamW, fused=True),
    }
    seconds = cpu_seconds({name: core_step(kind) for name, kind in kinds.items()}, rounds=5)
    mine, bound = seconds.pop("ours"), STEPS * 3 * 2 * CORE**3 * CORES / product_rate(torch.float32)
    ratio, words = next(iter(seconds.values())) / mine, "≤ 0.008"
    return Entry(f"Muon, {CORES} cores of {CORE}²", mine, "CPU s", seconds, ratio, bound, words, mine <= 0.008)


def core_step(kind: Callable[[list[nn.Parameter]], Optimizer]) -> Callable[[], object]:
    """A step of an optimiser over cores that have gradients."""
    cores = [nn.Parameter(torch.randn(CORE, CORE, generator=stream(0, "bench", i))) for i in range(CORES)]
    for i, core in enumerate(cores):
        core.grad = torch.randn(CORE, CORE, generator=stream(1, "bench", i))
    return kind(cores).step


def _losses() -> Entry:
    """Held-out loss after as many tokens by Muon and by AdamW, each at the best of its body rates; one seed."""
    text = "\n".join(read_corpus(["stdlib:prose"], max_characters=CHARACTERS).documents)
    tokens = np.frombuffer(text.encode(), np.uint8)
    train_tokens, test = np.split(tokens, [len(tokens) * 9 // 10])
    batches, windows = Batches(train_tokens, LENGTH, LEARNER.batch, seed=0), evaluation_windows(test, LENGTH, 64)
    best = {}
    for optimizer in ("muon", "adamw"):
        losses = {}
        for rate in BODY_RATES:
            config = TrainConfig(LEARNT, rate, REST_RATE, optimizer=optimizer)
            evaluate = partial(_evaluate, windows=windows)
            losses[rate] = train(learner(), batches, config, evaluate=evaluate).losses[-1]
        best[optimizer] = min((loss, rate) for rate, loss in losses.items())
    (mine, rate), (theirs, their_rate) = best["muon"], best["adamw"]
    at = f"d {LEARNER.d} × {LEARNER.layers}, {SHARE:.0%} of directions, {LEARNT} steps"
    name = f"loss with Muon, {at}, body rates {rate:g} (Muon), {their_rate:g} (AdamW) of {BODY_RATES}"
    return Entry(name, mine, "nats a byte", {ADAMW: theirs}, theirs / mine)


def _evaluate(model: nn.Module, windows: Tensor) -> dict[str, float]:
    return {"loss": evaluation_loss(model, windows)}


def learner() -> nn.Module:
    """A small model of bytes in a Haar-random genome."""
    model = fresh_model(LEARNER.config() | {"vocab_size": 256}, seed=0)
    genes = {}
    for name, shape in site_shapes(model).items():
        k = max(1, round(SHARE * min(shape)))
        U, V = (haar(d, k, stream(0, "bench", name, side)).float() for side, d in zip("UV", shape, strict=True))
        genes[make_site(name, shape)] = Subspace(U, V)
    return constrain(model, Genome(genes, {}))
