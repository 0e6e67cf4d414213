"""From what a user gives to a declared plan: everything that could go wrong later is found here."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import smoke
import tiny

from ontogeny.canonical import digest
from ontogeny.errors import InputError
from ontogeny.files import read_json
from ontogeny.genome.checkpoint import _warn_if_known_bad, open_checkpoint, split_revision
from ontogeny.lab.donors import given_donor
from ontogeny.lab.experiments import EXPERIMENTS
from ontogeny.lab.families import characters, read_given
from ontogeny.lab.prepare import check_sharded, find_experiment, find_scale, find_variants, outline, prepare
from ontogeny.lab.scales import Variant, scale
from ontogeny.lab.store import Store, open_store
from ontogeny.training.text import open_tokens

SMOKE = scale("smoke", smoke.SETTINGS)

OWN = """
from dataclasses import replace
from ontogeny.lab.experiments import convergence

def declare(**options):
    found = convergence.declare(**options)
    kept = ("donor", "dense")
    contrasts = tuple(c for c in found.contrasts if {c.control, c.treatment} <= set(kept) and c.embeddings == "fresh")
    arms = tuple(arm for arm in found.arms if arm.name in kept)
    return replace(found, name="mine", arms=arms, embeddings={"fresh": kept}, contrasts=contrasts)
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(smoke.write_text(tmp_path_factory.mktemp("text") / "text.jsonl"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two checkpoints of one shape, with a tokenizer."""
    folder = tmp_path_factory.mktemp("given")
    directories = [tiny.tiny_checkpoint("llama", folder / name, seed) for seed, name in enumerate(("one", "two"))]
    for directory in directories:
        smoke.write_tokenizer(directory, tiny.VOCABULARY)
    return [str(directory) for directory in directories]


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [("stage2", (), "is distilled"), ("development", (), "develops"), ("convergence", ("optimizer=muon",), "is muon")],
)
def test_what_networks_spread_over_processes_can_not_do(name: str, settings: tuple[str, ...], why: str) -> None:
    check_sharded(outline("convergence", SMOKE, (), "primary"))
    with pytest.raises(InputError, match=f"--use_fsdp: .*{why}.* run it without"):
        check_sharded(outline(name, find_scale(name, "smoke", settings), (), "primary"))


def test_a_plan_is_declared_before_anything_runs(store: Store, text: str) -> None:
    plan = prepare("convergence", SMOKE, store, text=[text])
    experiment = smoke.declared(store)
    assert experiment == plan.experiment
    assert experiment.setting.donors == tuple(recipe.id for recipe in plan.recipes)
    assert experiment.text["source"] == text
    assert len(experiment.text["sha256"]) == 64
    assert (experiment.setting.steps, experiment.replicates, experiment.decisive) == (3, 2, False)
    assert {"verdict", "rates", "E6", "E7", "E8", "E20"} <= set(experiment.rules)
    assert not list(store.root.glob("runs/*"))


def test_preparing_again_changes_nothing(store: Store, text: str) -> None:
    first = prepare("convergence", SMOKE, store, text=[text])
    tokens = store.root / "tokens" / f"{first.experiment.setting.tokens}.bin"
    made = tokens.stat().st_mtime_ns
    again = prepare("convergence", SMOKE, store, text=[text])
    assert again.experiment == first.experiment
    assert tokens.stat().st_mtime_ns == made
    assert len(store.experiments()) == 1


def test_what_changes_the_result_changes_the_declaration(store: Store, text: str, tmp_path: Path) -> None:
    prepare("convergence", SMOKE, store, text=[text])
    other = smoke.write_text(tmp_path / "other.jsonl", documents=401)
    prepare("convergence", SMOKE, store, text=[str(other)])
    prepare("convergence", replace(SMOKE, rank="50%"), store, text=[text])
    prepare("convergence", replace(SMOKE, audit=False), store, text=[text])
    prepare("convergence", SMOKE, store, text=[text], table="full")
    assert len(store.experiments()) == 5


def test_donors_differ_by_index_alone(store: Store, text: str) -> None:
    first, second = prepare("convergence", SMOKE, store, text=[text]).recipes
    assert (first.index, second.index) == (1, 2)
    assert replace(first, index=2) == second
    assert first.id != second.id


def test_the_tokenizer_stands_beside_a_donor(store: Store, text: str) -> None:
    plan = prepare("convergence", SMOKE, store, text=[text])
    for donor in plan.lab.donors.values():
        assert (donor / "tokenizer.json").is_file()
        assert read_json(donor / "tokenizer_config.json")["eos_token"] == "<|endoftext|>"


def test_a_given_donor_sets_shape_tokenizer_and_vocabulary(store: Store, text: str, given: list[str]) -> None:
    plan = prepare("convergence", SMOKE, store, donors=given[:1], text=[text])
    experiment = plan.experiment
    assert experiment.setting.model == dict(open_checkpoint(given[0]).config)
    tokens = open_tokens(store.root / "tokens", experiment.setting.tokens)
    assert tokens is not None
    assert tokens.vocabulary <= tiny.VOCABULARY
    assert plan.recipes == ()
    assert experiment.single_checkpoint
    assert set(experiment.not_applicable) == {"chimera", "mean-only", "step-0", "E6", "E7"}
    (record,) = experiment.donor_records
    assert record["name"] == given[0]
    assert record["id"] == experiment.setting.donors[0] == digest(record["sha256"])[:16]
    assert plan.lab.donors == {record["id"]: Path(given[0])}


def test_several_given_donors(store: Store, text: str, given: list[str]) -> None:
    experiment = prepare("convergence", SMOKE, store, donors=given, text=[text]).experiment
    assert len(set(experiment.setting.donors)) == 2
    assert not experiment.single_checkpoint
    assert "chimera" not in experiment.not_applicable


def test_a_given_donors_id_is_its_weights(given: list[str], tmp_path: Path) -> None:
    """Not its path, and not its configuration."""
    import shutil

    moved = Path(shutil.copytree(given[0], tmp_path / "moved"))
    assert given_donor(str(moved))[0] == given_donor(given[0])[0] != given_donor(given[1])[0]


@pytest.mark.parametrize("rank", ["20", "200%", "0"])
def test_ranks_that_some_site_cant_have(store: Store, text: str, given: list[str], rank: str) -> None:
    for donors in ([given[0]], []):
        if rank == "20" and not donors:
            continue  # 20 of 32: fine on the preset's own shape
        with pytest.raises(InputError, match="rank"):
            prepare("convergence", replace(SMOKE, rank=rank), store, donors=donors, text=[text])
        with pytest.raises(InputError, match="rank"):
            outline("convergence", replace(SMOKE, rank=rank), donors, "primary")
    assert store.experiments() == []


def test_a_rank_above_the_presets_width_for_a_wider_donor(store: Store, text: str, given: list[str]) -> None:
    """The donor's shape counts, not the preset's."""
    narrow = replace(SMOKE, width=8, heads=2, rank="12")
    assert prepare("convergence", narrow, store, donors=given[:1], text=[text]).experiment.setting.rank == "12"


def test_outline_asks_for_the_same_runs(store: Store, text: str) -> None:
    for table in ("primary", "full"):
        plan = prepare("convergence", SMOKE, store, text=[text], table=table)
        sketch = outline("convergence", SMOKE, [], table)
        assert [(mode, arm) for mode, arm in sketch.cells()] == [(mode, arm) for mode, arm in plan.experiment.cells()]
        assert sketch.contrasts == plan.experiment.contrasts


def test_the_longest_arm_reads_every_window_once(store: Store, text: str) -> None:
    with pytest.raises(InputError, match="an arm would need more text"):
        prepare("convergence", replace(SMOKE, steps=10_000), store, text=[text])
    with pytest.raises(InputError, match="a donor would need more text"):
        prepare("convergence", replace(SMOKE, donor_steps=10_000), store, text=[text])
    assert store.experiments() == []


def test_experiments_by_name_or_file(tmp_path: Path) -> None:
    assert find_experiment("convergence") is EXPERIMENTS["convergence"]
    (tmp_path / "mine.py").write_text(OWN)
    assert find_experiment(str(tmp_path / "mine.py")).declare.__name__ == "declare"
    with pytest.raises(InputError, match=r"no experiment 'x': known are convergence, .*, or give a Python file"):
        find_experiment("x")


def test_an_experiment_of_ones_own(text: str, tmp_path: Path, capsys: Any) -> None:
    """Runs to its end and is judged, though it answers no claim of the ledger."""
    from ontogeny.terminal.lab import run_experiment, show_status
    from ontogeny.terminal.store import show_claims

    (tmp_path / "mine.py").write_text(OWN)
    settings = ("steps=2", "donor_steps=2", "windows=2", "batch=2", "replicates=1", "donors=1")
    run_experiment(str(tmp_path / "mine.py"), "smoke", tmp_path / "s", settings, text=[text], engine="local")
    shown = capsys.readouterr().out
    assert "dense − donor (fresh)" in shown
    assert "undecided (scale)" in shown
    show_status(tmp_path / "s", watch=False)
    assert "mine" in capsys.readouterr().out
    show_claims(tmp_path / "s", "id", as_json=True)
    assert '"undecided' not in capsys.readouterr().out


def test_a_given_donor_goes_by_the_name_it_was_given(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two revisions of one checkpoint are told apart."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, revision, **options: given[int(revision)])
    found = read_given(["an/owner@0", "an/owner@1"])
    assert [checkpoint.name for *_, checkpoint in found] == ["an/owner@0", "an/owner@1"]
    assert {checkpoint.source()["revision"] for *_, checkpoint in found} == {"one", "two"}


def test_published_donors_are_hub_ids_that_nothing_is_known_against() -> None:
    """Each named with its revision where the main one isn't what was published; nothing is read for donors to train."""
    for name in EXPERIMENTS:
        preset = find_scale(name, "paper")
        for variant in find_variants(name, preset, "full", given=False).values():
            for donor in variant.scale.hub_donors:
                source, revision = split_revision(donor)
                assert source.count("/") == 1
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    _warn_if_known_bad(source, revision)


def test_text_is_read_for_donors_only_where_they_are_trained() -> None:
    """500 steps of 32 × 512 tokens at six characters, over the train split's 90 %; two epochs of a donor."""
    steps, donor_steps = 500, 20_000
    read = {
        name: characters(find_variants(name, find_scale(name, "paper"), "primary", given=False)[""])
        for name in ("sparsity", "data")
    }
    assert read == {"sparsity": round(steps * 32 * 512 * 6 / 0.9), "data": round(donor_steps / 2 * 32 * 512 * 6 / 0.9)}
    laptop = Variant(scale("laptop"))
    assert characters(laptop) == 3_413_333, "a given donor's arms read what they read beside trained ones"
    images = find_variants("crossmodal", find_scale("crossmodal", "paper"), "primary", given=False)[""]
    assert characters(images) == 256 * 512 * 6 * 20, "the windows of the test split, a twentieth"
