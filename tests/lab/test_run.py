"""One arm × one replicate: what arms share, what draws differ in, and that every arm builds, steps and is stored."""

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import smoke
import torch
from torch import Tensor, nn

from ontogeny.errors import InputError
from ontogeny.files import read_json
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.genome import Genome, Subspace
from ontogeny.lab import run as lab_run
from ontogeny.lab.experiment import Arm, Embeddings, Experiment, Rates, Run, Setting
from ontogeny.lab.experiments.convergence import declare
from ontogeny.lab.networks import Lab, build, make_genome, own_donor_id
from ontogeny.lab.run import run
from ontogeny.lab.store import Store, open_store
from ontogeny.model.constrain import sites
from ontogeny.model.layers import SubspaceLinear
from ontogeny.training.train import History

RATES = Rates(body=1e-2, rest=3e-2)


def full_table(setting: Setting) -> Experiment:
    """The full table, two steps a run."""
    return declare(
        scale="smoke",
        decisive=False,
        setting=replace(setting, steps=2, evaluate_at=(2,)),
        replicates=2,
        text={},
        donor_records=(),
        given=False,
        table="full",
        audit=True,
    )


NO_SETTING = Setting({}, "", ("a", "b"), "25%", 1, 1, 1, (1,), 1)
CELLS = [(mode, arm.name) for mode, arm in full_table(NO_SETTING).cells()]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return smoke.smoke_store(tmp_path_factory)


@pytest.fixture(scope="session")
def full(store: Store) -> Experiment:
    return full_table(smoke.declared(store).setting)


@pytest.fixture(scope="session")
def lab(store: Store, full: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A store of its own that reads the smoke store's tokens and donors."""
    scratch = open_store(tmp_path_factory.mktemp("scratch"))
    (scratch.root / "tokens").rmdir()
    (scratch.root / "tokens").symlink_to(store.root / "tokens")
    return Lab(scratch, {donor: store.root / "donors" / donor for donor in full.setting.donors})


def one(full: Experiment, arm: str, mode: Embeddings = "fresh", replicate: int = 1) -> Run:
    return Run(full.setting, full.arm(arm), mode, RATES, "test", replicate)


def parameters(run: Run, lab: Lab) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in build(run, lab)[0].named_parameters()}


def overlap(a: Tensor, b: Tensor) -> float:
    """‖AᵀB‖²_F / k of two orthonormal bases: 1 where they span the same."""
    return float((a.T @ b).square().sum()) / a.shape[1]


def spans(genome: Genome) -> dict[str, Tensor]:
    """Site and side -> orthonormal basis."""
    found: dict[str, Tensor] = {}
    for site, gene in genome.genes.items():
        assert isinstance(gene, Subspace)
        found |= {f"{site.name}.U": gene.U, f"{site.name}.V": gene.V}
    return found


# What the arms of a replicate share ---------------------------------------------------------------------------


def test_arms_of_a_replicate_share_what_is_not_constrained(full: Experiment, lab: Lab) -> None:
    built = {name: parameters(one(full, name), lab) for name in ("dense", "donor", "random", "rotated", "low-rank")}
    shared = [n for n in built["dense"] if "embed" in n or "lm_head" in n or "norm" in n]
    assert len(shared) == 7
    for name, found in built.items():
        assert all(torch.equal(found[n], built["dense"][n]) for n in shared), name


@pytest.mark.parametrize("arm", ["donor", "random"])
def test_cores_come_from_the_dense_arms_draw(full: Experiment, lab: Lab, arm: str) -> None:
    dense = dict(sites(build(one(full, "dense"), lab)[0]))
    for name, layer in sites(build(one(full, arm), lab)[0]):
        assert isinstance(layer, SubspaceLinear)
        W = dense[name].weight
        assert isinstance(W, Tensor)
        expected = math.sqrt(W.numel()) / layer.core.shape[0] * layer.U.T @ W @ layer.V
        assert torch.allclose(layer.core, expected, atol=1e-6), name


def test_replicates_differ_in_initialisation(full: Experiment, lab: Lab) -> None:
    first, second = (parameters(one(full, "dense", replicate=r), lab) for r in (1, 2))
    assert all(not torch.equal(first[n], second[n]) for n in first if "norm" not in n)


@pytest.mark.parametrize("arm", ["dense", "random", "coherent"])
@pytest.mark.parametrize("mode", ["frozen", "trainable"])
def test_donor_embeddings_are_the_replicates_own(full: Experiment, lab: Lab, mode: Embeddings, arm: str) -> None:
    """Random and dense arms included."""
    for replicate in (1, 2):
        given = open_checkpoint(lab.donors[full.setting.donors[replicate - 1]]).embeddings()
        model, _ = build(one(full, arm, mode, replicate), lab)
        for name, tensor in given.items():
            parameter = model.get_parameter(name)
            assert torch.equal(parameter.detach(), tensor)
            assert parameter.requires_grad == (mode == "trainable")


def seen_batches(monkeypatch: pytest.MonkeyPatch, lab: Lab, wanted: list[Run]) -> list[Tensor]:
    """The first two batches that each run would train on."""
    seen: list[Tensor] = []

    def look(model: nn.Module, batches: Any, config: Any, **rest: Any) -> History:
        seen.append(torch.cat([batches(0), batches(1)]))
        return History([{"step": 0, "loss": 1.0, "train_loss": None, "seconds": 0.0}], 0, "finished", 0.0)

    monkeypatch.setattr(lab_run, "train", look)
    for task in wanted:
        run(replace(task, rates=Rates(0.5, 0.5)), lab)  # ids of their own: these results are no one's
    return seen


def test_arms_of_a_replicate_read_the_same_batches(monkeypatch: pytest.MonkeyPatch, full: Experiment, lab: Lab) -> None:
    modes: list[tuple[str, Embeddings]] = [("dense", "fresh"), ("random", "frozen"), ("donor 2", "fresh")]
    first, *others = seen_batches(monkeypatch, lab, [one(full, arm, mode) for arm, mode in modes])
    assert all(torch.equal(first, other) for other in others)


def test_replicates_read_different_batches(monkeypatch: pytest.MonkeyPatch, full: Experiment, lab: Lab) -> None:
    seen = seen_batches(monkeypatch, lab, [one(full, "dense", replicate=r) for r in (0, 1, 2)])
    assert all(not torch.equal(a, b) for a, b in combinations(seen, 2))


# What differs between them ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["random", "rotated", "coherent", "residual-only"])
def test_draws_differ_between_replicates(full: Experiment, lab: Lab, arm: str) -> None:
    """With one donor for both, so that the draw alone can differ."""
    setting = replace(full.setting, donors=full.setting.donors[:1])
    found = [spans(make_genome(replace(one(full, arm, replicate=r), setting=setting), lab)) for r in (1, 2)]
    differing = [name for name in found[0] if not torch.equal(found[0][name], found[1][name])]
    assert len(differing) >= len(found[0]) // 2


def test_two_sites_of_one_shape_differ(full: Experiment, lab: Lab) -> None:
    bases = list(spans(make_genome(one(full, "random"), lab)).values())
    for a, b in combinations(bases, 2):
        assert a.shape != b.shape or overlap(a, b) < 0.9


def test_draw_on_common_streams(full: Experiment, lab: Lab) -> None:
    """``draw 2`` on replicate 1: the genome of the random arm's replicate 2, everything else of replicate 1."""
    common, second = one(full, "draw 2"), one(full, "random", replicate=2)
    assert spans(make_genome(common, lab)).keys() == spans(make_genome(second, lab)).keys()
    for name, basis in spans(make_genome(common, lab)).items():
        assert torch.equal(basis, spans(make_genome(second, lab))[name])
    found, plain = parameters(common, lab), parameters(one(full, "random"), lab)
    assert torch.equal(found["model.embed_tokens.weight"], plain["model.embed_tokens.weight"])


def test_donor_on_common_streams(full: Experiment, lab: Lab) -> None:
    common, second = one(full, "donor 2"), one(full, "donor", replicate=2)
    expected = spans(make_genome(second, lab))
    for name, basis in spans(make_genome(common, lab)).items():
        assert torch.equal(basis, expected[name])
    found, plain = parameters(common, lab), parameters(one(full, "donor"), lab)
    assert torch.equal(found["lm_head.weight"], plain["lm_head.weight"])


def test_donors_take_turns(full: Experiment) -> None:
    first, second = full.setting.donors
    assert [own_donor_id(one(full, "random", replicate=r)) for r in range(5)] == [first, first, second, first, second]


def test_donors_are_independent(full: Experiment, lab: Lab) -> None:
    """Different initialisation and data order; a few steps of training leave them uncorrelated."""
    first, second = (dict(open_checkpoint(lab.donors[d]).weights()) for d in full.setting.donors)
    for site, W in first.items():
        pair = torch.stack([W.flatten(), second[site].flatten()])
        assert torch.corrcoef(pair)[0, 1].abs() < 6 / W.numel() ** 0.5, site.name


def test_in_subspace_keeps_the_spans(full: Experiment, lab: Lab) -> None:
    donor, turned = (spans(make_genome(one(full, arm), lab)) for arm in ("donor", "in-subspace"))
    for name, basis in donor.items():
        assert overlap(basis, turned[name]) == pytest.approx(1, abs=1e-5)


def test_cores_of_the_values_arms(full: Experiment, lab: Lab) -> None:
    """values-kept starts at the donor's own matrix seen through its subspaces, nothing else does."""
    weights = {site.name: W for site, W in open_checkpoint(lab.donors[full.setting.donors[0]]).weights()}
    built = {arm: dict(sites(build(one(full, arm), lab)[0])) for arm in ("values-kept", "values-flipped", "donor")}
    for name, W in weights.items():
        cores = {}
        for arm, layers in built.items():
            layer = layers[name]
            assert isinstance(layer, SubspaceLinear)
            cores[arm], kept = layer.core.detach(), layer.U.T @ W @ layer.V
        assert torch.allclose(cores["values-kept"], kept, atol=1e-5)
        assert not torch.allclose(cores["values-flipped"], kept, atol=1e-3)
        assert torch.allclose(cores["values-flipped"].norm(), kept.norm(), atol=1e-4)
        assert not torch.allclose(cores["donor"], kept, atol=1e-3)


def test_low_rank_of_equal_size(full: Experiment, lab: Lab) -> None:
    donor, low, equal = (
        sum(p.numel() for n, p in parameters(one(full, arm), lab).items() if ".layers." in n and "norm" not in n)
        for arm in ("donor", "low-rank", "low-rank-equal")
    )
    assert equal == pytest.approx(donor, rel=0.5)
    assert low > 4 * donor


# Every arm steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "arm"), CELLS)
def test_every_arm_of_the_full_table_steps(full: Experiment, lab: Lab, mode: Embeddings, arm: str) -> None:
    result = run(one(full, arm, mode), lab)
    assert [step for step, _ in result["losses"]] == [0, 2]
    assert all(math.isfinite(loss) and loss < 7 for _, loss in result["losses"])
    assert result["losses"][1][1] != result["losses"][0][1]
    assert result["stop_reason"] == "finished"
    assert abs(result["step0_loss"] - math.log(full.setting.model["vocab_size"])) < 0.25, (
        "near ln V, with a donor's head too"
    )
    constrained = full.arm(arm).constraint in ("subspace", "activations")
    assert (result["trainable_parameters"] < result["parameters"]) == (constrained or mode == "frozen")
    assert bool(result["frames"]) == constrained


# What is stored -----------------------------------------------------------------------------------------------


def test_result_is_complete(store: Store) -> None:
    results = [result for result in store.results() if result["kind"] == "arm"]
    assert len(results) > 50
    keys = {"arm", "replicate", "losses", "best", "stopped_at", "step0_loss", "references", "trainable_parameters"}
    keys |= {"parameters", "flops", "seconds", "tokens_per_second", "peak_memory", "final", "setting", "rates", "split"}
    for result in results:
        assert keys <= set(result)
        assert set(result["references"]) == {"uniform", "unigram", "bigram"}
        assert result["references"]["uniform"] == pytest.approx(math.log(result["setting"]["model"]["vocab_size"]))
        assert result["best"] == min(loss for _, loss in result["losses"])
        assert result["peak_memory"] > 1e8


def test_run_folder(store: Store) -> None:
    for folder in store.root.glob("runs/*/replicate-1"):
        if (folder / "history.jsonl").exists():
            rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
            assert [[row["step"], row["loss"]] for row in rows] == read_json(folder / "result.json")["losses"]
        started = read_json(folder / "run.json")
        assert "recipe" in started
        assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) in (
            ["history.jsonl", "lock", "result.json", "run.json"],
            ["lock", "result.json", "run.json"],
        )
    told = read_json(next(store.root.glob("runs/*/replicate-1")) / "run.json")
    assert {"machine", "threads", "versions"} <= set(told["host"])


def test_a_stored_run_is_read(monkeypatch: pytest.MonkeyPatch, full: Experiment, lab: Lab) -> None:
    task = one(full, "dense")
    first = run(task, lab)
    monkeypatch.setattr(lab_run, "build", None)
    assert run(task, lab) == first


def test_equal_recipes_give_equal_results(full: Experiment, lab: Lab, tmp_path: Path) -> None:
    again = open_store(tmp_path)
    (again.root / "tokens").rmdir()
    (again.root / "tokens").symlink_to((lab.store.root / "tokens").resolve())
    task = one(full, "random")
    assert run(task, lab)["losses"] == run(task, Lab(again, lab.donors))["losses"]


def test_a_diverged_run_is_a_result(full: Experiment, lab: Lab) -> None:
    result = run(replace(one(full, "dense"), rates=Rates(1e30, 1e30)), lab)
    assert result["final"] is None
    assert result["stop_reason"] == "non-finite"
    assert math.isfinite(result["best"])


def test_what_a_killed_run_left_is_cleared_away(full: Experiment, lab: Lab) -> None:
    task = one(full, "dense", replicate=2)
    left = lab.store.run_directory(task.id, 2) / "checkpoint"
    left.mkdir(parents=True)
    (left / ".state.safetensors.123").write_bytes(b"half of it")
    assert run(task, lab)["final"]
    assert not left.exists()


def test_the_tuning_replicate_is_scored_on_tune(full: Experiment, lab: Lab) -> None:
    tuned = run(full.tuning_run("fresh", full.arm("dense"), RATES), lab)
    evaluated = run(one(full, "dense"), lab)
    assert tuned["references"] != evaluated["references"]
    assert (tuned["split"], tuned["replicate"], evaluated["split"]) == ("tune", 0, "test")
    last = full.setting.steps  # all that a rate search reads is the end
    assert [step for step, _ in tuned["losses"]] == [0, last]
    assert [step for step, _ in evaluated["losses"]] == [0, *full.setting.evaluate_at]


def test_lost_tokens_are_named(full: Experiment, lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokens/.*\.bin is missing or damaged"):
        run(one(full, "dense"), Lab(open_store(tmp_path), lab.donors))


def test_a_genome_that_doesnt_fit_is_refused(full: Experiment, lab: Lab) -> None:
    other = dict(full.setting.model) | {"hidden_size": 64}
    task = Run(replace(full.setting, model=other), Arm("donor"), "fresh", RATES, "test", 1)
    with pytest.raises(InputError, match="the genome has the shape"):
        build(task, lab)
