"""Newborn: planted knowledge at birth, in the loss and in what can be read."""

from pathlib import Path

import planted
import pytest
from reported import csv_of, sketches
from test_experiments import declared

from ontogeny.benchmarks.made_up import conduct as conduct_made_up
from ontogeny.benchmarks.made_up import outlined
from ontogeny.files import read_json, write_json
from ontogeny.lab.conduct import evaluated_runs
from ontogeny.lab.experiment import Experiment
from ontogeny.lab.experiments import newborn
from ontogeny.lab.judge import assess
from ontogeny.lab.report.page import write_report
from ontogeny.lab.store import Store, open_store
from ontogeny.streams import numpy_stream

UNIFORM = planted.REFERENCES["uniform"]


ERRORS = {"opened paired": 0.5}  # ordered pairs give something away, so that the test sees


def at_birth(store: Store, experiment: Experiment, errors: dict[str, float], embedded: float = 0.75) -> None:
    """Readout errors before the first step by arm, 0.7 where not said."""
    for (mode, name), runs in evaluated_runs(experiment, store).items():
        for run in runs:
            noise = 0.001 * float(numpy_stream(run.replicate, mode, name).standard_normal())
            rows = {"seen": UNIFORM, "probe": (ERRORS | errors).get(name, 0.7) + noise}
            rows |= {"guess": 0.9, "alignment": 0.1, "embedded": embedded}
            further = {key: [[0, value], [50, value]] for key, value in rows.items()}
            path = store.result_path(run.id, run.replicate)
            write_json(path, read_json(path) | {"further": further})


CASES: list[tuple[dict[str, float], float, dict[str, str]]] = [
    ({}, 0.75, {"G20": "supported", "G36": "refuted"}),
    ({"opened": 0.6, "donor scaled": 0.6}, 0.75, {"G20": "refuted", "G36": "supported"}),
    ({"opened paired": 0.7}, 0.7, {"G20": "undecided", "G36": "undecided"}),
    ({"donor scaled": 0.95, "random scaled": 0.97}, 0.75, {"G36": "undecided"}),
]


@pytest.mark.parametrize(("errors", "embedded", "words"), CASES)
def test_what_is_known_at_birth(
    errors: dict[str, float], embedded: float, words: dict[str, str], tmp_path: Path
) -> None:
    store, experiment = open_store(tmp_path), declared("newborn")
    planted.plant(store, experiment, lambda mode, arm, replicate: 3.0)
    at_birth(store, experiment, errors, embedded)
    found = newborn.findings(assess(experiment, store), store)
    assert {claim: found[claim]["verdict"].split(" (")[0] for claim in words} == words


def test_figure_and_table(tmp_path: Path) -> None:
    store, experiment = open_store(tmp_path / "store"), outlined("newborn")
    conduct_made_up(experiment, store)
    at_birth(store, experiment, {"donor": 0.6})
    with sketches():
        paths = write_report(store, tmp_path / "r.html")
    rows = csv_of(paths, "-at-birth.csv")
    assert {(row["embeddings"], row["arm"]) for row in rows} == {
        (mode, arm) for mode, arms in experiment.embeddings.items() for arm in arms
    }
    assert any(path.name.endswith("-readout.png") for path in paths)
