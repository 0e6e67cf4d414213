"""What is evaluated, to the run's history; and with ``--track`` to a tracker that Accelerate knows as well."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ontogeny.canonical import canonical_json
from ontogeny.errors import InputError, choose
from ontogeny.files import replacing
from ontogeny.lab.networks import Lab
from ontogeny.training import together
from ontogeny.training.train import TrainConfig

PROJECT = "ontogeny"  # of trackers that keep their own folders
Rows = list[dict[str, Any]]
Tell = Callable[[Rows], None]  # what ``train`` calls with the evaluated rows so far


def check_tracker(name: str) -> None:
    """InputError for a tracker that Accelerate doesn't know, or whose package isn't installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    choose(name, LOGGER_TYPE_TO_CLASS, "--track")
    if name not in map(str, get_available_trackers()):
        raise InputError(f"--track {name}: its package isn't installed: pip install {name}")


@contextmanager
def telling(directory: Path, name: str, config: TrainConfig, lab: Lab) -> Iterator[Tell]:
    """What writes the evaluated rows to the run's history, and tracks those that are new.

    ``name``: of the run, in the tracker. Tracked are all evaluated numbers, and the peak learning rates.
    """
    trackers: list[Any] = []  # started with the first rows, so by process 0 alone
    done = 0

    def tell(rows: Rows) -> None:
        nonlocal done
        write_history(directory, rows)
        if lab.track and not trackers:
            trackers.append(_start(lab.track, name, lab.store.root / "tracking", config))
        for tracker in trackers:
            for row in rows[done:]:
                values = {key: value for key, value in row.items() if key != "step" and value is not None}
                rates = {"body_rate": config.body_rate, "rest_rate": config.rest_rate}
                tracker.log(values | rates, step=row["step"])
        done = len(rows)

    try:
        yield tell
    finally:
        for tracker in trackers:
            tracker.finish()


def _start(kind: str, name: str, folder: Path, config: TrainConfig) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    together.accelerator()  # trackers ask it which process they are in
    tracker = LOGGER_TYPE_TO_CLASS[kind]
    if tracker.requires_logging_directory:
        found = tracker(name, folder)
        found.start()
        return found
    found = tracker(PROJECT)
    found.start()
    found.store_init_configuration({"run": name, "steps": config.steps})
    return found


def write_history(directory: Path, rows: Rows) -> None:
    """The evaluated steps so far as ``history.jsonl``, whole or not at all."""
    with replacing(directory / "history.jsonl", lasting=False) as temporary:
        temporary.write_text("".join(canonical_json(row) + "\n" for row in rows))
