"""Development: shares and schedule as declared, the dead stay dead, resume to the bit, scores against closed forms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VOCABULARY, tiny_checkpoint, tiny_model
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.genome import Genome
from ontogeny.model.constrain import constrain
from ontogeny.model.fast import next_token_loss
from ontogeny.model.prune import GRADIENT_SCORES, SCORES, direction_scores, prunable
from ontogeny.streams import stream
from ontogeny.training.develop import DevelopConfig, Development, develop
from ontogeny.training.train import TrainConfig, evaluation_loss, train

CONFIG = TrainConfig(steps=12, body_rate=1e-2, rest_rate=1e-2, evaluate_at=(4, 8))
ROUNDS = DevelopConfig(rounds_at=(3, 6, 9))


def batches(step: int) -> Tensor:
    start = torch.randint(0, VOCABULARY, (4, 1), generator=stream(0, "start", step))
    return (start + 3 * torch.arange(17)) % VOCABULARY


def evaluate(model: nn.Module) -> dict[str, float]:
    return {"loss": evaluation_loss(model, batches(-1))}


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    donor = tiny_checkpoint("llama", tmp_path_factory.mktemp("donor") / "llama", seed=9)
    return extract(open_checkpoint(donor), Recipe(rank="50%", basis="singular"))


@pytest.fixture
def network(genome: Genome) -> nn.Module:
    return constrain(tiny_model("llama"), genome)


def run(model: nn.Module, development: DevelopConfig = ROUNDS, **options: Any) -> Development:
    chosen: dict[str, Any] = {"evaluate": evaluate, "seed": 1, "config": CONFIG} | options
    return develop(model, batches, development=development, **chosen)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("scope", ["matrix", "global"])
def test_shares_are_those_declared_and_the_dead_stay_dead(network: nn.Module, score: str, scope: Any) -> None:
    development = replace(ROUNDS, score=score, scope=scope, start=0.9)
    found = run(network, development)
    total = sum(rows.shape[1] for rows in found.lived.values())
    for rows in found.lived.values():
        assert rows.shape[0] == 4
        assert not (rows[1:] & ~rows[:-1]).any()
        assert rows.any(1).all()
    for done in range(4):
        lived = [int(rows[done].sum()) for rows in found.lived.values()]
        share = 0.9 * (0.391 / 0.9) ** (done / 3)
        assert share == pytest.approx(development.share(done))
        if scope == "matrix" or done == 0:
            assert lived == [max(1, round(share * rows.shape[1])) for rows in found.lived.values()]
        else:
            assert sum(lived) == round(share * total)
    for name, layer in prunable(network).items():
        assert layer.dead is not None
        assert layer.core[layer.dead].abs().sum() == 0
        assert layer.alive is not None
        assert torch.equal(layer.alive, found.survivors[name])


def test_without_rounds_it_is_training(network: nn.Module, genome: Genome) -> None:
    found = run(network, DevelopConfig(rounds_at=(), keep=1.0))
    other = constrain(tiny_model("llama"), genome)
    assert train(other, batches, CONFIG, evaluate=evaluate).losses == found.history.losses


def test_a_gradient_score_is_the_sum_over_its_steps(network: nn.Module, genome: Genome) -> None:
    """One round after the second step: |∂L/∂C| of both, each at the network as it was then, before clipping."""
    totals: dict[str, Tensor] = {}
    model = constrain(tiny_model("llama"), genome)

    def spied(model: nn.Module, windows: Tensor) -> Tensor:
        loss = next_token_loss(model, windows)
        layers = prunable(model)
        gradients = torch.autograd.grad(loss, [layer.core for layer in layers.values()], retain_graph=True)
        for name, g in zip(layers, gradients, strict=True):
            totals[name] = totals.get(name, torch.zeros_like(g)) + g.abs()
        return loss

    config = replace(CONFIG, steps=2, evaluate_at=())
    found = run(model, DevelopConfig(rounds_at=(2,), keep=0.5), config=config, loss=spied)
    for name, total in totals.items():
        scores = direction_scores(total, found.lived[name][0])
        best = scores.argsort(descending=True)[: int(found.survivors[name].sum())]
        assert sorted(best.tolist()) == found.survivors[name].nonzero().flatten().tolist()


@pytest.mark.parametrize("score", GRADIENT_SCORES)
def test_scores_of_entries(score: str) -> None:
    g, core = torch.tensor([[-2.0, 0.5]]), torch.tensor([[3.0, -4.0]])
    expected = {"gradient": [2, 0.5], "gradient-weight": [6, 2], "fisher": [4, 0.25]}[score]
    assert GRADIENT_SCORES[score](g, core).tolist() == [expected]


def test_the_singular_value_order_keeps_the_leading_directions(network: nn.Module) -> None:
    for rows in run(network, replace(ROUNDS, score="singular-value")).lived.values():
        for row in rows:
            assert torch.equal(row, torch.arange(len(row)) < int(row.sum()))


def test_random_scores_are_the_seeds(genome: Genome) -> None:
    def survivors(seed: int) -> dict[str, list[bool]]:
        model = constrain(tiny_model("llama"), genome)
        found = run(model, replace(ROUNDS, score="random"), seed=seed)
        return {name: mask.tolist() for name, mask in found.survivors.items()}

    assert survivors(1) == survivors(1)
    assert survivors(1) != survivors(2)


def test_regrowth_brings_back_as_many_as_it_replaces(network: nn.Module) -> None:
    found = run(network, replace(ROUNDS, regrow=0.3))
    for rows in found.lived.values():
        shares = [ROUNDS.share(done) for done in range(4)]
        k = rows.shape[1]
        assert all(int(rows[i].sum()) in (int(s * k), round(s * k), 1) for i, s in enumerate(shares))
    assert any((rows[1:] & ~rows[:-1]).any() for rows in found.lived.values())


@pytest.mark.parametrize("stop", [1, 3, 7, 9])
def test_a_run_cut_off_goes_on_to_the_bit(genome: Genome, tmp_path: Path, stop: int) -> None:
    """Before, at and after a round, at the last one too."""

    def network() -> nn.Module:
        return constrain(tiny_model("llama"), genome)

    class CutOffError(Exception):
        pass

    def cut(step: int) -> None:
        if step == stop + 1:
            raise CutOffError

    whole, again = network(), network()
    expected = run(whole)
    with pytest.raises(CutOffError):
        run(network(), directory=tmp_path, save_every=0.0, on_step=cut)
    found = run(again, directory=tmp_path, save_every=0.0)
    assert found.history.losses == expected.history.losses
    assert all(torch.equal(found.lived[name], rows) for name, rows in expected.lived.items())
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rounds_at": (3, 3)}, "increasing order"),
        ({"rounds_at": (0,)}, "from 1 to"),
        ({"rounds_at": (13,)}, "from 1 to the run's 12"),
        ({"keep": 0.0}, "0 < keep"),
        ({"keep": 0.8, "start": 0.5}, "keep 0.8, start 0.5"),
        ({"start": 1.5}, "start ≤ 1"),
        ({"score": "taste"}, "expected one of gradient"),
        ({"scope": "layer"}, "matrix, role, global"),
        ({"regrow": 1.0}, "less than 1"),
        ({"regrow": 0.1, "scope": "global"}, "scope 'matrix' alone"),
    ],
)
def test_mistakes_are_told_before_training(network: nn.Module, change: dict[str, Any], expected: str) -> None:
    def never(model: nn.Module) -> dict[str, float]:
        pytest.fail("it had begun")

    with pytest.raises(InputError, match=expected):
        run(network, replace(ROUNDS, **change), evaluate=never)


def test_a_model_without_cores_is_refused() -> None:
    with pytest.raises(InputError, match="has a core"):
        run(tiny_model("llama"))
