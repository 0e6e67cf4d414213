"""Eight drivers on one store, killed at random: every run is stored once, and none is lost."""

import fcntl
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import children
from conftest import Figure

from ontogeny.lab.engines import local
from ontogeny.lab.store import Store, open_store
from ontogeny.lab.study import Condition, Study, conduct_study, gather
from ontogeny.streams import numpy_stream

DRIVERS, CONDITIONS, REPLICATES = 8, 80, 5
STUDY = Study(
    name="soak",
    title="",
    scale="smoke",
    decisive=False,
    replicates=REPLICATES,
    version=1,
    conditions=tuple(Condition(str(number), {"number": number}) for number in range(CONDITIONS)),
    settings={},
    rules={},
)


class Compute:
    """A run that takes a moment; in ``folder`` who began which, and whoever found another in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, options: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
        name = f"{options['number']}-{seed}"
        with (self.folder / f"{name}.inside").open("a") as inside:
            try:
                fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.note("overlap", name)
            self.note("begun", name)
            time.sleep(0.02)
        return {"number": options["number"], "seed": seed}

    def note(self, what: str, name: str) -> None:
        with (self.folder / what).open("a") as file:  # one short line is appended whole
            file.write(name + "\n")


def driver(store: Store, compute: Compute) -> None:
    with local(1) as mapper:
        conduct_study(STUDY, compute, store, mapper, lambda *progress: None)


def test_no_double_work(tmp_path: Path, figure: Figure) -> None:
    (tmp_path / "notes").mkdir()
    store, compute, rng = open_store(tmp_path / "store"), Compute(tmp_path / "notes"), numpy_stream(0, "drivers")
    drivers = [children.start(driver, store, compute) for _ in range(DRIVERS)]
    killed, stored = 0, 0
    while (found := gather(STUDY, store)).done < found.expected:
        stored = max(stored, found.done)
        assert found.done == stored, "a result is lost"
        time.sleep(float(rng.uniform(0, 0.2)))
        chosen = int(rng.integers(DRIVERS))
        if drivers[chosen].is_alive():
            drivers[chosen].kill()
            killed += children.finish(drivers[chosen]) == -signal.SIGKILL
        drivers[chosen] = children.start(driver, store, compute)
    assert [children.finish(process) for process in drivers] == [0] * DRIVERS
    assert not (compute.folder / "overlap").exists()
    begun = (compute.folder / "begun").read_text().splitlines()
    again = len(begun) - len(set(begun))
    assert len(set(begun)) == CONDITIONS * REPLICATES
    assert again <= killed, "begun again only where its driver was killed"
    for condition, cell in gather(STUDY, store).found.items():
        assert [one and one["number"] for one in cell] == [int(condition)] * REPLICATES
    figure(
        "no double work",
        f"{DRIVERS} drivers, {found.expected} runs, {killed} drivers killed: every run stored exactly once, 0 lost, "
        f"0 by two at once; {again} begun again after their driver was killed",
    )
    assert killed > 20
