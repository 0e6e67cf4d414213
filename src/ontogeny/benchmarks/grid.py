"""Several runs in one stack against one run after the other: the time of one run's training step."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ontogeny.benchmarks.measure import Entry, cpu_seconds, peer
from ontogeny.genome.extract import one_thread_each
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.genome.linalg import haar
from ontogeny.genome.sites import make_site
from ontogeny.lab.scales import SCALES
from ontogeny.model.constrain import constrain, site_shapes
from ontogeny.model.fast import next_token_loss
from ontogeny.model.initialise import fresh_model
from ontogeny.model.stack import give_gradients, stack
from ontogeny.streams import stream
from ontogeny.training.stacked import next_token_losses
from ontogeny.training.train import TrainConfig, make_optimizer

WIDTHS, BATCHES, MEMBERS = (32, 64, 96, 128), (4, 16), (2, 4, 8)  # of a laptop's runs; sequences a step; of a stack
ROUNDS = 4
RANK = 0.25
VOCABULARY, LENGTH = SCALES["laptop"].vocabulary, SCALES["laptop"].length
CONFIG = TrainConfig(1000, 1e-3, 1e-3)
SEPARATE = peer("separate runs")
PYTHIA_14M = {
    "model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": 128, "intermediate_size": 512,
    "num_hidden_layers": 6, "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip

Step = Callable[[], None]
Windows = Int[Tensor, "batch length_plus_1"]


def measure() -> Iterator[Entry]:
    """Llamas of a laptop's shape on one thread; 8 runs of Pythia-14M's shape where there is a GPU."""
    with one_thread_each():
        for batch in BATCHES:
            for width in WIDTHS:
                yield from _laptop(width, batch)
    if torch.cuda.is_available():
        yield from _pythia(members=8, batch=16)


def _laptop(width: int, batch: int) -> Iterator[Entry]:
    config = SCALES["laptop"].model(VOCABULARY) | {"hidden_size": width, "intermediate_size": 8 * width // 3}
    its = windows(batch, VOCABULARY, LENGTH)
    steps = {1: separate(network(config, 0), its)}
    steps |= {n: stacked([network(config, seed) for seed in range(n)], its) for n in MEMBERS}
    least = cpu_seconds({str(n): step for n, step in steps.items()}, ROUNDS)
    for n in MEMBERS:
        each, alone = least[str(n)] / n, least["1"]
        yield Entry(
            f"a step in a stack of {n}, d {width} × 3, batch {batch}", each, "CPU s", {SEPARATE: alone}, alone / each
        )


def _pythia(members: int, batch: int) -> Iterator[Entry]:
    its = windows(batch, PYTHIA_14M["vocab_size"], 128).cuda()  # type: ignore[arg-type]
    networks = [network(PYTHIA_14M, seed).cuda() for seed in range(members + 1)]
    alone = _elapsed(separate(networks[0], its))
    each = _elapsed(stacked(networks[1:], its)) / members
    name = f"a step in a stack of {members}, Pythia-14M's shape, batch {batch}, {torch.cuda.get_device_name()}"
    yield Entry(name, each, "s", {SEPARATE: alone}, alone / each, target="≥ 5 × separate", met=alone / each >= 5)


def network(config: Mapping[str, Any], seed: int) -> nn.Module:
    """A fresh network inside a random genome of a quarter of the directions."""
    model, genes = fresh_model(config, seed), {}
    for name, shape in site_shapes(model).items():
        k = max(1, round(RANK * min(shape)))
        U, V = (haar(d, k, stream(seed, "bench", name, side)).float() for side, d in zip("UV", shape, strict=True))
        genes[make_site(name, shape)] = Subspace(U, V)
    return constrain(model, Genome(genes, {}))


def windows(batch: int, vocabulary: int, length: int) -> Windows:
    """A batch of random tokens."""
    return torch.randint(0, vocabulary, (batch, length + 1), generator=stream(0, "bench", "windows"))


def separate(model: nn.Module, its: Windows) -> Step:
    """The step of a run by itself, as ``train`` takes it."""
    optimizer = make_optimizer(model, CONFIG)

    def step() -> None:
        loss = next_token_loss(model, its)
        loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def stacked(models: Sequence[nn.Module], its: Windows) -> Step:
    """The step of all runs in one stack, as ``train_stack`` takes it."""
    optimizers = [make_optimizer(model, CONFIG) for model in models]
    whole = stack(models)

    def step() -> None:
        losses = next_token_losses(whole, its.expand(len(models), -1, -1))
        losses.tolist()
        losses.sum().backward()
        give_gradients(whole, models, CONFIG.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step


def _elapsed(step: Step, warm: int = 10, steps: int = 50) -> float:
    """Elapsed seconds a step on the GPU."""
    for _ in range(warm):
        step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps
