"""Economy: equal storage, costs that are those of the networks as built, its tables and figures, and one real run."""

from dataclasses import replace
from pathlib import Path

import pytest
import smoke

from ontogeny.benchmarks.made_up import conduct, outlined
from ontogeny.genome.sites import layer_and_role
from ontogeny.lab.experiment import from_json
from ontogeny.lab.experiments import economy
from ontogeny.lab.experiments.economy_costs import token_cost
from ontogeny.lab.experiments.economy_figures import rate_distortion
from ontogeny.lab.judge import assess
from ontogeny.lab.store import open_store
from ontogeny.model.grow import layer_shapes
from ontogeny.terminal.lab import run_experiment

LAPTOP = outlined("economy")


def cost(name: str, mode: str = "fresh"):  # type: ignore[no-untyped-def]
    arm = LAPTOP.arm(name)
    return token_cost(arm, LAPTOP.setting_of(arm), mode)  # type: ignore[arg-type]


def test_fresh_arms_store_as_many_values() -> None:
    assert len({cost(name).stored for name in economy.FRESH}) == 1
    assert LAPTOP.arm("sparse").recipe["density"] == "50.00000000%"
    small, donor = (layer_shapes(s.model) for s in (LAPTOP.settings["small"], LAPTOP.setting))
    for name, shape in small.items():
        place = layer_and_role(name)
        assert place is not None
        assert (shape == donor[name]) is place[1].startswith("attention"), name


def test_a_flashlight_needs_the_gate_and_a_quarter_of_the_rest() -> None:
    saved = cost("small").used - cost("flashlight").used
    assert saved == 3 * 2 * 96 * (64 - 16)  # layers, up and down, width, units that aren't used


def test_costs_in_closed_form() -> None:
    """Laptop: 3 layers of four 96 × 96 and three 96 × 256 matrices, rank 24, 1024 tokens, 64 a sequence."""
    layers, head, attention = 3 * (4 * 96**2 + 3 * 96 * 256), 96 * 1024, 12 * 64 * 96 * 3
    bases, core = 3 * 24 * (4 * 192 + 3 * 352), 3 * 7 * 24**2
    dense, donor = cost("dense", "frozen"), cost("donor", "frozen")
    assert dense.training == 6 * layers + 4 * head + attention
    assert donor.training == 4 * bases + 6 * core + 4 * head + attention
    assert donor.forward == 2 * (bases + core + head) + attention // 3
    assert donor.read == 4 * (bases + core + head + 96)
    assert donor.read - cost("donor 2 bit", "frozen").read == bases * 30 // 8
    assert donor.joules == pytest.approx(2.3e-12 * donor.forward + 160e-12 * donor.read)
    assert donor.training / dense.training < economy.CHEAP
    assert economy.genome_share(LAPTOP, 2) == pytest.approx(2 * bases / (16 * layers))
    assert economy.genome_share(LAPTOP, 2) < economy.SMALL


def test_a_genome_that_is_not_small_answers_nothing(tmp_path: Path) -> None:
    experiment = replace(LAPTOP, setting=replace(LAPTOP.setting, rank="75%"))
    store = open_store(tmp_path / "store")
    conduct(experiment, store, worth=lambda arm: 0.2 * arm.name.startswith("donor"))
    found = economy.findings(assess(experiment, store), store)
    assert found["G17"]["verdict"].startswith("undecided")
    assert "is not small" in found["G17"]["why"]
    assert found["G16"]["verdict"].startswith("undecided")
    assert "is not cheap" in found["G16"]["why"], "three quarters of the directions cost more than half"


def test_what_is_drawn_and_listed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    conduct(LAPTOP, store, worth=lambda arm: 0.1 * arm.name.startswith("donor"))
    points = rate_distortion(assess(LAPTOP, store))
    assert {p.bits for p in points} == {32, 8, 4, 2, 1}
    assert all(0.08 < p.gap.mean < 0.12 for p in points)
    rate, energy = economy.tables(assess(LAPTOP, store), store)
    assert (len(rate.shown), len(energy.shown)) == (5, 11)
    assert rate.shown[0][-1] == "100%"
    drawings = economy.figures("economy", assess(LAPTOP, store), store)
    assert [drawing.numbers for drawing in drawings] == [rate.name, energy.name]
    assert all(drawing.svg.startswith("<svg") for drawing in drawings)


def test_a_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every arm trains at the cost that was said, and is judged; the units that do the work are measured."""
    monkeypatch.setattr("ontogeny.lab.rates.GRID", (1e-2, 3e-2))
    monkeypatch.setattr(economy, "BITS", (2,))
    monkeypatch.setattr(economy, "FROZEN", {n: economy.FROZEN[n] for n in ("donor", "random", "dense", "donor 2 bit")})
    text = [str(smoke.write_text(tmp_path / "text.jsonl"))]
    run_experiment("economy", "smoke", tmp_path / "store", [*smoke.SETTINGS, "replicates=1"], text=text, engine="local")
    assert capsys.readouterr().out.count("undecided (smoke)") == 3
    store = open_store(tmp_path / "store")
    ((_, value),) = store.experiments()
    experiment = from_json(value)
    for (mode, name), arm in assess(experiment, store).arms.items():
        setting = experiment.setting_of(experiment.arm(name))
        tokens = setting.steps * setting.batch * setting.length
        assert arm.flops == tokens * token_cost(experiment.arm(name), setting, mode).training, name  # type: ignore[arg-type]
        assert set(arm.further["busy"]) == {0, *setting.evaluate_at}
        assert all(0 < share <= (economy.TOP if name == "flashlight" else 1) for share in arm.further["busy"][0])
