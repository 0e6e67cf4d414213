"""Newborn: planted knowledge at birth, in the loss and in what can be read."""

from pathlib import Path

import planted
import pytest
from reported import conduct as conduct_made_up
from reported import csv_of, outlined
from test_experiments import declared

from ontogeny.files import read_json, write_json
from ontogeny.lab.conduct import evaluated_runs
from ontogeny.lab.experiment import Experiment
from ontogeny.lab.experiments import newborn
from ontogeny.lab.experiments.arms import PRIMARY
from ontogeny.lab.judge import assess
from ontogeny.lab.report.page import write_report
from ontogeny.lab.store import Store, open_store
from ontogeny.streams import numpy_stream

UNIFORM = planted.REFERENCES["uniform"]


def plant(store: Store, experiment: Experiment, seen: dict[str, float], probe: dict[str, float]) -> None:
    """Nats that an arm knows of the donors' text with fresh embeddings, and the readout's error with the donor's."""
    planted.plant(store, experiment, lambda mode, arm, replicate: 3.0)
    at_birth(store, experiment, seen, probe)


def at_birth(store: Store, experiment: Experiment, seen: dict[str, float], probe: dict[str, float]) -> None:
    for (mode, name), runs in evaluated_runs(experiment, store).items():
        for run in runs:
            noise = 0.001 * float(numpy_stream(run.replicate, mode, name).standard_normal())
            rows = {
                "seen": UNIFORM - seen.get(name, 0.0),
                "probe": probe.get(name, 0.7),
                "guess": 0.9,
                "alignment": 0.1,
            }
            further = {key: [[0, value + noise], [50, value + noise]] for key, value in rows.items()}
            path = store.result_path(run.id, run.replicate)
            write_json(path, read_json(path) | {"further": further})


@pytest.mark.parametrize(
    ("seen", "probe", "words"),
    [
        ({}, {}, {"G20": "supported", "G36": "refuted"}),
        ({"donor": 0.1}, {"donor": 0.6}, {"G20": "refuted", "G36": "supported"}),
        ({"donor": 0.1, "random": 0.1}, {"donor": 0.95, "random": 0.97}, {"G20": "refuted", "G36": "undecided"}),
    ],
)
def test_what_is_known_at_birth(
    seen: dict[str, float], probe: dict[str, float], words: dict[str, str], tmp_path: Path
) -> None:
    store, experiment = open_store(tmp_path), declared("newborn")
    plant(store, experiment, seen, probe)
    found = newborn.findings(assess(experiment, store), store)
    assert {claim: found[claim]["verdict"].split(" (")[0] for claim in words} == words


def test_figure_and_table(tmp_path: Path) -> None:
    store, experiment = open_store(tmp_path / "store"), outlined("newborn")
    conduct_made_up(experiment, store)
    at_birth(store, experiment, {}, {"donor": 0.6})
    paths = write_report(store, tmp_path / "r.html")
    rows = csv_of(paths, "-at-birth.csv")
    assert {(row["embeddings"], row["arm"]) for row in rows} == {(m, a) for m in newborn.MODES for a in PRIMARY}
    assert any(path.name.endswith("-readout.png") for path in paths)
