"""What to run, declared before it runs: settings, arms, contrasts, experiments, and the runs they ask for.

Everything here is plain data. A run's id is the sha256 of its recipe, so an equal recipe is never run twice.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from ontogeny.canonical import digest
from ontogeny.model.constrain import CoreStart

Embeddings = Literal["fresh", "frozen", "trainable"]
Split = Literal["tune", "test"]


@dataclass(frozen=True)
class Rates:
    """Peak learning rates: *body* for layer matrices, *rest* for embeddings, head, norms and biases."""

    body: float
    rest: float


@dataclass(frozen=True)
class Setting:
    """What all runs of an experiment share. ``tokens`` and ``donors`` are ids; ``windows`` are evaluation windows."""

    model: Mapping[str, Any]
    tokens: str
    donors: tuple[str, ...]
    rank: str
    length: int
    batch: int
    steps: int
    evaluate_at: tuple[int, ...]
    windows: int
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True)
class Arm:
    """One way to make a network.

    ``constraint``: ``subspace`` (a genome through ``controls``; ``recipe`` holds options of Recipe other than the
    setting's rank), ``dense``, ``low-rank`` (trainable, of
    the subspace's rank), ``low-rank-equal`` (of the subspace's number of trainable values) or ``activations``
    (principal directions of the donor's activations). ``donors``: the replicate's own, or all of them for controls
    that mix. ``donor`` and ``draw`` replace the replicate's own donor (from 0) and control draw (from 1). ``tuned_as``
    names the arm that this one equals but for donor or draw, and whose rates it shares. ``replicates``: how many of
    the experiment's it runs on (None: all).
    """

    name: str
    constraint: Literal["subspace", "dense", "low-rank", "low-rank-equal", "activations"] = "subspace"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    donors: Literal["own", "all"] = "own"
    core: CoreStart | Literal["fresh"] = "fresh"
    donor: int | None = None
    draw: int | None = None
    tuned_as: str | None = None
    replicates: int | None = None
    description: str = field(default="", compare=False)


@dataclass(frozen=True)
class Contrast:
    """gap = loss(control) − loss(treatment), in nats a token: positive favours the treatment.

    ``primary`` contrasts get simultaneous intervals and verdicts. ``check``: null by symmetry, a check of the harness.
    """

    embeddings: Embeddings
    control: str
    treatment: str
    question: str
    primary: bool = True
    check: bool = False

    @property
    def name(self) -> str:
        return f"{self.control} − {self.treatment} ({self.embeddings})"


@dataclass(frozen=True)
class Run:
    """One arm × one replicate at given rates; ``split`` is what it is scored on. Replicate 0 is for tuning alone."""

    setting: Setting
    arm: Arm
    embeddings: Embeddings
    rates: Rates
    split: Split
    replicate: int

    @cached_property
    def id(self) -> str:
        """16 hex digits of the recipe's sha256, the replicate left out."""
        return digest(self.recipe)[:16]

    @property
    def recipe(self) -> dict[str, Any]:
        """What determines the result, as plain JSON."""
        recipe = {key: asdict(getattr(self, key)) for key in ("setting", "arm", "rates")}
        for circumstance in ("description", "tuned_as", "replicates"):
            recipe["arm"].pop(circumstance)
        return recipe | {"embeddings": self.embeddings, "split": self.split, "schema": 1}


@dataclass(frozen=True)
class Experiment:
    """A declared experiment: stored as JSON before its first run, and never changed.

    ``rates``: None to tune every arm by the protocol, or fixed rates by (embeddings, arm) with their origin in
    ``rules``. ``donor_records`` are the donors' names and provenance; ``single_checkpoint``: verdicts are for that one.
    """

    name: str
    title: str
    scale: str
    decisive: bool
    setting: Setting
    arms: tuple[Arm, ...]
    embeddings: Mapping[str, tuple[str, ...]]  # mode -> names of the arms it runs
    contrasts: tuple[Contrast, ...]
    replicates: int
    text: Mapping[str, Any]
    donor_records: tuple[Mapping[str, Any], ...]
    single_checkpoint: bool
    not_applicable: Mapping[str, str]
    rules: Mapping[str, str]
    rates: Mapping[str, Mapping[str, Rates]] | None = None
    audit: bool = True
    table: str = "primary"

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def cells(self) -> list[tuple[Embeddings, Arm]]:
        """Every (embedding mode, arm) pair, mode by mode."""
        return [(mode, self.arm(name)) for mode, names in self.embeddings.items() for name in names]  # type: ignore[misc]

    def runs(self, mode: Embeddings, arm: Arm, rates: Rates) -> list[Run]:
        """The evaluated runs of one cell. Where a donor or draw is the replicate's own, it is the plain arm's run."""
        found = []
        for replicate in range(1, (arm.replicates or self.replicates) + 1):
            own = arm.donor == (replicate - 1) % len(self.setting.donors) or arm.draw == replicate
            same = self.arm(arm.tuned_as) if own and arm.tuned_as else arm
            found.append(Run(self.setting, same, mode, rates, "test", replicate))
        return found

    def tuning_run(self, mode: Embeddings, arm: Arm, rates: Rates) -> Run:
        """One point of the arm's rate search: replicate 0, scored on the tune split."""
        return Run(self.setting, arm, mode, rates, "tune", 0)


def from_json(value: Mapping[str, Any]) -> Experiment:
    """The experiment of a stored declaration."""
    setting = dict(value["setting"])
    setting |= {"donors": tuple(setting["donors"]), "evaluate_at": tuple(setting["evaluate_at"])}
    arms = tuple(Arm(**a | {"controls": tuple(a["controls"])}) for a in value["arms"])
    rates = value["rates"] and {
        mode: {name: Rates(**pair) for name, pair in cells.items()} for mode, cells in value["rates"].items()
    }
    plain = dict(value) | {
        "setting": Setting(**setting),
        "arms": arms,
        "embeddings": {mode: tuple(names) for mode, names in value["embeddings"].items()},
        "contrasts": tuple(Contrast(**contrast) for contrast in value["contrasts"]),
        "donor_records": tuple(value["donor_records"]),
        "rates": rates,
    }
    return Experiment(**plain)
