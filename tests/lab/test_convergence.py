"""The experiment itself: what it declares, and the question that a user brings, on a real checkpoint."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import smoke

from ontogeny.genome.controls import CONTROLS
from ontogeny.lab.claims import load_claims
from ontogeny.lab.experiment import Experiment, Setting
from ontogeny.lab.experiments.arms import ATTRIBUTION, CELLS, OTHERS, PRIMARY
from ontogeny.lab.experiments.convergence import RULES, attributed, crossed_losses, declare, equivalence, overlaps
from ontogeny.lab.judge import assess
from ontogeny.lab.store import Store, open_store
from ontogeny.terminal.lab import run_experiment

ALL = PRIMARY | ATTRIBUTION | OTHERS


def experiment(table: str, donors: int = 5, given: bool = False) -> Experiment:
    setting = Setting({}, "", tuple(map(str, range(donors))), "25%", 64, 32, 400, (400,), 256)
    options: dict[str, Any] = {"scale": "laptop", "decisive": True, "setting": setting, "replicates": 5, "text": {}}
    return declare(**options, donor_records=(), given=given, table=table, audit=True)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return smoke.smoke_store(tmp_path_factory)


def test_primary_table() -> None:
    declared = experiment("primary")
    five = {"donor", "random", "rotated", "coherent", "dense"}
    assert set(declared.embeddings) == {"fresh", "frozen"}
    assert set(declared.embeddings["frozen"]) == five
    assert set(declared.embeddings["fresh"]) - five == {
        f"{kind} {i}" for kind in ("donor", "draw") for i in range(1, 6)
    }


def test_full_table() -> None:
    declared = experiment("full")
    assert set(ALL) == {arm.name for _, arm in declared.cells() if arm.tuned_as is None}
    assert set(declared.embeddings) == {"fresh", "frozen", "trainable"}
    assert set(CELLS.values()) < set(declared.embeddings["frozen"]), "the attribution is one mode's"


@pytest.mark.parametrize("name", list(ALL))
def test_arms_are_named_after_themselves_and_use_known_controls(name: str) -> None:
    assert ALL[name].name == name
    assert set(ALL[name].controls) <= set(CONTROLS)
    assert all(CONTROLS[control].kind == "subspace" for control in ALL[name].controls)


def test_attribution_cells() -> None:
    """The arm of a cell destroys exactly the factors that the cell doesn't keep."""
    destroys = {"layers": "layer-shuffled", "frame": "rotated", "internal": "residual-only"}
    assert len(CELLS) == 8
    for kept, name in CELLS.items():
        assert set(ALL[name].controls) == {control for factor, control in destroys.items() if factor not in kept}


def test_checks_are_marked() -> None:
    """What is null by symmetry is no evidence: never primary."""
    checks = {(c.embeddings, c.control) for c in experiment("full").contrasts if c.check}
    assert {("fresh", "rotated"), ("fresh", "in-subspace")} <= checks
    assert not any(c.check and c.primary for c in experiment("full").contrasts)


def test_every_claim_it_answers_has_its_rule() -> None:
    assert {claim.id for claim in load_claims() if claim.experiment == "convergence"} <= set(RULES)


def test_crossed_losses_share_the_replicates_runs(store: Store) -> None:
    assessment = assess(smoke.declared(store), store)
    crossed = crossed_losses(assessment)
    assert crossed is not None
    assert crossed.shape == (1, 2), "streams × donors"
    assert crossed[0, 0] == assessment.arms["fresh", "donor"].losses[0]
    assert crossed[0, 1] == assessment.arms["fresh", "donor 2"].losses[0]
    assert equivalence(assessment) is not None
    assert attributed(assessment) is None, "its cells are in the full table"


def test_overlaps_are_measured_raw_and_aligned(store: Store) -> None:
    found = overlaps(assess(smoke.declared(store), store), store)
    assert set(found) == {"none", "permute", "orthogonal"}
    rows = found["none"][0]["rows"]
    assert len(rows) == 28, "14 sites, two sides"
    assert all(0 <= row["overlap"] <= 1 for row in rows)
    assert sum(row["z"] for row in rows) / len(rows) < 3, "donors of four steps share nothing"


# A user's own checkpoint --------------------------------------------------------------------------------------

SETTINGS = ("rank=50%", "steps=2", "evaluate_at=2", "batch=2", "windows=32", "replicates=1")


@pytest.fixture(scope="module")
def own_run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """``run convergence --donor stories260K --text fiction.txt`` cut to seconds: its store and what it printed."""
    import contextlib
    import io

    root, shown = tmp_path_factory.mktemp("own"), io.StringIO()
    donor, text = shared / "checkpoints" / "stories260K", shared / "text" / "fiction.txt"
    with contextlib.redirect_stdout(shown), pytest.MonkeyPatch.context() as patch:
        smoke.one_rate(patch)
        run_experiment("convergence", "smoke", root, SETTINGS, donors=[str(donor)], text=[str(text)], engine="local")
    return open_store(root), shown.getvalue()


@pytest.fixture
def own(own_run: tuple[Store, str], monkeypatch: pytest.MonkeyPatch) -> tuple[Store, str]:
    smoke.one_rate(monkeypatch)  # as when it ran
    return own_run


def test_own_checkpoint_is_measured_first(own: tuple[Store, str]) -> None:
    """About 4.06 nats on this text, above the bigram's about 3.30."""
    line = next(line for line in own[1].splitlines() if "its own loss" in line)
    match = re.search(r"stories260K: its own loss on this text is (\S+) nats a token, above the bigram \((\S+)\)", line)
    assert match
    assert float(match[1]) == pytest.approx(4.06, abs=0.25)
    assert float(match[2]) == pytest.approx(3.35, abs=0.25)
    assert "read what follows with care" in own[1]


def test_own_checkpoint_sets_the_shape(own: tuple[Store, str], shared: Path) -> None:
    declared = smoke.declared(own[0])
    config = json.loads((shared / "checkpoints" / "stories260K" / "config.json").read_text())
    assert declared.setting.model == config
    assert declared.single_checkpoint
    assert {mode: set(names) for mode, names in declared.embeddings.items()} == {
        mode: set(PRIMARY) for mode in ("fresh", "frozen")
    }
    assessment = assess(declared, own[0])
    assert assessment.complete
    dense = assessment.arms["fresh", "dense"]
    assert dense.trainable_parameters == dense.parameters


def test_own_checkpoint_starts_near_ln_v(own: tuple[Store, str]) -> None:
    """Also inside its own trained head: the one scalar a donor."""
    assessment = assess(smoke.declared(own[0]), own[0])
    for arm in assessment.arms.values():
        assert arm.step0 == pytest.approx(6.24, abs=0.25), (arm.embeddings, arm.arm)


def test_own_checkpoint_says_what_one_donor_cant(own: tuple[Store, str]) -> None:
    shown = " ".join(own[1].split())
    assert "one donor: nothing to compare it with" in shown
    assert "undecided (smoke)" in shown
    for words in ("against random", "against dense", "against coherent"):
        assert words in shown or words.replace("against", "than") in shown
    assert not any(result["kind"] == "overlap" for result in own[0].results())
