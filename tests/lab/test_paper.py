"""The paper scale's own path, with tiny checkpoints of the published architectures in place of the hub's."""

from pathlib import Path
from typing import Any

import pytest
import smoke
import tiny

from ontogeny.lab.experiments import EXPERIMENTS
from ontogeny.lab.prepare import find_scale, prepare
from ontogeny.lab.scales import SHAPES
from ontogeny.lab.store import open_store
from ontogeny.terminal.lab import run_experiment

SMALL = ["length=16", "batch=2", "windows=4", "steps=60"]
FURTHER = {"crossmodal": ["images=digits"], "data": ["donor_steps=4"]}
FURTHER["reachability"] = ["horizons=10,20,40", "tuning_horizon=10"]
PYTHIA = {"architecture": "gpt_neox", "width": 768}


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    return [str(smoke.write_text(tmp_path / f"{seed}.jsonl", seed=seed)) for seed in range(4)]


@pytest.fixture(autouse=True)
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Every id leads to a checkpoint of its own weights and its own architecture, the wider the wider; id -> revision
    of what was asked for."""
    folder = tmp_path_factory.mktemp("hub")
    asked: dict[str, str | None] = {}

    def download(name: str, revision: str | None, **options: Any) -> str:
        shape = SHAPES.get(name, PYTHIA)
        model_type, keys = tiny.TINY[shape["architecture"]]
        width = max(32, 16 * round(shape["width"] / 288))
        monkeypatch.setitem(tiny.TINY, name, (model_type, keys | {"hidden_size": width}))
        asked[name] = revision
        if not (folder / name).exists():
            tiny.tiny_checkpoint(name, folder / name, seed=len(asked))
            smoke.write_tokenizer(folder / name, tiny.VOCABULARY)
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_declared_from_its_published_donors(
    name: str, texts: list[str], tmp_path: Path, hub: dict[str, str | None]
) -> None:
    preset = find_scale(name, "paper", [*SMALL, *FURTHER.get(name, [])])
    several = {"data": 2, "phases": 2, "corpora": 4}
    plan = prepare(name, preset, open_store(tmp_path / "store"), text=texts[: several.get(name, 1)])
    assert bool(plan.recipes) == (name == "data"), "donors of its own corpora"
    assert set(plan.lab.donors) == {donor for s in plan.experiment.all_settings().values() for donor in s.donors}
    assert [record["name"] for record in plan.experiment.donor_records if "name" in record] == [
        f"{donor}@{revision}" if revision else donor for donor, revision in hub.items()
    ]
    assert plan.experiment.setting.precision == "bf16"
    assert (name == "reachability") == ("step143000" in hub.values())


def test_a_published_donor_from_the_hub_to_the_verdict(
    texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke.one_rate(monkeypatch)
    settings = [*SMALL, "steps=2", "replicates=1"]
    run_experiment("profile", "paper", tmp_path / "store", settings, text=texts[:1], engine="local")
    told = capsys.readouterr()
    warned = told.err.splitlines()[-1]
    assert warned.startswith("HuggingFaceTB/SmolLM2-135M: its loss ")
    assert "it has learnt nothing; give a donor" in warned
    assert "E17" in told.out.split("Verdicts")[1]
    assert "undecided" in told.out.split("Verdicts")[1]
