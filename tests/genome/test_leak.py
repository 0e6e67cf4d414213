"""What an attacker can rebuild of a donor from its genome file: nothing that the spans alone wouldn't give."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ontogeny.genome.checkpoint import Checkpoint, open_checkpoint
from ontogeny.genome.controls import transform
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.genome import Genome, Subspace, load, save
from ontogeny.genome.linalg import singular_values
from ontogeny.streams import stream

RANKS = ("10%", "50%", "100%")
TOKENS = 1024
HAAR_SEEDS = 5
SPREADS = 5  # standard deviations of the Haar draws that count as noise
ROUNDING = 0.005


@pytest.fixture(scope="session")
def donor(shared: Path) -> Checkpoint:
    return open_checkpoint(shared / "checkpoints" / "stories260K")


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


@pytest.mark.parametrize("basis", ["canonical", "singular"])
@pytest.mark.parametrize("keys", [{"rank": "10%"}, {"rank": "100%"}, {"energy": 0.9}])
def test_the_file_holds_directions_only(
    donor: Checkpoint, keys: dict[str, Any], basis: Literal["canonical", "singular"], tmp_path: Path
) -> None:
    save(extract(donor, Recipe(basis=basis, **keys)), tmp_path / "g")
    with safe_open(tmp_path / "g", "pt") as file:
        metadata = file.metadata()
        names = set(file.keys())
        columns = torch.cat([torch.linalg.vector_norm(file.get_tensor(n).double(), dim=0) for n in names])
    assert names == {f"{site.name}.{side}" for site in donor.sites for side in "UV"}
    torch.testing.assert_close(columns, torch.ones_like(columns), rtol=1e-6, atol=0)  # no length carries a value
    assert set(metadata) == {"ontogeny"}
    header = json.loads(metadata["ontogeny"])
    assert set(header) == {"format", "kind", "recipe", "sites", "source", "versions"}
    assert {key for entry in header["sites"].values() for key in entry} == {"shape", "rank", "certificate"}
    # shapes, ranks and the architecture configuration are public; what else is a number must be no singular value
    told = torch.tensor(list(numbers([entry["certificate"] for entry in header["sites"].values()])))
    told = told[told > 1e-9].double()  # below: rounding errors of the decomposition
    values = torch.cat([singular_values(W) for _, W in donor.weights()])
    relative = (told[:, None] / values - 1).abs()
    assert len(told) == 35  # the relative gap at each cut, nothing more
    assert float(relative.min()) > 1e-6


def test_the_scale_of_the_weights_is_not_in_the_file(donor: Checkpoint, tmp_path: Path) -> None:
    """A donor whose matrices are scaled by powers of two, site by site, has the same genome."""
    from safetensors.torch import load_file, save_file

    scaled = {
        name: W * 2.0 ** (i % 7 - 3) if W.dim() == 2 else W
        for i, (name, W) in enumerate(sorted(load_file(donor.directory / "model.safetensors").items()))
    }
    save_file(scaled, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((donor.directory / "config.json").read_text())
    original, other = (extract(checkpoint, Recipe("50%")) for checkpoint in (donor, open_checkpoint(tmp_path)))
    for site, gene in original.genes.items():
        twin = other.genes[site]
        gap, twin_gap = (g.provenance["certificates"][site.name]["gap"] for g in (original, other))
        assert gap == pytest.approx(twin_gap, rel=1e-9)
        assert isinstance(gene, Subspace)
        assert isinstance(twin, Subspace)
        torch.testing.assert_close(gene.U, twin.U, rtol=0, atol=1e-6)
        torch.testing.assert_close(gene.V, twin.V, rtol=0, atol=1e-6)


# Attackers: shape and bases -> a guess at W up to its norm. They know the genome file, what weights of trained
# networks look like in general, and one thing the file doesn't tell: the norm of each matrix, to which `rebuild`
# scales the guess. They never see W.
def straight_line(shape: tuple[int, int], U: Tensor, V: Tensor) -> Tensor:
    """A spectrum that falls linearly to zero."""
    k, short = U.shape[1], min(shape)
    return U * (1 - (torch.arange(k) + 0.5) / short) @ V.T


def marchenko_pastur(shape: tuple[int, int], U: Tensor, V: Tensor) -> Tensor:
    """The spectrum of a Gaussian matrix of this shape."""
    values = singular_values(torch.randn(shape, generator=stream(0, "attacker", *shape), dtype=torch.float64))
    return U * values[: U.shape[1]] @ V.T


def power_law(shape: tuple[int, int], U: Tensor, V: Tensor) -> Tensor:
    """The i-th singular value goes as i^(-1/2): heavier than noise, as trained weights are."""
    return U * (torch.arange(U.shape[1]) + 1.0).pow(-0.5).double() @ V.T


def least_squares(shape: tuple[int, int], U: Tensor, V: Tensor) -> Tensor:
    """The member of {U C Vᵀ} nearest to a typical weight, the identity (trained maps have a positive trace)."""
    return U @ (U.T @ torch.eye(*shape, dtype=torch.float64) @ V) @ V.T


ATTACKERS: dict[str, Callable[[tuple[int, int], Tensor, Tensor], Tensor]] = {
    "straight line": straight_line,
    "Marchenko-Pastur": marchenko_pastur,
    "power law": power_law,
    "least squares": least_squares,
}


@dataclass(frozen=True)
class Score:
    """``cosine`` of all guessed and true weights, ``error`` ‖Ŵ − W‖_F/‖W‖_F over all sites, and the donor's loss."""

    cosine: float
    error: float
    loss: float


class Bench:
    """The donor's own embeddings, head and norms around a body of guessed weights, on real text."""

    def __init__(self, donor: Checkpoint, text: Path) -> None:
        import transformers

        self.donor = donor
        self.weights = {site: W.double() for site, W in donor.weights()}
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(donor.directory, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(donor.directory)
        tokens = tokenizer(text.read_text(encoding="utf-8")[: 4 * TOKENS])["input_ids"]
        self.tokens = torch.tensor(tokens[:TOKENS]).view(-1, 256)
        self.true_loss = self.loss()

    def loss(self) -> float:
        with torch.no_grad():
            return float(self.model(self.tokens, labels=self.tokens).loss)

    def score(self, attacker: str, genome: Genome) -> Score:
        product = error = total = guessed = 0.0
        modules = {name: place.name for place in self.donor.places for name in place.rows}
        for site, gene in genome.genes.items():
            assert isinstance(gene, Subspace)
            W = self.weights[site]
            guess = ATTACKERS[attacker](site.shape, gene.U.double(), gene.V.double())
            guess *= W.norm() / guess.norm()
            self.model.get_parameter(f"{modules[site.name]}.weight").data.copy_(guess)
            product, error = product + float((guess * W).sum()), error + float((guess - W).square().sum())
            total, guessed = total + float(W.square().sum()), guessed + float(guess.square().sum())
        return Score(product / math.sqrt(total * guessed), math.sqrt(error / total), self.loss())

    def attack(self, genome: Genome) -> dict[str, Score]:
        return {attacker: self.score(attacker, genome) for attacker in ATTACKERS}


@pytest.fixture(scope="module")
def bench(donor: Checkpoint, shared: Path) -> Bench:
    return Bench(donor, shared / "text" / "fiction.txt")


Attacks = dict[str, list[dict[str, Score]]]  # basis -> per draw: attacker -> score


@pytest.fixture(scope="module")
def attacks(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Attacks]:
    """Every attack on every basis at every rank, from files as saved."""
    found: dict[str, Attacks] = {}
    path = tmp_path_factory.mktemp("leak") / "g"
    for rank in RANKS:
        found[rank] = {}
        for basis in ("canonical", "singular"):
            save(extract(bench.donor, Recipe(rank, basis=basis)), path)
            found[rank][basis] = [bench.attack(load(path))]
        haar = [transform("in-subspace", [load(path)], seed=seed) for seed in range(HAAR_SEEDS)]
        found[rank]["haar"] = [bench.attack(genome) for genome in haar]
    return found


def best(scores: dict[str, Score]) -> Score:
    """The best that any attacker reached, quantity by quantity."""
    every = scores.values()
    return Score(max(s.cosine for s in every), min(s.error for s in every), min(s.loss for s in every))


def test_table(attacks: dict[str, Attacks], bench: Bench) -> None:
    """Prints what was measured (-s); the guesses are of the right size."""
    print(f"\ndonor's loss {bench.true_loss:.2f}, uniform {math.log(512):.2f}")
    print(f"{'rank':>5} {'basis':<10} {'attacker':<17} {'cosine':>8} {'error':>7} {'loss':>7}")
    for rank, by_basis in attacks.items():
        for basis, draws in by_basis.items():
            for attacker in (*ATTACKERS, "best"):
                scores = [best(draw) if attacker == "best" else draw[attacker] for draw in draws]
                row = [mean(getattr(s, key) for s in scores) for key in ("cosine", "error", "loss")]
                spread = f" ±{stdev(s.loss for s in scores):.2f}" if len(scores) > 1 else ""
                print(f"{rank:>5} {basis:<10} {attacker:<17} {row[0]:8.3f} {row[1]:7.3f} {row[2]:7.2f}{spread}")
    for score in (s for by in attacks.values() for draws in by.values() for d in draws for s in d.values()):
        assert score.error**2 == pytest.approx(2 - 2 * score.cosine, rel=0.01)


@pytest.mark.parametrize("rank", RANKS)
def test_canonical_basis_tells_no_more_than_the_span(attacks: dict[str, Attacks], rank: str) -> None:
    canonical = best(attacks[rank]["canonical"][0])
    haar = [best(draw) for draw in attacks[rank]["haar"]]
    for key, sign in (("cosine", 1), ("error", -1), ("loss", -1)):
        draws = [sign * getattr(score, key) for score in haar]
        assert sign * getattr(canonical, key) <= mean(draws) + SPREADS * stdev(draws) + ROUNDING, key


def test_singular_basis_leaks(attacks: dict[str, Attacks], bench: Bench) -> None:
    """The test has power: order and pairing, with a guessed spectrum, rebuild much of the donor."""
    singular, canonical = (best(attacks["100%"][basis][0]) for basis in ("singular", "canonical"))
    assert singular.cosine > 0.9
    assert singular.error < 0.5 < 1.2 < canonical.error
    assert singular.loss < canonical.loss - 2
