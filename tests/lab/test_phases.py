"""Phases: networks that go on from others, kept, released and on another text; what they forget."""

from pathlib import Path

import planted
import pytest
import smoke
import torch
from test_experiments import declared
from torch import nn

from ontogeny.errors import InputError
from ontogeny.files import read_json, write_json
from ontogeny.lab.conduct import evaluated_runs
from ontogeny.lab.experiment import Experiment, Run, from_json
from ontogeny.lab.experiments import phases
from ontogeny.lab.experiments.phases_figures import mean_alive
from ontogeny.lab.judge import Assessment, assess
from ontogeny.lab.networks import Lab, build, trained_network
from ontogeny.lab.prepare import find_scale, find_variants
from ontogeny.lab.store import Store, open_store
from ontogeny.model.prune import prunable
from ontogeny.streams import numpy_stream
from ontogeny.terminal.lab import run_experiment
from ontogeny.training.develop import schedule


def test_texts_are_told() -> None:
    preset = find_scale("phases", "smoke")
    with pytest.raises(InputError, match="expected a first and a second text, found 3"):
        find_variants("phases", preset, "primary", ["a", "b", "c"], given=False)
    assert find_variants("phases", preset, "primary", ["a", "b"], given=False)["B"].learnt == ("b",)
    assert find_variants("phases", preset, "primary", [], given=False)["B"].learnt == ("stdlib:prose",)
    assert find_variants("phases", preset, "primary", ["stdlib:prose"], given=False)["B"].learnt == ("stdlib:code",)


# Forgetting ---------------------------------------------------------------------------------------------------


def forget(store: Store, experiment: Experiment, lost: dict[str, float]) -> Assessment:
    """All losses alike; what each arm loses on the first text is planted, 0.1 where not said."""

    def same(mode: str, arm: str, replicate: int) -> float:
        less = 0.1 if "learns less" in lost and arm.startswith("donor on B") else 0.0
        return 3.0 + less + 0.002 * float(numpy_stream(replicate, mode, arm).standard_normal())

    assessment = planted.plant(store, experiment, same)
    for (_, name), runs in evaluated_runs(experiment, store).items():
        for run in runs if " on B" in name else ():
            path = store.result_path(run.id, run.replicate)
            noise = 0.002 * float(numpy_stream(run.replicate, "forgets", name).standard_normal())
            after = 3.2 + lost.get(name.partition(" on B")[0], 0.1) + noise
            write_json(path, read_json(path) | {"further": {"earlier": [[0, 3.2], [400, after]]}})
    assert not assessment.arms["frozen", "donor"].further, "nothing else is measured in the first phase"
    return assess(experiment, store)


def test_the_share_that_lives_on_average() -> None:
    plan = schedule(300, keep=0.5, rounds=1, first=1 / 3)
    assert mean_alive(plan, 300) == pytest.approx((100 * 1.0 + 200 * 0.5) / 300)
    assert mean_alive(schedule(300, keep=0.4, start=0.4, rounds=0), 300) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("lost", "word"),
    [
        ({"dense": 0.3, "random": 0.3}, "supported"),
        ({"dense": 0.3}, "refuted"),
        ({}, "refuted"),
        ({"dense": 0.12, "random": 0.3}, "undecided"),
        ({"dense": 0.3, "random": 0.3, "learns less": 1}, "undecided"),
    ],
)
def test_what_is_forgotten(lost: dict[str, float], word: str, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    found = phases.findings(forget(store, declared("phases"), lost), store)["G30"]
    assert found["verdict"] == f"{word} (laptop)"
    assert "forgetting dense − donor" in found["measured"]
    assert "loss on B" in found["measured"]


# A real run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Every arm trained and gone on, at the least scale, on two made-up texts."""

    def run(root: Path) -> None:
        root.mkdir()
        texts = [str(smoke.write_text(root / f"{seed}.jsonl", seed=seed)) for seed in (0, 1)]
        settings = [*smoke.SETTINGS, "steps=30", "evaluate_at=30", "replicates=1"]
        with pytest.MonkeyPatch.context() as patch:
            smoke.one_rate(patch)
            run_experiment("phases", "smoke", root, settings, text=texts, engine="local")

    return smoke.once(tmp_path_factory, "phases", run)


def run_named(store: Store, name: str) -> tuple[Run, Lab]:
    experiment = from_json(next(value for _, value in store.experiments()))
    with pytest.MonkeyPatch.context() as patch:
        smoke.one_rate(patch)
        run = evaluated_runs(experiment, store)["frozen", name][0]
    return run, Lab(store, {donor: store.root / "donors" / donor for donor in run.setting.donors})


def test_a_network_goes_on_from_where_it_was(store: Store) -> None:
    """The second phase starts at the first one's loss on the first text, to the bit."""
    for name in ("donor", "dense", "slow"):
        first, last = (read_json(store.result_path(run_named(store, n)[0].id, 1)) for n in (name, f"{name} on B"))
        assert last["further"]["earlier"][0][1] == first["final"]
        assert last["losses"][0][1] != first["final"], "its loss is the second text's"


def test_released_is_the_same_function_and_all_of_it_trains(store: Store) -> None:
    kept, released = (build(*run_named(store, f"donor {what}"))[0] for what in ("kept", "released"))
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        a, b = (model(input_ids=ids).logits for model in (kept, released))
    assert torch.allclose(a, b, atol=1e-5)
    count = {
        m: sum(p.numel() for p in model.parameters() if p.requires_grad) for m, model in (("k", kept), ("r", released))
    }
    assert count["r"] > 2 * count["k"]


def test_what_died_stays_dead_in_the_second_phase(store: Store) -> None:
    first, later = (prunable(model) for model in (trained(store, "slow"), build(*run_named(store, "slow on B"))[0]))
    assert any(layer.dead is not None and layer.dead.any() for layer in first.values())
    for name, layer in later.items():
        before = first[name]
        assert layer.dead is not None
        assert before.dead is not None
        assert torch.equal(layer.dead, before.dead)
        assert torch.equal(layer.core, before.core)


def trained(store: Store, name: str) -> nn.Module:
    return trained_network(*run_named(store, name))[0]
