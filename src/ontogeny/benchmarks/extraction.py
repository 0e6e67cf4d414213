"""Leading singular subspaces against other libraries, and a whole checkpoint: error, time, memory."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import scipy.linalg
import torch
from torch import Tensor

from ontogeny.benchmarks.measure import Entry, cpu_seconds, exponent, peer, product_rate
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract_to, one_thread_each
from ontogeny.genome.linalg import TOLERANCE, haar, leading_subspaces
from ontogeny.streams import stream

Left = Callable[[Tensor, int], Tensor]  # (W, k) -> the left basis (d_out, k)

ACCURACY_SHAPE = (576, 576)
TIMED_SHAPES = ((192, 576), (576, 576), (1536, 576), (1024, 1024), (2048, 2048), (4096, 4096))
LARGE = 1000  # short side from which a float32 SVD must be 1.7 times slower, and Lanczos is left out
HUGE = 3000  # from which a round takes a minute: one round, of the float32 SVD and the best exact peer
CONFIG = {  # SmolLM2-135M's shapes
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
BIG = CONFIG | {  # 6.6 GB in float32: docs/reliability.md says what it takes to extract
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 31,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}


def measure() -> Iterator[Entry]:
    """Every extraction entry. One thread for all libraries, but two cores for the whole checkpoint."""
    with one_thread_each():
        for name, spectrum in _spectra(min(ACCURACY_SHAPE)).items():
            yield _accuracy(name, spectrum)
        yield from _refusals()
        rate = product_rate(torch.float64)
        times: dict[tuple[int, int], float] = {}
        for shape in TIMED_SHAPES:
            for entry in _timed(shape, rate):
                times.setdefault(shape, entry.value)
                yield entry
        squares = {m: seconds for (m, n), seconds in times.items() if m == n}
        sizes = f"n×n, n {min(squares)} to {max(squares)}"
        yield Entry(f"growth of its time with n, {sizes}", exponent(squares), "exponent", bound=3.0)
    yield from _checkpoint(rate)


def sine(A: Tensor, B: Tensor) -> float:
    """Largest principal-angle sine between the spans of two (d, k) orthonormal bases, in float64."""
    A, B = A.double(), B.double()
    return float(torch.linalg.matrix_norm(B - A @ (A.T @ B), 2))


def _rank(shape: tuple[int, int]) -> int:
    return max(1, round(min(shape) / 10))


def _svd(dtype: torch.dtype) -> Left:
    return lambda W, k: torch.linalg.svd(W.to(dtype), full_matrices=False)[0][:, :k]


def _svds(W: Tensor, k: int) -> Tensor:
    from scipy.sparse.linalg import svds

    return torch.from_numpy(svds(W.double().numpy(), k, rng=0)[0].copy())


def _eigh(W: Tensor, k: int) -> Tensor:
    """Eigenvectors of the short side's Gram matrix, the other side from them; nothing is certified."""
    A = (W if W.shape[0] <= W.shape[1] else W.T).double().numpy()
    n = len(A)
    values, short = scipy.linalg.eigh(A @ A.T, subset_by_index=(n - k, n - 1), overwrite_a=True, check_finite=False)
    long = A.T @ short / np.sqrt(np.maximum(values, np.finfo(float).tiny))
    return torch.from_numpy(short if W.shape[0] <= W.shape[1] else long)


def _svd_lowrank(W: Tensor, k: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.svd_lowrank(W, k, niter=4)[0]


def _randomized_svd(W: Tensor, k: int) -> Tensor:
    from sklearn.utils.extmath import randomized_svd

    return torch.from_numpy(randomized_svd(W.numpy(), k, random_state=0)[0])


FLOAT32 = peer("torch.linalg.svd float32 (as PiSSA and mergekit-extract-lora call it)")
FLOAT64, SUBSET = peer("torch.linalg.svd float64"), peer("scipy.linalg.eigh of the Gram matrix, float64", "scipy")
LANCZOS = peer("scipy.sparse.linalg.svds float64", "scipy")
PEERS: dict[str, Left] = {
    FLOAT32: _svd(torch.float32),
    FLOAT64: _svd(torch.float64),
    SUBSET: _eigh,
    LANCZOS: _svds,
    peer("torch.svd_lowrank, 4 iterations (PiSSA's fast way)"): _svd_lowrank,
    peer("sklearn randomized_svd", "scikit-learn"): _randomized_svd,
}


def _spectra(short: int) -> dict[str, Tensor]:
    flat = torch.linspace(1.0, 0.9, short, dtype=torch.float64)
    return {
        "flat": flat,
        "decaying": torch.logspace(0, -3, short, dtype=torch.float64),
        "outlier 1e4 ×": torch.cat([1e4 * flat[:1], flat[1:]]),
    }


def _matrix(shape: tuple[int, int], spectrum: Tensor) -> Tensor:
    U, V = (haar(d, len(spectrum), stream(0, "bench", side)) for side, d in zip("UV", shape, strict=True))
    return U * spectrum @ V.T


def _accuracy(name: str, spectrum: Tensor) -> Entry:
    W, k = _matrix(ACCURACY_SHAPE, spectrum).float(), _rank(ACCURACY_SHAPE)
    found = leading_subspaces(W, k)
    U, _, Vt = (torch.from_numpy(part) for part in np.linalg.svd(W.double().numpy(), full_matrices=False))
    error = max(sine(U[:, :k], found.U), sine(Vt[:k].T, found.V))
    peers = {label: sine(U[:, :k], left(W, k)) for label, left in PEERS.items()}
    met = error <= TOLERANCE and found.certificate.passed
    label = f"subspace error, {name} spectrum ({found.certificate.method})"
    return Entry(label, error, "sine", peers, target="≤ 1e-7, certificate passes", met=met)


def _refusals() -> Iterator[Entry]:
    short, k = min(ACCURACY_SHAPE), _rank(ACCURACY_SHAPE)
    tie = torch.linspace(1.0, 0.5, short, dtype=torch.float64)
    tie[k] = tie[k - 1]
    cases = {"tie at the cut": tie, "rank one below k": tie[: k - 1]}
    for name, spectrum in cases.items():
        certificate = leading_subspaces(_matrix(ACCURACY_SHAPE, spectrum), k).certificate
        met = not certificate.passed and certificate.reason != ""
        yield Entry(f"certificate, {name}", float(certificate.passed), "passed", target="0: fails, says why", met=met)


def extraction_flops(shape: tuple[int, int]) -> float:
    """The Gram matrix of the short side, half of it by symmetry, and its reduction to tridiagonal form."""
    n, m = sorted(shape)
    return n * n * m + 4 / 3 * n**3


def _timed(shape: tuple[int, int], rate: float) -> Iterator[Entry]:
    W, k, short = torch.randn(shape, generator=stream(0, "bench", *shape)), _rank(shape), min(shape)
    chosen = {FLOAT32, SUBSET} if short >= HUGE else set(PEERS) - ({LANCZOS} if short >= LARGE else set())
    bases: dict[str, Tensor] = {}

    def step(name: str, left: Left) -> Callable[[], None]:
        return lambda: bases.__setitem__(name, left(W, k))

    steps = {"": step("", lambda W, k: leading_subspaces(W, k).U)}
    steps |= {label: step(label, left) for label, left in PEERS.items() if label in chosen}
    once = {FLOAT64: steps.pop(FLOAT64)} if FLOAT64 in chosen and short >= LARGE else {}
    rounds = 1 if short >= HUGE else 2 if short >= LARGE else 5
    seconds = cpu_seconds(steps, rounds) | cpu_seconds(once, rounds=1)
    ours, seconds = seconds[""], {label: seconds[label] for label in PEERS if label in chosen}
    at, bound = f"{shape[0]}×{shape[1]}, k = {k}", extraction_flops(shape) / rate
    least = 1.7 if short >= LARGE else 1.0
    ratio = seconds[FLOAT32] / ours
    words = f"≥ {least:g} × {FLOAT32}"
    yield Entry(f"leading subspaces, {at}", ours, "CPU s", seconds, ratio, bound, words, ratio >= least)
    errors = {label: sine(bases[FLOAT64 if FLOAT64 in chosen else SUBSET], U) for label, U in bases.items()}
    error = errors.pop("")
    exact = sorted((seconds[label], label) for label, value in errors.items() if value <= TOLERANCE)
    best = {label: value for value, label in exact[:1]}
    ratio = exact[0][0] / ours
    yield Entry(f"beside the best exact peer, {at}", ours, "CPU s", best, ratio, bound, "≥ 1 ×", ratio >= 1)
    words = f"≤ {TOLERANCE:g}"
    yield Entry(f"its subspace error, {at}", error, "sine", errors, target=words, met=error <= TOLERANCE)


def make_checkpoint(directory: Path, config: Mapping[str, object], dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a Llama configuration's random weights as safetensors shards: a layer each, and the rest. One at a time
    is in memory."""
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoConfig.for_model(
            str(config["model_type"]), **{k: v for k, v in config.items() if k != "model_type"}
        )
        shapes = {name: p.shape for name, p in AutoModelForCausalLM.from_config(built).named_parameters()}
    shards: dict[str, list[str]] = {}
    for name in shapes:
        layer = re.search(r"layers\.(\d+)\.", name)
        shards.setdefault(f"model-{layer[1] if layer else 'rest'}.safetensors", []).append(name)
    for file, names in shards.items():
        draws = {name: torch.randn(shapes[name], generator=stream(0, "bench", name)) for name in names}
        save_file({name: draw.mul_(0.02).to(dtype) for name, draw in draws.items()}, directory / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(config))


def _checkpoint(rate: float) -> Iterator[Entry]:
    with TemporaryDirectory() as folder:
        make_checkpoint(Path(folder), CONFIG)
        checkpoint = open_checkpoint(folder)
        largest = max(int(np.prod(stored.shape)) for stored in checkpoint.tensors.values()) * 2  # bfloat16
        short = max(min(site.shape) for site in checkpoint.sites)
        flops = sum(extraction_flops(site.shape) for site in checkpoint.sites)
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")
        command = [sys.executable, "-c", "from ontogeny.benchmarks.extraction import child; child()", folder]
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found = json.loads(output)
    name = f"checkpoint with {CONFIG['num_hidden_layers']} × d {CONFIG['hidden_size']}, two cores"
    seconds = found["seconds"]
    yield Entry(f"{name}: time", seconds, "s", bound=flops / rate / 2, target="≤ 4 s", met=seconds <= 4)
    yield Entry(f"{name}: processor time", found["cpu_seconds"], "CPU s", bound=flops / rate)
    allowed = (largest + 3 * short**2 * 8) / 1e6 + 300
    target = f"≤ {allowed:.0f} MB: largest tensor + 3 short² float64 + 300 MB"
    yield Entry(
        f"{name}: peak memory over idle", found["peak_mb"], "MB", target=target, met=found["peak_mb"] <= allowed
    )


def child() -> None:
    """A process of its own: extract the checkpoint at ``sys.argv[1]`` on two cores, print time and memory as JSON."""
    directory = Path(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    idle = psutil.Process().memory_info().rss
    start, cpu = time.perf_counter(), time.process_time()
    extract_to(directory / "genome.safetensors", open_checkpoint(directory), Recipe("10%"))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mb": (peak_bytes() - idle) / 1e6}))


def peak_bytes() -> int:
    """Peak resident memory of this process; on Linux not from ``ru_maxrss``, which starts at the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
