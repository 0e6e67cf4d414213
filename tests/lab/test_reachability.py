"""Reachability: what it declares, what it concludes from planted floors and rescues, and that it really runs."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
import smoke
from reported import sketches

from ontogeny.errors import InputError, Interrupted
from ontogeny.files import read_json, write_json
from ontogeny.lab import run as lab_run
from ontogeny.lab.claims import load_claims
from ontogeny.lab.conduct import conduct, evaluated_runs, tuned_cells
from ontogeny.lab.engines import local
from ontogeny.lab.estimate import estimate
from ontogeny.lab.experiment import Experiment, Setting
from ontogeny.lab.experiments import EXPERIMENTS, reachability
from ontogeny.lab.experiments.reachability import CONTINUED, DOUBLING, RESCUES, declare, variants
from ontogeny.lab.judge import Assessment, assess
from ontogeny.lab.prepare import outline, prepare
from ontogeny.lab.rates import START
from ontogeny.lab.report.page import write_report
from ontogeny.lab.report.tables import show
from ontogeny.lab.scales import SCALES, scale
from ontogeny.lab.store import Store, open_store
from ontogeny.streams import numpy_stream

MODEL = {"model_type": "llama", "vocab_size": 400}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS, reachability.NAME, reachability)


def experiment(table: str = "full", donors: int = 5, **changes: Any) -> Experiment:
    ids = tuple(f"donor{i + 1}" for i in range(donors))
    setting = Setting(MODEL, "t" * 64, ids, "25%", 64, 4, 6400, DOUBLING, 256, horizons=DOUBLING, tuning_horizon=800)
    going_on = replace(setting, steps=1600, evaluate_at=(1600,), horizons=(), tuning_horizon=0, skip=6400)
    records = tuple({"index": i + 1} for i in range(donors))
    options: dict[str, Any] = {"scale": "laptop", "decisive": True, "setting": setting, "replicates": 5, "text": {}}
    options |= {"donor_records": records, "given": False, "table": table, "audit": True}
    options |= {"settings": {"rescue": going_on}} if table == "full" else {}
    return declare(**options | changes)


# What is declared ---------------------------------------------------------------------------------------------


def test_tables() -> None:
    primary, full = experiment("primary"), experiment()
    assert primary.embeddings == {"fresh": ("donor", "random")}
    assert set(full.embeddings["fresh"]) == {"donor", "random", "coherent", "dense", "low-rank"} | {
        *CONTINUED,
        *RESCUES,
    }
    assert full.embeddings["frozen"] == ("donor", "random")
    for declared, expected in ((primary, {"fresh": 1}), (full, {"fresh": 5, "frozen": 1})):
        counts = {mode: sum(c.primary and c.embeddings == mode for c in declared.contrasts) for mode in expected}
        assert counts == expected


def test_the_primary_tables_runs_are_the_full_tables(tmp_path: Path) -> None:
    ids = []
    for table in ("primary", "full"):
        declared = experiment(
            table, rates={m: dict.fromkeys(names, START) for m, names in experiment().embeddings.items()}
        )
        runs = evaluated_runs(declared, open_store(tmp_path)).values()
        ids.append({(run.id, run.replicate) for cell in runs for run in cell})
    assert ids[0] < ids[1]
    assert (len(ids[0]), len(ids[1])) == (2 * 5, (5 + 2 + 6) * 5), "no two arms share a run"


def test_what_goes_on_starts_from_its_parents_replicate_at_its_rates(tmp_path: Path) -> None:
    declared = experiment(rates={m: dict.fromkeys(names, START) for m, names in experiment().embeddings.items()})
    cells = evaluated_runs(declared, open_store(tmp_path))
    for name in (*CONTINUED, *RESCUES):
        arm = declared.arm(name)
        assert arm.tuned_as in ("donor", "dense", "random")
        assert arm.after == ("dense" if name == "random projected" else name.split()[0])
        for run, parent in zip(cells["fresh", name], cells["fresh", arm.after], strict=True):
            assert (run.parent, run.replicate) == (parent, parent.replicate)
            assert (run.setting.skip, run.setting.steps, run.setting.horizons) == (6400, 1600, ())
            assert run.rates.body == pytest.approx(START.body * (10 if name == "random faster" else 1))
    assert {arm.name for _, arm in tuned_cells(declared)} == {"donor", "random", "coherent", "dense", "low-rank"}


def test_every_claim_it_answers_has_its_rule() -> None:
    claims = {claim.id for claim in load_claims() if claim.experiment == reachability.NAME}
    assert claims == {"E9", "E10", "G24"}
    assert claims <= set(reachability.RULES)


def test_rates_are_tuned_with_the_trunks_warm_up() -> None:
    assert experiment().setting.tuning.horizons == (100, 800)


@pytest.mark.parametrize("name", SCALES)
def test_scales(name: str) -> None:
    """Every scale declares; the family that goes on reads as much text, skips what was read, and shares its donors."""
    preset = scale(name, (), reachability.SCALES)
    found = variants(preset, "full", (), given=False)
    main, going_on = found[""], found["rescue"]
    assert main.ahead == going_on.scale.steps == preset.steps // 4
    assert going_on.skip == preset.steps
    assert set(variants(preset, "primary", (), given=False)) == {""}
    declared = outline(reachability.NAME, preset, (), "full")
    assert declared.setting_of(declared.arm("random freed")).skip == preset.horizons[-1]
    if name != "paper":
        assert [line.what for line in estimate(declared, found, 1e9) if line.what.startswith("donor")] == ["donor"]


def test_horizons_that_carry_no_fit_are_refused() -> None:
    for horizons in ("100,200", "2,4,8"):
        preset = scale(
            "smoke", (f"horizons={horizons}", f"tuning_horizon={horizons.split(',')[0]}"), reachability.SCALES
        )
        with pytest.raises(InputError, match="expected at least 3 different ones from 3 steps on"):
            variants(preset, "primary", (), given=False)


# What is concluded --------------------------------------------------------------------------------------------

Gap = Callable[[float], float]  # nats, of steps ÷ first horizon
FLOOR: Gap = lambda t: 0.1 + 0.15 * t**-0.5  # noqa: E731
CLOSING: Gap = lambda t: 0.4 * t**-0.5  # noqa: E731
NONE: Gap = lambda t: 0.0  # noqa: E731
UNREACHED = dict.fromkeys(RESCUES, 0.1)


def losses(gap: Gap, mode: str, arm: str, replicate: int) -> list[list[float]]:
    """Donors fall from 3.6 to 2.9 nats; everyone is 6.0 at step 0."""
    rng = numpy_stream(replicate, mode, arm)
    values = [[0, 6.0]]
    for step in DOUBLING:
        t = step / DOUBLING[0]
        own = {"random": gap(t), "dense": -0.2}.get(arm, 0.0) + 0.002 * float(rng.standard_normal())
        values.append([step, 2.8 + 0.8 * t**-0.5 + own])
    return values


def plant(
    store: Store, declared: Experiment, gap: Gap, rescued: Mapping[str, float | None] = UNREACHED, **options: Any
) -> Assessment:
    """``rescued``: loss over the donor's continuation of arms that go on, None where they diverge."""

    def final(mode: str, arm: str, replicate: int) -> float | None:
        if arm in rescued and rescued[arm] is None:
            return None
        return 2.85 + (rescued.get(arm) or 0.0) + 0.002 * float(numpy_stream(replicate, arm).standard_normal())

    planted.plant(store, declared, final, **options)
    for (mode, name), runs in evaluated_runs(declared, store).items():
        for run in (run for run in runs if run.setting.horizons):
            path = store.run_directory(run.id, run.replicate) / "result.json"
            found = losses(gap, mode, name, run.replicate)
            write_json(path, read_json(path) | {"losses": found, "final": found[-1][1]})
    return assess(declared, store)


def words(found: Assessment, store: Store) -> dict[str, str]:
    return {claim: answer["verdict"].split(" ")[0] for claim, answer in reachability.findings(found, store).items()}


def why(found: Assessment, store: Store, claim: str) -> str:
    return reachability.findings(found, store)[claim]["why"]


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Assessment]:
    store = open_store(tmp_path_factory.mktemp("floor"))
    starts = {name: 2.9 + UNREACHED[name] for name in RESCUES} | {"random projected": 4.5}
    return store, plant(store, experiment(), FLOOR, step0=starts)


def test_a_floor_is_permanent_and_never_proves_unreachable(floor: tuple[Store, Assessment]) -> None:
    store, found = floor
    assert words(found, store) == {"E9": "supported", "E10": "undecided", "G24": "undecided"}
    fitted = reachability.fit(found)
    assert fitted is not None
    assert fitted.interval.mean == pytest.approx(0.1, abs=0.01)
    assert f"floor {fitted.interval.mean:+.3f}" in reachability.findings(found, store)["E9"]["measured"]
    assert set(reachability.outcomes(found).values()) == {"not reached"}


def test_how_often_it_was_not_reached(floor: tuple[Store, Assessment]) -> None:
    """Random ends at 3.019; the donor is 0.02 below that from 3,200 steps (2.941) on, not at 1,600 (3.000)."""
    store, found = floor
    assert reachability.lag(found) == (3200, 2.0)
    assert why(found, store, "G24") == "not reached in 2×: the donor's loss after 3200 steps"
    assert why(found, store, "E10").startswith("not reached in 1.25×; random continued: not reached")


@pytest.mark.parametrize(
    ("gap", "rescued", "expected", "reason"),
    [
        (CLOSING, UNREACHED, {"E9": "refuted", "E10": "undecided", "G24": "refuted"}, ("G24", "closes")),
        (NONE, UNREACHED, {"E9": "refuted", "E10": "undecided", "G24": "refuted"}, ("E10", "it is refuted")),
        (
            FLOOR,
            UNREACHED | {"random freed": 0.0},
            {"E9": "supported", "E10": "refuted", "G24": "undecided"},
            ("E10", "random freed: reached"),
        ),
        (
            FLOOR,
            UNREACHED | {"random projected": 0.0},
            {"E9": "supported", "E10": "refuted", "G24": "refuted"},
            ("G24", "random projected reaches"),
        ),
        (
            FLOOR,
            UNREACHED | {"random faster": 0.02},
            {"E9": "supported", "E10": "undecided", "G24": "undecided"},
            ("E10", "random faster: straddles"),
        ),
        (
            FLOOR,
            UNREACHED | {"random faster": None},
            {"E9": "supported", "E10": "undecided", "G24": "undecided"},
            ("E10", "random faster: failed"),
        ),
    ],
    ids=["closing", "no gap", "freed reaches", "projected reaches", "straddles", "faster diverges"],
)
def test_planted(
    gap: Gap, rescued: Mapping[str, float | None], expected: dict[str, str], reason: tuple[str, str], tmp_path: Path
) -> None:
    store = open_store(tmp_path)
    found = plant(store, experiment(), gap, rescued)
    assert words(found, store) == expected
    assert reason[1] in why(found, store, reason[0])


def test_the_primary_table_answers_two(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    found = plant(store, experiment("primary"), FLOOR)
    assert words(found, store) == {"E9": "supported", "E10": "not", "G24": "undecided"}
    assert why(found, store, "E10") == "in the full table (--table full)"


@pytest.mark.parametrize(
    ("changes", "options", "code"),
    [
        ({}, {"step0": {"random": 6.4}}, "audit: step-0 losses differ"),
        ({"donors": 4}, {}, "donors"),
        ({"decisive": False}, {}, "scale"),
        ({}, {"passed_gate": False}, "gate"),
    ],
    ids=str,
)
def test_a_floor_needs_what_every_contrast_needs(
    changes: dict[str, Any], options: dict[str, Any], code: str, tmp_path: Path
) -> None:
    store = open_store(tmp_path)
    found = plant(store, experiment("primary", **changes), FLOOR, **options)
    assert words(found, store)["E9"] == "undecided"
    assert why(found, store, "E9") == code


def test_an_unfinished_one_is_not_run(tmp_path: Path) -> None:
    store, declared = open_store(tmp_path), experiment()
    plant(store, declared, FLOOR)
    for name in ("random", "random freed"):
        run = evaluated_runs(declared, store)["fresh", name][2]
        (store.run_directory(run.id, run.replicate) / "result.json").unlink()
        found = assess(declared, store)
    assert words(found, store) == dict.fromkeys(("E9", "E10", "G24"), "not")
    assert [d.name for d in reachability.figures("x", found, store)] == [
        "x-gap-frozen",
        "x-horizons-fresh",
        "x-horizons-frozen",
    ]


def test_without_a_gap_the_rescues_are_not_needed(tmp_path: Path) -> None:
    store, declared = open_store(tmp_path), experiment(table="primary")
    found = plant(store, declared, NONE)
    assert words(found, store)["E10"] == "undecided"
    assert "asked only once the gap is supported; it is refuted" in why(found, store, "E10")


# What is shown ------------------------------------------------------------------------------------------------


def test_the_published_series() -> None:
    steps, chart, text = reachability.published_series()
    assert (len(steps), steps[0], steps[-1], text) == (11, 1000, 35_000, (40_000, 0.089))
    assert (chart[0], chart[-1]) == (0.31, 0.08)
    assert [gap for gap, _ in reachability.PUBLISHED["random − donor (fresh)"]] == [0.08, 0.089]


def test_figures_hold_the_numbers(floor: tuple[Store, Assessment]) -> None:
    store, found = floor
    drawings = {drawing.name: drawing for drawing in reachability.figures("r", found, store)}
    assert set(drawings) == {"r-gap-fresh", "r-gap-frozen", "r-horizons-fresh", "r-horizons-frozen", "r-rescues"}
    for drawing in drawings.values():
        assert ET.fromstring(drawing.svg).tag.endswith("svg")
        assert drawing.png.startswith(b"\x89PNG")
        assert "reachability, laptop · rank 25% · " in drawing.svg  # matplotlib's comments
        assert len(re.findall(r"\d\.\d{3}", drawing.alt)) >= 5
    assert "0.31 at 1000" in drawings["r-gap-fresh"].alt
    freed = planted.contrast(found, "random freed − donor continued (fresh)").interval
    assert f"random freed {show(freed, '±+.3f')}, not reached" in drawings["r-rescues"].alt


def test_a_gap_that_is_none_is_drawn_too(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    found = plant(store, experiment("primary"), NONE)
    assert [drawing.name for drawing in reachability.figures("r", found, store)] == ["r-gap-fresh", "r-horizons-fresh"]


def test_tables_hold_the_numbers(floor: tuple[Store, Assessment]) -> None:
    store, found = floor
    tables = {table.name: table for table in reachability.tables(found, store)}
    assert [row[0] for row in tables["floors"].rows] == ["embeddings fresh", "embeddings frozen", "published chart"]
    assert tables["floors"].rows[2][4] == pytest.approx(0.36, abs=0.01), "0.34 where the logarithms are fitted"
    assert len(tables["horizons"].rows) == 7 * 7
    gap = next(row[4] for row in tables["horizons"].rows if row[:3] == ("fresh", "random", 400))
    assert gap.mean == pytest.approx(FLOOR(4), abs=0.01)
    assert {row[4] for row in tables["early-stopping"].rows} == {"6400"}
    assert not any("nan" in cell or "inf" in cell for table in tables.values() for row in table.shown for cell in row)


# A real one ---------------------------------------------------------------------------------------------------

TINY = ("horizons=3,4,5", "tuning_horizon=3", "donors=1", "donor_steps=3", "replicates=1", "windows=4", "batch=4")


def test_a_small_one_runs_is_interrupted_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = scale("smoke", TINY, reachability.SCALES)
    text, store = smoke.write_text(tmp_path / "text.jsonl"), open_store(tmp_path / "store")
    fixed = {mode: dict.fromkeys(names, START) for mode, names in experiment().embeddings.items()}
    plan = prepare(reachability.NAME, preset, store, text=[str(text)], table="full", rates=fixed)
    assert plan.experiment.settings["rescue"].tokens == plan.experiment.setting.tokens
    assert len(plan.recipes) == 1, "both settings have the same donor"
    learn, begun = lab_run.learn, [0]

    def counted(*args: Any) -> Any:
        begun[0] += 1
        if begun[0] == 9:
            raise Interrupted("in the middle of what goes on")
        return learn(*args)

    monkeypatch.setattr(lab_run, "learn", counted)
    with local(1) as mapper:
        with pytest.raises(Interrupted):
            conduct(plan, mapper)
        conduct(plan, mapper)
        assert begun[0] == 5 + 2 + 6 + 1
        conduct(plan, mapper)
        assert begun[0] == 5 + 2 + 6 + 1, "a rerun trains nothing"
    found = assess(plan.experiment, store)
    assert found.complete
    _check_what_went_on(plan.experiment, store)
    assert set(words(found, store).values()) == {"undecided"}
    with sketches():
        files = {path.name.split("-", 3)[-1] for path in write_report(store, tmp_path / "report.html")}
    figures = ("gap-fresh", "gap-frozen", "horizons-fresh", "horizons-frozen", "rescues")
    assert {f"{figure}.svg" for figure in figures} | {"floors.csv", "horizons.csv", "early-stopping.csv"} <= files


def _check_what_went_on(declared: Experiment, store: Store) -> None:
    """Networks go on where their parents ended; a projection doesn't."""
    results = {
        name: store.result(runs[0].id, 1)
        for (mode, name), runs in evaluated_runs(declared, store).items()
        if mode == "fresh"
    }
    found = {name: result for name, result in results.items() if result is not None}
    assert [step for step, _ in found["random"]["losses"]] == [0, 3, 4, 5]
    for name in ("donor continued", "dense continued", "random continued", "random freed", "random faster"):
        assert found[name]["step0_loss"] == pytest.approx(found[name.split()[0]]["final"], abs=1e-4), name
        assert math.isfinite(found[name]["final"])
    assert found["random projected"]["step0_loss"] != pytest.approx(found["dense"]["final"], abs=1e-4)
    trained = {name: result["trainable_parameters"] for name, result in found.items()}
    assert trained["random freed"] > trained["random continued"] == trained["random projected"] == trained["random"]
    assert np.isclose(found["random faster"]["rates"]["body"], 10 * START.body)
