"""What a plan says it costs is what running it then costs."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import smoke
import torch

from ontogeny.lab.estimate import Estimate, estimate, genome_files, measured_flops_per_second, storage
from ontogeny.lab.judge import assess
from ontogeny.lab.prepare import find_scale, find_variants, outline
from ontogeny.lab.scales import Variant, scale
from ontogeny.lab.store import Store

SMOKE = scale("smoke", smoke.SETTINGS)
MADE = {"": Variant(SMOKE)}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return smoke.smoke_store(tmp_path_factory)


def lines_of(experiment: Any, variants: Any = MADE) -> dict[str, Estimate]:
    found = estimate(experiment, variants, 1e9)
    assert len({line.what for line in found}) == len(found)
    return {line.what: line for line in found}


def test_flops_are_those_of_the_results(store: Store) -> None:
    experiment = smoke.declared(store)
    lines = lines_of(experiment)
    for (mode, name), arm in assess(experiment, store).arms.items():
        if mode == "fresh":
            assert arm.flops == lines[f"{mode} {name}"].flops, name
        else:
            assert arm.flops is not None
            assert arm.flops <= lines[f"{mode} {name}"].flops, "a frozen head costs less"


def test_flops_of_every_kind_of_arm(store: Store) -> None:
    """Against the model as built, where the kinds differ."""
    from ontogeny.lab.experiment import Rates, Run
    from ontogeny.lab.networks import Lab, build
    from ontogeny.model.cost import flops_per_token

    experiment = smoke.declared(store)
    setting = experiment.setting
    full = replace(outline("convergence", SMOKE, [], "full"), setting=setting)
    lab = Lab(store, {donor: store.root / "donors" / donor for donor in setting.donors})
    lines = estimate(full, MADE, 1e9)
    shown = {line.what: line.flops for line in lines}
    per_step = setting.batch * setting.length * setting.steps
    expected = {name: shown[f"fresh {name}"] / per_step for name in ("low-rank", "low-rank-equal", "middle")}
    for name, flops in expected.items():
        model, _ = build(Run(setting, full.arm(name), "fresh", Rates(0.1, 0.1), "test", 1), lab)
        assert flops_per_token(model, setting.length) == pytest.approx(flops, rel=0.02)


def test_training_states_are_of_what_trains(store: Store) -> None:
    """Weight and two moments of every value, four bytes each."""
    experiment = smoke.declared(store)
    lines = lines_of(experiment)
    for (mode, name), arm in assess(experiment, store).arms.items():
        assert arm.trainable_parameters is not None
        assert lines[f"{mode} {name}"].state == 12 * arm.trainable_parameters, name


def test_genome_files_are_those_of_the_store(store: Store) -> None:
    found = genome_files(smoke.declared(store), MADE, given=False)
    assert len(found) == 4, "of two donors, as arms and as overlaps read them"
    files = [file.read_bytes() for file in (store.root / "genomes").glob("*.safetensors")]
    bases = Counter(len(file) - 8 - int.from_bytes(file[:8], "little") for file in files)
    assert Counter(found.values()) <= bases


def test_disk_by_hand() -> None:
    """Width 32, two layers of four 32 × 32 and three 32 × 64 matrices, 320 tokens; rank 16 of 32."""
    preset = find_scale("phases", "smoke", ["steps=60"])
    experiment = outline("phases", preset, [], "primary")
    variants = find_variants("phases", preset, "primary", given=False)
    lines = lines_of(experiment, variants)
    cores, norms, ends = 2 * 7 * 16 * 16, 5 * 32, 2 * 320 * 32
    donor = 2 * (4 * 32 * 32 + 3 * 32 * 64) + norms + ends
    assert (lines["donor"].disk, lines["donor"].state) == (4 * donor, 12 * donor)
    assert lines["frozen donor"].disk == 20_000 + 4 * (cores + norms), "it keeps its network"
    assert lines["frozen donor"].state == 12 * (cores + norms)
    assert lines["frozen donor, tuning (about)"].disk == 20_000
    genome = 2 * 4 * 16 * (4 * (32 + 32) + 3 * (32 + 64))
    found = storage(experiment, variants, given=False)
    assert found["genome files"] == genome * len(genome_files(experiment, variants, given=False))
    assert set(found) == {"genome files", "tokens"}


def test_disk_of_published_donors_and_images() -> None:
    """Pythia-14M has 14,067,712 parameters; its run branches at seven horizons. Images: 1797 of 8 × 8."""
    preset = find_scale("reachability", "paper")
    experiment = outline("reachability", preset, [], "primary")
    variants = find_variants("reachability", preset, "primary", given=False)
    assert storage(experiment, variants, given=False)["downloaded donors"] == 4 * 14_067_712
    assert "downloaded donors" not in storage(experiment, variants, given=True)
    line = lines_of(experiment, variants)["fresh donor"]
    kept = line.disk - 20_000
    assert line.state == 3 * kept * (1 + 7)
    preset = find_scale("crossmodal", "smoke")
    experiment = outline("crossmodal", preset, [], "primary")
    variants = find_variants("crossmodal", preset, "primary", given=False)
    found = storage(experiment, variants, given=False)
    assert found["images"] == 1797 * 8 * 8
    assert found["tokens"] == 1_000_000, "a million characters, at least two a token of two bytes"


def test_runs_are_counted_once(store: Store) -> None:
    experiment = smoke.declared(store)
    evaluated = [line for name, line in lines_of(experiment).items() if "tuning" not in name and name != "donor"]
    assert sum(line.runs for line in evaluated) == assess(experiment, store).expected


def test_time_is_flops_over_speed() -> None:
    experiment = outline("convergence", SMOKE, [], "primary")
    for line in lines_of(experiment).values():
        assert line.seconds == pytest.approx(line.flops / 1e9)
        assert min(line.flops, line.memory, line.disk) > 0


def test_given_donors_and_fixed_rates_cost_nothing() -> None:
    from ontogeny.terminal.lab import fixed_rates

    assert "donor" not in lines_of(outline("convergence", SMOKE, [], "primary"), {})
    demo = scale("demo")
    experiment = outline("convergence", demo, [], "primary", fixed_rates("convergence", "demo"))
    lines = estimate(experiment, {"": Variant(demo)}, 1e9)
    assert [line.what for line in lines] == ["donor", *(f"fresh {arm.name}" for arm in experiment.arms)]


def test_tuning_guess_is_of_the_right_size(store: Store) -> None:
    """The search decides; the guess stays within a factor of two of what it asked for here."""
    tuned = sum(result["kind"] == "arm" and result["split"] == "tune" for result in store.results())
    guess = sum(line.runs for name, line in lines_of(smoke.declared(store)).items() if "tuning" in name)
    assert guess / 2 <= tuned <= guess * 2


def test_speed_is_measured_on_one_thread() -> None:
    threads = torch.get_num_threads()
    assert 1e8 < measured_flops_per_second() < 1e14
    assert torch.get_num_threads() == threads
