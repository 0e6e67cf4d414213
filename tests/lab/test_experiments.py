"""Every experiment of the table: what it declares holds together, what it concludes follows from planted effects."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import planted
import pytest
import smoke

from ontogeny.canonical import canonical_json, plain
from ontogeny.errors import InputError
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiment import Experiment, from_json
from ontogeny.lab.experiments import EXPERIMENTS, phases
from ontogeny.lab.judge import assess
from ontogeny.lab.prepare import find_scale, find_variants, outline
from ontogeny.lab.scales import SCALES
from ontogeny.lab.store import open_store
from ontogeny.streams import numpy_stream

TABLES = [(name, table) for name in EXPERIMENTS for table in ("primary", "full")]
PUBLISHED = tuple(name for name in EXPERIMENTS if name != "convergence")  # which has tests of its own


def declared(name: str, table: str = "primary", scale: str = "laptop") -> Experiment:
    """An experiment as declared at a scale, with donors of distinct ids in every family."""
    found = outline(name, find_scale(name, scale), [], table)
    settings = {
        key: replace(setting, donors=tuple(f"{key}{donor}" for donor in setting.donors))
        for key, setting in found.all_settings().items()
    }
    others = {"": "B", "B": ""} if name == "data" else {}
    settings |= {key: replace(settings[key], others=settings[other].donors) for key, other in others.items()}
    return replace(found, setting=settings.pop(""), settings=settings)


@pytest.mark.parametrize(("name", "table"), TABLES)
@pytest.mark.parametrize("scale", list(SCALES))
def test_a_declaration_holds_together(name: str, table: str, scale: str) -> None:
    if (name, scale) == ("convergence", "demo"):
        pytest.skip("fixed rates: tested with the demo")
    found = declared(name, table, scale)
    arms = {arm.name: arm for arm in found.arms}
    assert len(arms) == len(found.arms)
    for mode, names in found.embeddings.items():
        contrasts = [c for c in found.contrasts if c.embeddings == mode]
        assert sum(c.primary for c in contrasts) <= 6
        assert {n for c in contrasts for n in (c.control, c.treatment)} <= set(names) <= set(arms)
        for name_ in names:
            arm = arms[name_]
            assert {arm.tuned_as or name_, arm.after or name_} <= set(names)
            assert not arm.tuned_as or arms[arm.tuned_as].tuned_as is None, "rates come from an arm that is tuned"
            assert found.setting_of(arm).donors
    assert len({c.name for c in found.contrasts}) == len(found.contrasts)
    assert from_json(plain(found)) == found
    assert canonical_json(from_json(plain(found))) == canonical_json(found)


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_arms_of_a_declaration_differ(name: str, table: str) -> None:
    """No two arms of a mode are the same run under two names, but for donors and draws that are the replicate's own."""
    found = declared(name, table)
    recipes = [
        canonical_json({"mode": mode, "setting": arm.setting, "recipe": replace(arm, name="", description="")})
        for mode, arm in found.cells()
        if arm.donor is None and arm.draw is None and arm.after == ""
    ]
    shared = [recipe for recipe in recipes if '"tuned_as":null' in recipe]
    assert len(set(shared)) == len(shared)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_stated_in_a_module(name: str) -> None:
    module = EXPERIMENTS[name]
    assert module.TITLE.endswith("?")
    assert len(module.FLAW) > 40
    claims = {claim.id for claim in load_claims() if claim.experiment == name}
    assert claims, "the ledger names the experiment"
    assert claims <= set(module.RULES) | {"E20"}, "every claim has its rule before its run"


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_scale_is_costed_without_the_network(name: str) -> None:
    preset = find_scale(name, "paper")
    assert preset.not_stated
    assert find_variants(name, preset, "full", given=False)
    outline(name, preset, [], "full")


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_is_concluded_from_nothing(name: str, tmp_path: Path) -> None:
    found = EXPERIMENTS[name].findings(assess(declared(name), open_store(tmp_path)), open_store(tmp_path))
    assert found
    assert {finding["verdict"] for finding in found.values()} == {"not run"}


Losses = Callable[[str], float]


def conclude(name: str, losses: Losses, tmp_path: Path, table: str = "primary") -> Mapping[str, Mapping[str, str]]:
    """The findings from planted mean losses by arm, sd 0.002 over replicates, rates a bowl around the start."""
    experiment, store = declared(name, table), open_store(tmp_path)

    def loss(mode: str, arm: str, replicate: int) -> float:
        return losses(arm) + 0.002 * float(numpy_stream(replicate, mode, arm).standard_normal())

    def tune(mode: str, arm: str, rates: Any) -> float:
        return losses(arm) + planted.tuned(mode, "dense", rates)

    assessment = planted.plant(store, experiment, loss, tune)
    found: Mapping[str, Mapping[str, str]] = EXPERIMENTS[name].findings(assessment, store)
    return found


def sparsity(shape: Callable[[float], float]) -> Losses:
    """Masks at 3.0, uniform ones worse by a function of the sparsity, the others half as much."""

    def loss(arm: str) -> float:
        kind, _, size = arm.partition(" ")
        worse = shape(int(size.split("%")[0]) / 100) if size else 0.0
        share: float = {"magnitude": 0.0, "uniform": 1.0}.get(kind, 0.5)
        return 3.0 + share * worse

    return loss


def by_name(losses: Mapping[str, float], otherwise: float = 3.0) -> Losses:
    return lambda arm: losses.get(arm, otherwise)


def at_both_rates(*worse: str) -> Losses:
    """Arms of a second phase that end worse, at their rates and at a third of them."""
    return by_name({name: 3.2 for arm in worse for name in (arm, phases.slower(arm))})


FLAT = by_name({})
CASES: list[tuple[str, str, Losses, dict[str, str]]] = [
    ("sparsity", "primary", sparsity(lambda s: 0.0), {"E1": "refuted", "E2": "refuted"}),
    ("sparsity", "primary", sparsity(lambda s: 0.0002 * 2.718 ** (7 * s)), {"E1": "supported", "E2": "supported"}),
    ("sparsity", "primary", sparsity(lambda s: 0.01 * (1 - s) ** -1.1), {"E1": "supported", "E2": "refuted"}),
    ("rank", "primary", FLAT, {"E11": "undecided", "E22": "refuted"}),
    (
        "rank",
        "primary",
        by_name({"random d128 10%": 3.2}),
        {"E11": "supported", "E22": "refuted"},
    ),
    (
        "rank",
        "primary",
        by_name({f"random d128 {rank}": 3.2 for rank in ("10%", "30%", "k8")}),
        {"E11": "refuted", "E22": "supported"},
    ),
    ("rank", "primary", by_name({"random d128 k8": 3.2}), {"E11": "undecided", "E22": "undecided"}),
    ("rank", "full", by_name({"random d256 10%": 3.2}), {"E11": "supported", "E22": "refuted"}),
    ("extraction", "primary", FLAT, {"E5": "refuted", "E20": "supported"}),
    ("extraction", "primary", by_name({"random d96": 3.2}), {"E5": "supported"}),
    ("extraction", "primary", by_name({"random d96": 3.2, "mask-random d96": 3.2}), {"E5": "refuted"}),
    ("extraction", "primary", by_name({"values-permuted d96": 3.2}), {"E20": "refuted"}),
    ("extraction", "primary", FLAT, {"E24": "refuted"}),
    (
        "extraction",
        "primary",
        lambda arm: 3.2 if arm.startswith("random") else 3.0,
        {"E24": "supported"},
    ),
    ("stage2", "primary", FLAT, dict.fromkeys(("E19", "G18", "G27", "S13"), "refuted")),
    ("stage2", "primary", by_name({"scratch": 3.2}), {"E19": "undecided", "G18": "supported", "G27": "refuted"}),
    ("stage2", "primary", by_name({"scratch": 3.2, "random": 3.2}), {"E19": "supported"}),
    ("stage2", "primary", by_name({"scratch": 3.2, "random": 3.2, "distilled": 2.9}), {"E19": "undecided"}),
    ("stage2", "primary", by_name({"subset-body 1/16": 3.2, "subset 1/16": 2.9}), {"S13": "undecided"}),
    (
        "stage2",
        "primary",
        by_name(dict.fromkeys(("scratch 1/16", "random 1/16", "subset-body 1/16"), 3.2)),
        {"G27": "supported", "S13": "supported", "E19": "refuted"},
    ),
    ("phases", "primary", FLAT, {"G30": "not run", "G32": "refuted", "G37": "refuted"}),
    ("phases", "primary", at_both_rates("donor released", "donor start kept"), {"G32": "supported"}),
    (
        "phases",
        "primary",
        by_name({"donor released": 3.2, "donor start kept": 3.2, phases.slower("donor released"): 2.9}),
        {"G32": "undecided"},
    ),
    (
        "phases",
        "primary",
        at_both_rates("donor released", "donor start kept", "random released", "random start kept"),
        {"G32": "undecided"},
    ),
    ("phases", "primary", at_both_rates("at once on B", "at once, even on B"), {"G37": "supported"}),
    ("phases", "primary", at_both_rates("at once on B", "at once"), {"G37": "refuted"}),
    ("economy", "primary", FLAT, {"G16": "undecided", "G17": "undecided", "G39": "refuted"}),
    (
        "economy",
        "primary",
        by_name({"random": 3.2, "sparse": 3.2}),
        {"G16": "supported", "G17": "supported", "G39": "supported"},
    ),
    ("economy", "primary", by_name({"small": 3.1, "sparse": 3.3, "flashlight": 3.2}), {"G39": "undecided"}),
    ("economy", "primary", by_name({"random": 3.2, "donor 2 bit": 3.2}), {"G17": "refuted"}),
    ("economy", "primary", by_name({"random": 3.2, "donor 2 bit": 3.1}), {"G17": "undecided"}),
    ("economy", "primary", by_name({"dense": 2.9}), {"G16": "refuted"}),
    ("profile", "primary", FLAT, {"E17": "refuted"}),
    ("profile", "primary", by_name({"profile": 3.2, "neither": 3.2}), {"E17": "supported"}),
    ("data", "primary", FLAT, {"E16": "undecided"}),
    ("data", "primary", by_name({"random": 3.2, "random B": 3.2}), {"E16": "supported"}),
    ("data", "primary", by_name(dict.fromkeys(("random", "random B", "swapped B"), 3.2)), {"E16": "refuted"}),
    ("crossmodal", "primary", FLAT, {"E3": "refuted", "E18": "refuted", "E4": "refuted", "E21": "undecided"}),
    (
        "crossmodal",
        "primary",
        by_name({"mask-random": 3.2, "random": 3.2}),
        {"E3": "supported", "E18": "supported", "E21": "not run"},
    ),
    (
        "crossmodal",
        "full",
        lambda arm: 3.2 if arm.startswith("mask-random") else 3.0,
        {"E3": "supported", "E21": "refuted", "E4": "refuted"},
    ),
    (
        "crossmodal",
        "full",
        lambda arm: 3.2 if arm.startswith("mask-random") and "augmented" not in arm else 3.0,
        {"E3": "supported", "E21": "supported"},
    ),
    (
        "crossmodal",
        "full",
        lambda arm: 3.2 if arm.startswith("mask-random") and "bidirectional" not in arm else 3.0,
        {"E3": "supported", "E21": "supported"},
    ),
    ("crossmodal", "primary", by_name({"mask-random d128": 3.2}), {"E4": "supported"}),
]


@pytest.mark.parametrize(("name", "table", "losses", "expected"), CASES)
def test_planted_effects(name: str, table: str, losses: Losses, expected: dict[str, str], tmp_path: Path) -> None:
    found = conclude(name, losses, tmp_path, table)
    assert {claim: found[claim]["verdict"].split(" (")[0] for claim in expected} == expected
    assert all(finding["why"] for finding in found.values())
    words = {finding["verdict"].split(" (")[0] for finding in found.values()}
    assert words <= {"supported", "refuted", "undecided", "not run"}, "no verdict is exploratory"


def test_two_corpora_or_the_embedded_ones(tmp_path: Path) -> None:
    preset = find_scale("data", "smoke")
    with pytest.raises(InputError, match="expected two corpora, found 1; give --text twice"):
        find_variants("data", preset, "primary", ["one.txt"], given=False)
    with pytest.raises(InputError, match="its donors are trained on the two corpora; leave --donor out"):
        find_variants("data", preset, "primary", given=True)
    found = find_variants("data", preset, "primary", ["a", "b"], given=False)
    assert [variant.text for variant in found.values()] == [("a",), ("b",)]
    assert found[""].tokenizer_text == found["B"].tokenizer_text == ("a", "b")
    firsts = [variant.first_donor for variant in found.values()]
    assert firsts == [1, 1 + preset.donors], "no two donors share an initialisation"


LONG = ["steps=12", "evaluate_at=12"]
ALONE = ["replicates=1"]
FURTHER = {"crossmodal": [*ALONE, "test_images=20"], "development": [*ALONE, *LONG]}
FURTHER |= dict.fromkeys(("sparsity", "extraction", "rank", "profile", "newborn", "data"), ALONE)
REAL = ("sparsity", "extraction", "rank", "crossmodal", "profile", "data", "development", "newborn")


@pytest.mark.parametrize("name", REAL)
def test_a_real_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every arm builds, trains and is judged; a second call trains nothing."""
    from ontogeny.terminal.lab import run_experiment

    texts = [str(smoke.write_text(tmp_path / f"{part}.jsonl", seed=part)) for part in range(2 if name == "data" else 1)]
    settings = [*smoke.SETTINGS, *FURTHER.get(name, [])]
    smoke.one_rate(monkeypatch)
    monkeypatch.setattr("ontogeny.lab.probe.FITTED", 512)
    for _ in range(2):
        run_experiment(name, "smoke", tmp_path / "store", settings, text=texts, engine="local")
        told = capsys.readouterr().out
        assert "Verdicts" in told
        assert "undecided (smoke)" in told
    assert "runs" not in told.split("Test ")[0].split("\n")[0], "the second call shows no progress"
