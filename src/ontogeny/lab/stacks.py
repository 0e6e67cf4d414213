"""Several runs in one process, side by side in one stack; each has the result that it would have by itself."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ontogeny.canonical import canonical_json, plain
from ontogeny.files import read_json
from ontogeny.lab.experiment import Run
from ontogeny.lab.networks import Lab
from ontogeny.lab.run import Ready, announce, conclude, learn, make_ready, run, telling_of
from ontogeny.lab.store import RESULT, claim
from ontogeny.model.stack import structure
from ontogeny.training.stacked import Member, train_stack

Stack = tuple[Run, ...]


def stacks(runs: Sequence[Run], size: int) -> list[Stack]:
    """The runs in stacks of at most so many, those of one kind together, in order of their first."""
    kinds: dict[str, list[Run]] = defaultdict(list)
    for index, one in enumerate(runs):
        kinds[(size > 1 and _kind(one)) or str(index)].append(one)
    return [tuple(kind[i : i + size]) for kind in kinds.values() for i in range(0, len(kind), size)]


def _kind(run: Run) -> str | None:
    """What runs of a stack have alike; None where a run has to be by itself.

    What is trained otherwise than straight on the next token: by cool-downs, developing, taught, or on images.
    """
    setting, arm = run.setting, run.arm
    if setting.horizons or setting.vision or arm.develop is not None or arm.teacher:
        return None
    shapes = [
        arm.constraint,
        arm.reading,
        arm.core,
        arm.recipe,
        arm.top,
        arm.weight_decay,
        arm.rescue,
        bool(run.parent),
    ]
    return canonical_json([plain(setting), run.embeddings, run.split, shapes])


def run_stack(runs: Stack, lab: Lab) -> list[dict[str, Any]]:
    """``run`` for several runs at once: what is stored is read, what isn't trains side by side.

    Networks that turn out to differ in structure train in a stack with their like, or alone.
    """
    if len(runs) == 1:
        return [run(runs[0], lab)]
    directories = {lab.store.run_directory(one.id, one.replicate): one for one in runs}
    with ExitStack() as held:
        for directory in sorted(directories):  # in one order, so that of two that share runs one gets all
            held.enter_context(claim(directory))
        alike: dict[str, dict[Path, Ready]] = defaultdict(dict)
        for directory, one in directories.items():
            if not (directory / RESULT).exists():
                ready = make_ready(one, lab)
                alike[structure(ready.model) or str(directory)][directory] = ready
        for group in alike.values():
            _train(group, directories, lab)
    return [read_json(directory / RESULT) for directory in directories]


def _train(group: Mapping[Path, Ready], runs: Mapping[Path, Run], lab: Lab) -> None:
    for directory in group:
        announce(runs[directory], lab, stack=len(group))
    with ExitStack() as open_:
        tell = {d: open_.enter_context(telling_of(runs[d], ready, lab)) for d, ready in group.items()}
        if len(group) == 1:
            directory, ready = next(iter(group.items()))
            ended = [learn(ready, runs[directory], lab, tell[directory])]
        else:
            members = [
                Member(ready.model, ready.task.batches, ready.config, ready.task.evaluate, d / "checkpoint", tell[d])
                for d, ready in group.items()
            ]
            ended = [(history, {}) for history in train_stack(members)]
    for (directory, ready), (history, developed) in zip(group.items(), ended, strict=True):
        conclude(ready, history, developed, runs[directory], lab)
