"""Ids are pinned, circumstance stays out of them, and a declaration survives its file."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ontogeny.canonical import canonical_json, digest
from ontogeny.lab.donors import DonorRecipe
from ontogeny.lab.experiment import Arm, Experiment, Rates, Run, Setting, from_json
from ontogeny.lab.experiments.convergence import declare
from ontogeny.lab.overlaps import OverlapTask

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ids.json").read_text())
MODEL = {"model_type": "llama", "vocab_size": 320, "hidden_size": 32}
SETTING = Setting(MODEL, "t" * 64, ("a" * 16, "b" * 16), "25%", 32, 8, 5, (2, 5), 8)
RATES = Rates(body=1e-2, rest=3e-2)
RUN = Run(SETTING, Arm("donor"), "fresh", RATES, "test", 1)


def experiment(table: str = "primary", donors: int = 2, rates: Any = None, **changes: Any) -> Experiment:
    ids = tuple(chr(ord("a") + i) * 16 for i in range(donors))
    options: dict[str, Any] = {
        "scale": "smoke",
        "decisive": False,
        "setting": replace(SETTING, donors=ids),
        "replicates": 5,
        "text": {"source": "x", "sha256": "t" * 64},
        "donor_records": tuple({"index": i + 1} for i in range(donors)),
        "given": False,
        "table": table,
        "audit": True,
        "rates": rates,
    }
    return declare(**options | changes)


@pytest.mark.parametrize(
    "run", [RUN, replace(RUN, arm=Arm("later", after="donor"), parent=RUN)], ids=["first", "later"]
)
def test_an_id_is_the_recipes_hash(run: Run) -> None:
    """The recipe's text is put together from parts; it is still its canonical JSON."""
    assert run.id == digest(run.recipe)[:16]
    assert run.recipe.get("parent") == (run.parent and run.parent.id)


def test_ids_are_pinned() -> None:
    """An id that changes silently orphans every store; raise the recipe's ``schema`` and pin anew."""
    middle = Arm("middle", recipe={"select": "middle"}, controls=("rotated", "random"), core="values")
    found = {
        "run": RUN.id,
        "run, every field": Run(SETTING, middle, "frozen", Rates(3e-3, 1e-1), "tune", 0).id,
        "donor": DonorRecipe(MODEL, "t" * 64, 32, 8, 20, RATES, windows=8, index=1).id,
        "overlap": OverlapTask("a" * 16, "b" * 16, "25%", "permute").id,
    }
    assert found == GOLDEN


@pytest.mark.parametrize("change", [{"description": "x"}, {"tuned_as": "donor"}, {"replicates": 3}], ids=str)
def test_circumstance_is_not_in_the_id(change: dict[str, Any]) -> None:
    assert replace(RUN, arm=replace(RUN.arm, **change)).id == RUN.id


def test_replicates_share_an_id_and_differ_by_folder() -> None:
    assert replace(RUN, replicate=2).id == RUN.id


@pytest.mark.parametrize(
    "change",
    [
        {"embeddings": "frozen"},
        {"split": "tune"},
        {"rates": Rates(1e-2, 1e-2)},
        {"arm": Arm("other")},
        {"arm": Arm("donor", controls=("random",))},
        {"arm": Arm("donor", core="values")},
        {"arm": Arm("donor", donor=0)},
        {"arm": Arm("donor", draw=1)},
        {"arm": Arm("donor", recipe={"fold_norms": True})},
        {"setting": replace(SETTING, steps=6)},
        {"setting": replace(SETTING, tokens="u" * 64)},
        {"setting": replace(SETTING, donors=("b" * 16, "a" * 16))},
        {"setting": replace(SETTING, precision="bf16")},
        {"setting": replace(SETTING, optimizer="muon")},
        {"setting": replace(SETTING, model=MODEL | {"hidden_size": 64})},
    ],
    ids=str,
)
def test_science_is_in_the_id(change: dict[str, Any]) -> None:
    assert replace(RUN, **change).id != RUN.id


def test_order_of_model_keys_is_not_in_the_id() -> None:
    assert replace(RUN, setting=replace(SETTING, model=dict(reversed(MODEL.items())))).id == RUN.id


RATES_OF_ALL = {"fresh": dict.fromkeys(("donor", "random", "rotated", "coherent", "dense"), RATES)}


@pytest.mark.parametrize(
    "declared",
    [experiment(), experiment("full"), experiment("full", donors=1, given=True), experiment(rates=RATES_OF_ALL)],
    ids=["primary", "full", "one given", "fixed rates"],
)
def test_declaration_survives_its_file(declared: Experiment) -> None:
    again = from_json(json.loads(canonical_json(asdict(declared))))
    assert again == declared
    assert canonical_json(asdict(again)) == canonical_json(asdict(declared))
    for (mode, arm), (mode2, arm2) in zip(declared.cells(), again.cells(), strict=True):
        assert [r.id for r in declared.runs(mode, arm, RATES)] == [r.id for r in again.runs(mode2, arm2, RATES)]
        assert declared.tuning_run(mode, arm, RATES).id == again.tuning_run(mode2, arm2, RATES).id
        assert arm.description == arm2.description


def test_crossed_donor_of_a_replicate_is_the_plain_arms_run() -> None:
    """E6: donor i on the streams of replicate r is already run where i is r's own donor."""
    declared = experiment("full", donors=3)
    plain = {r.replicate: r.id for r in declared.runs("fresh", declared.arm("donor"), RATES)}
    for i in range(3):
        runs = declared.runs("fresh", declared.arm(f"donor {i + 1}"), RATES)
        assert [r.replicate for r in runs] == [1, 2, 3, 4, 5]
        assert [r.id == plain[r.replicate] for r in runs] == [(r - 1) % 3 == i for r in (1, 2, 3, 4, 5)]


def test_common_draw_of_replicate_1_is_the_random_arms_run() -> None:
    declared = experiment(donors=3)
    (plain, *_) = declared.runs("fresh", declared.arm("random"), RATES)
    first, second = (declared.runs("fresh", declared.arm(f"draw {i}"), RATES) for i in (1, 2))
    assert first == [plain]
    assert [r.replicate for r in second] == [1]
    assert second[0].id != plain.id


def test_at_most_six_primary_contrasts_a_mode() -> None:
    for declared in (experiment(), experiment("full")):
        for mode in declared.embeddings:
            primary = [c.name for c in declared.contrasts if c.embeddings == mode and c.primary]
            assert 1 <= len(primary) <= 6
            assert len(set(primary)) == len(primary)


def test_every_contrast_has_its_arms() -> None:
    for declared in (experiment(), experiment("full"), experiment("full", donors=1, given=True)):
        for contrast in declared.contrasts:
            assert {contrast.control, contrast.treatment} <= set(declared.embeddings[contrast.embeddings])


def test_arms_a_single_donor_cant_have_are_listed_with_the_reason() -> None:
    declared = experiment("full", donors=1, given=True)
    assert {"chimera", "mean-only", "step-0", "E6", "E7"} == set(declared.not_applicable)
    assert "several donors" in declared.not_applicable["chimera"]
    assert not {"chimera", "mean-only"} & {arm.name for arm in declared.arms}
    assert declared.single_checkpoint
    assert {"chimera", "mean-only"} <= {arm.name for arm in experiment("full").arms}


def test_demo_runs_five_arms_with_fresh_embeddings() -> None:
    declared = experiment(scale="demo")
    assert {k: set(v) for k, v in declared.embeddings.items()} == {
        "fresh": {"donor", "random", "rotated", "coherent", "dense"}
    }
