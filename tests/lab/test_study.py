"""Studies: declared, computed once, stored, judged and shown like the experiments on networks."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from command_line import command, refused
from reported import sketches

from ontogeny.canonical import plain
from ontogeny.errors import InputError
from ontogeny.lab.answers import Answer
from ontogeny.lab.engines import local
from ontogeny.lab.experiments import STUDIES
from ontogeny.lab.findings import findings, store_findings
from ontogeny.lab.statistics import Verdict, student_interval
from ontogeny.lab.store import Store, open_store
from ontogeny.lab.study import (
    Condition,
    Measurements,
    conduct_study,
    declare_study,
    gather,
    judge_measured,
    study_from_json,
)
from ontogeny.streams import numpy_stream


@dataclass(frozen=True)
class Settings:
    replicates: int
    sizes: tuple[int, ...]
    noise: float


CALLS: list[int] = []


def compute(options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    CALLS.append(seed)
    draw = numpy_stream(seed, "draw").normal()
    return {"size": options["size"], "value": options["size"] + options["noise"] * draw, "path": [1.0, draw]}


def conditions(settings: Settings) -> Iterator[Condition]:
    for size in settings.sizes:
        yield Condition(f"size {size}", {"size": size, "noise": settings.noise})


def grows(found: Measurements) -> Answer:
    interval = student_interval(found.values("size 2", "value") - found.values("size 1", "value"))
    verdict = judge_measured([interval], delta=0.5, decisive_scale=found.experiment.decisive)
    return Answer(f"{interval.mean:+.3f}", verdict, verdict.code or "it grows")


@pytest.fixture
def toy() -> Iterator[ModuleType]:
    """A study of two conditions, in place of ``selection``."""
    module = ModuleType("toy")
    module.__dict__.update(
        NAME="selection", TITLE="Does it grow?", FLAW="none was published", VERSION=1, RULES={"S1": "the rule of S1"},
        SCALES={"smoke": Settings(2, (1, 2), 0.1), "laptop": Settings(5, (1, 2), 0.1)},
        conditions=conditions, compute=compute, ANSWERS={"S1": grows},
    )  # fmt: skip
    CALLS.clear()
    with patch.dict(STUDIES, {"selection": module}):
        yield module


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def run(module: ModuleType, store: Store, scale: str = "laptop") -> Measurements:
    study = declare_study(module, scale)
    store.declare(plain(study))
    with local(1) as mapper:
        conduct_study(study, module.compute, store, mapper, lambda *_: None)
    return gather(study, store)


def test_a_rerun_computes_nothing(toy: ModuleType, store: Store) -> None:
    first = run(toy, store)
    assert len(CALLS) == 10
    assert run(toy, store) == first
    assert len(CALLS) == 10
    assert first.complete
    (store.result_path(first.experiment.runs()[0].id, 1)).unlink()
    assert not gather(first.experiment, store).complete
    run(toy, store)
    assert len(CALLS) == 11


def test_conditions_of_a_replicate_share_their_streams(toy: ModuleType, store: Store) -> None:
    found = run(toy, store)
    one, two = (found.values(f"size {size}", "value") for size in (1, 2))
    np.testing.assert_allclose(two - one, 1.0)  # the same draw in both
    assert len(set(one)) == 5  # another one in every replicate
    assert found.values("size 1", "path").shape == (5, 2)


def test_ids_are_of_options_and_version_alone(toy: ModuleType) -> None:
    study = declare_study(toy, "laptop")
    one = study.runs()[0]
    assert one.id == "fe56c6fb96f6f685"
    assert replace(one, condition=Condition("another name", one.condition.options)).id == one.id
    assert replace(one, version=2).id != one.id
    assert replace(one, replicate=3).id == one.id
    assert study_from_json(json.loads(json.dumps(plain(study)))) == replace(study, settings=plain(study.settings))


def test_settings_are_checked(toy: ModuleType) -> None:
    assert declare_study(toy, "laptop", ["replicates=7", "sizes=3,1", "noise=0.5"]).settings == {
        "replicates": 7,
        "sizes": [1, 3],
        "noise": 0.5,
    }
    for setting in ("replicates=0", "noise=-1", "noise=nan", "sizes=a", "other=1", "replicates"):
        with pytest.raises(InputError, match="--set"):
            declare_study(toy, "laptop", [setting])
    with pytest.raises(InputError, match="it runs at smoke, laptop"):
        declare_study(toy, "paper")


def test_reasons_are_a_studys_own(toy: ModuleType, store: Store) -> None:
    toy.__dict__["ANSWERS"] = {"S1": lambda _: Answer("", Verdict("undecided", "gate"), "gate")}
    assert findings(run(toy, store), store)["S1"]["why"] == "what its rule asks for first isn't met"


def test_the_ledger_has_its_answer(toy: ModuleType, store: Store) -> None:
    run(toy, store, "smoke")
    assert store_findings(store)["S1"]["verdict"] == "undecided (smoke)"
    found = run(toy, store)
    answer = store_findings(store)["S1"]
    assert (answer["verdict"], answer["measured"]) == ("supported (laptop)", "+1.000")
    store.result_path(found.experiment.runs()[3].id, found.experiment.runs()[3].replicate).unlink()
    assert store_findings(store)["S1"]["verdict"] == "undecided (smoke)"  # the unfinished one has none


def test_the_command_line_runs_shows_and_exports_it(toy: ModuleType, store: Store, tmp_path: Path) -> None:
    options = ("selection", "--scale", "laptop", "--store", store.root)
    dry = command("run", *options, "--dry-run")
    assert dry.status == 0
    assert "10 left" in dry.out
    assert not store.experiments()
    assert "noise" in command("run", *options, "--describe").out
    done = command("run", *options, "--engine", "local")
    assert done.status == 0, done.error
    assert "supported (laptop)" in done.out
    assert "0 left" in command("run", *options, "--dry-run").out
    status = command("status", "--store", store.root).out
    assert "selection" in status
    assert " 10 " in status
    exported = tmp_path / "selection.jsonl"
    assert command("store", "export", "--store", store.root, "--experiment", "selection", "--out", exported).status == 0
    assert len(exported.read_text().splitlines()) == 11
    assert command("store", "import", exported, "--store", tmp_path / "other").status == 0
    assert store_findings(Store(tmp_path / "other")) == store_findings(store)


def test_the_report_shows_it(toy: ModuleType, store: Store, tmp_path: Path) -> None:
    run(toy, store)
    with sketches():
        assert command("report", "--store", store.root, "--out", tmp_path / "page.html").status == 0
    page = (tmp_path / "page.html").read_text()
    for text in ("Does it grow?", "supported (laptop)", "size 2", "the rule of S1", "10 of 10 runs"):
        assert text in page, text
    (tmp_path / "page.md").write_text("<!-- ontogeny: findings selection -->\n<!-- ontogeny end -->\n")
    with sketches():
        assert command("report", "--store", store.root, "--out", tmp_path / "page.md").status == 0
    assert "**Holds: S1.**" in (tmp_path / "page.md").read_text()
    (tmp_path / "page.md").write_text("<!-- ontogeny: gaps selection -->\n<!-- ontogeny end -->\n")
    assert "a study has none" in refused("report", "--store", store.root, "--out", tmp_path / "page.md")


def test_an_unfinished_one_is_shown_as_such(toy: ModuleType, store: Store, tmp_path: Path) -> None:
    found = run(toy, store)
    store.result_path(found.experiment.runs()[0].id, 1).unlink()
    with sketches():
        assert command("report", "--store", store.root, "--out", tmp_path / "page.html").status == 0
    page = (tmp_path / "page.html").read_text()
    assert "Unfinished: 1 of 10 runs are missing" in page
    assert "not run" in page


@pytest.mark.parametrize("option", [("--donor", "x"), ("--text", "x"), ("--table", "full")])
def test_what_a_study_has_no_use_for_is_refused(option: tuple[str, str], store: Store) -> None:
    line = refused("run", "selection", "--scale", "smoke", "--store", store.root, *option)
    assert option[0] in line
    assert "leave it out" in line


def test_mistakes_are_told(store: Store) -> None:
    assert "it runs at smoke, laptop" in refused("run", "selection", "--scale", "paper", "--store", store.root)
    assert "--engine" in refused("run", "theory", "--scale", "smoke", "--store", store.root, "--engine", "cloud")
    assert "theory" in command("run", "--list").out
