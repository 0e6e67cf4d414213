"""What to run, declared before it runs: settings, arms, contrasts, experiments, and the runs they ask for.

Everything here is plain data. A run's id is the sha256 of its recipe, so an equal recipe is never run twice.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from ontogeny.canonical import LATER, canonical_json, plain
from ontogeny.model.constrain import CoreGuess, CoreStart, Reading

Embeddings = Literal["fresh", "frozen", "trainable"]
Split = Literal["tune", "test"]


Constraint = Literal[
    "subspace",
    "dense",
    "low-rank",
    "low-rank-equal",
    "activations",
    "mimetic",
    "donor-body",
    "random-body",
    "weight-subset",
    "weight-subset-body",
    "projected-weights",
]
Rescue = Literal["on", "free", "projected", "released"]


@dataclass(frozen=True)
class Rates:
    """Peak learning rates: *body* for layer matrices, *rest* for embeddings, head, norms and biases."""

    body: float
    rest: float


@dataclass(frozen=True)
class Vision:
    """Images in place of text: ``images`` is their id; patches of ``patch`` × ``patch`` pixels are read in order."""

    images: str
    size: int
    channels: int
    classes: int
    patch: int
    attention: Literal["causal", "bidirectional"] = "causal"


@dataclass(frozen=True)
class Measure:
    """What a gap is measured in: ``key`` names the evaluated quantity, smaller is better; ``delta`` counts as nothing.

    ``gate``: the reference that an arm must beat for its contrasts to say anything.
    """

    key: str
    unit: str
    short: str
    delta: float
    gate: str


LOSS = Measure("loss", "nats a token", "nats", 0.02, "bigram")
ERROR = Measure("error", "share of images", "of images", 0.01, "prior")


@dataclass(frozen=True)
class Setting:
    """What the runs of one donor family share. ``tokens`` and ``donors`` are ids; ``windows`` are evaluation windows.

    ``horizons``: cool-downs branched from one constant-rate trunk, the last at ``steps``; rates are then tuned at
    ``tuning_horizon``. ``others`` are donors of another corpus. ``skip``: training batches that were read before.
    ``grown``: the arms' model is smaller than the donors'. ``repeats``: how often arms read their text, which is the
    shorter for it. ``kept``: runs keep their networks, for others to go on from. ``earlier``: id of other tokens whose
    test loss is measured too. ``probed``: so are the loss on train windows ("seen") and what can be read off the
    network's states (``lab/probe.py``). ``activity``: so is how few feed-forward units carry 90 % of what
    they do ("busy", ``model/topk.py``). ``optimizer``: of the arms' cores (``TrainConfig``).
    With ``vision`` the arms learn images, ``batch`` and ``windows`` count images, and the donors' text is ``tokens``.
    """

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
    horizons: tuple[int, ...] = field(default=(), metadata=LATER)
    tuning_horizon: int = field(default=0, metadata=LATER)
    others: tuple[str, ...] = field(default=(), metadata=LATER)
    skip: int = field(default=0, metadata=LATER)
    repeats: int = field(default=1, metadata=LATER)
    grown: bool = field(default=False, metadata=LATER)
    kept: bool = field(default=False, metadata=LATER)
    earlier: str = field(default="", metadata=LATER)
    probed: bool = field(default=False, metadata=LATER)
    activity: bool = field(default=False, metadata=LATER)
    vision: Vision | None = field(default=None, metadata=LATER)
    optimizer: Literal["adamw", "muon"] = field(default="adamw", metadata=LATER)

    @property
    def measure(self) -> Measure:
        return ERROR if self.vision else LOSS

    @cached_property
    def text(self) -> str:
        """Its canonical JSON, in the recipes of all its runs."""
        return canonical_json(self)

    @cached_property
    def tuning(self) -> "Setting":
        """The setting that rates are tuned in: with horizons the first, which sets the warm-up, and the tuning one."""
        if not self.horizons:
            return self
        kept = tuple(dict.fromkeys((self.horizons[0], self.tuning_horizon)))
        return replace(self, horizons=kept, evaluate_at=kept, steps=self.tuning_horizon, tuning_horizon=0)


@dataclass(frozen=True)
class Arm:
    """One way to make a network.

    ``constraint``: ``subspace`` (a genome through ``controls``, masks included; ``recipe`` holds options of Recipe,
    the setting's rank unless it names a size), ``dense``, ``low-rank`` (trainable, of
    the subspace's rank), ``low-rank-equal`` (of the subspace's number of trainable values), ``activations``
    (principal directions of the donor's activations), ``mimetic`` (dense, started as Trockman & Kolter 2023 do),
    ``donor-body`` (the donor's layers, frozen), ``random-body`` (fresh layers, frozen), or, in a model smaller than the
    donor, ``weight-subset``, the same with fresh embeddings (``weight-subset-body``) and ``projected-weights``
    (``model/baselines.py``). A genome is then read at the donor's size and grown into the model's coordinates.
    ``teacher``: distilled from the replicate's donor. ``reading``: what "constrained" means, see ``constrain``.
    ``core``: what it starts from: fresh, the donor's values or what controls leave of them (``start_cores``), or a
    guess (``guess_cores``). ``donors``: the replicate's own; ``all`` of them, or of ``both`` corpora, for controls that
    mix; or the ``other`` corpus's. ``donor`` and ``draw`` replace the replicate's own donor (from 0)
    and control draw (from 1).

    ``after``: the arm whose trained network this one starts from, which then goes on as it is (``rescue`` "on"), with
    U and V ``free``, ``released`` from its constraint, or lends its weights ``projected`` on this arm's genome.
    ``rate_factor`` multiplies the rates.

    ``develop``: its directions are pruned on the way; options of ``training.develop.schedule``.

    ``bits``: of every entry of its genome's bases, rounded after the controls (0: as they are, ``genome/quantise.py``).
    ``top``: the share of feed-forward units that a token uses, the largest (0: all, ``model/topk.py``).

    ``tuned_as`` names the arm whose rates it shares: one that it equals but for donor or draw, unless the experiment's
    rules say more. ``replicates``: how many of the experiment's it runs on (None: all). ``setting``: which of the
    experiment's it runs in ("" the main one).
    """

    name: str
    constraint: Constraint = "subspace"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    donors: Literal["own", "all", "both", "other"] = "own"
    core: CoreStart | CoreGuess | Literal["fresh"] = "fresh"
    donor: int | None = None
    draw: int | None = None
    tuned_as: str | None = None
    replicates: int | None = None
    description: str = field(default="", compare=False)
    reading: Reading = field(default="full", metadata=LATER)
    augment: bool = field(default=False, metadata=LATER)
    weight_decay: float = field(default=0.0, metadata=LATER)
    after: str = field(default="", metadata=LATER)
    rescue: Rescue = field(default="on", metadata=LATER)
    rate_factor: float = field(default=1.0, metadata=LATER)
    setting: str = field(default="", metadata=LATER)
    develop: Mapping[str, Any] | None = field(default=None, metadata=LATER)
    teacher: bool = field(default=False, metadata=LATER)
    bits: int = field(default=0, metadata=LATER)
    top: float = field(default=0.0, metadata=LATER)

    @cached_property
    def text(self) -> str:
        """Canonical JSON of what a result depends on, in the recipes of all its runs."""
        circumstances = ("description", "tuned_as", "replicates", "setting")
        return canonical_json({key: value for key, value in plain(self).items() if key not in circumstances})

    @property
    def starts_trained(self) -> bool:
        """Whether it starts from values that were trained before."""
        return bool(self.after) or self.constraint in ("weight-subset", "weight-subset-body", "projected-weights")

    def scaled(self, rates: Rates) -> Rates:
        """The rates it trains at, where its search has found these."""
        return Rates(self.rate_factor * rates.body, self.rate_factor * rates.rest)


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
    """One arm × one replicate at given rates; ``split`` is what it is scored on. Replicate 0 is for tuning alone.

    ``parent``: the run whose trained network this one starts from.
    """

    setting: Setting
    arm: Arm
    embeddings: Embeddings
    rates: Rates
    split: Split
    replicate: int
    parent: "Run | None" = None

    @cached_property
    def id(self) -> str:
        """16 hex digits of the recipe's sha256, the replicate left out."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:16]

    @property
    def recipe(self) -> dict[str, Any]:
        """What determines the result, as plain JSON."""
        return dict(json.loads(self._text))

    @property
    def _text(self) -> str:
        """The recipe's canonical JSON, of parts that are written once: ids are asked for by the thousand."""
        own: dict[str, Any] = {"embeddings": self.embeddings, "rates": self.rates, "schema": 1, "split": self.split}
        own |= {"parent": self.parent.id} if self.parent else {}
        parts = {key: canonical_json(value) for key, value in own.items()}
        parts |= {"arm": self.arm.text, "setting": self.setting.text}
        return "{" + ",".join(f'"{key}":{parts[key]}' for key in sorted(parts)) + "}"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A declared experiment: stored as JSON before its first run, and never changed.

    ``setting`` is the main one, ``settings`` others by the name that arms give; ``alignments``: under which the
    overlap of donors is measured (None: all, in the demo the raw one).
    ``twins``: groups of arms whose trained networks are compared two by two, within a group.
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
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, str]
    rates: Mapping[str, Mapping[str, Rates]] | None = None
    audit: bool = True
    table: str = "primary"
    settings: Mapping[str, Setting] = field(default_factory=dict, metadata=LATER)
    alignments: tuple[str, ...] | None = field(default=None, metadata=LATER)
    twins: tuple[tuple[str, ...], ...] = field(default=(), metadata=LATER)

    def setting_of(self, arm: Arm) -> Setting:
        """The setting that an arm runs in."""
        return self.settings[arm.setting] if arm.setting else self.setting

    def all_settings(self) -> dict[str, Setting]:
        """Every setting by name, the main one first."""
        return {"": self.setting} | dict(self.settings)

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def cells(self) -> list[tuple[Embeddings, Arm]]:
        """Every (embedding mode, arm) pair, mode by mode."""
        return [(mode, self.arm(name)) for mode, names in self.embeddings.items() for name in names]  # type: ignore[misc]

    def runs(self, mode: Embeddings, arm: Arm, rates: Rates, parents: Sequence[Run] = ()) -> list[Run]:
        """The evaluated runs of one cell. Where a donor or draw is the replicate's own, it is the plain arm's run.

        ``parents``: the runs of the arm that this one comes ``after``, by replicate.
        """
        found = []
        setting = self.setting_of(arm)
        for replicate in range(1, (arm.replicates or self.replicates) + 1):
            fixed = arm.donor is not None or arm.draw is not None
            donor_own = arm.donor in (None, (replicate - 1) % len(setting.donors))
            own = fixed and donor_own and arm.draw in (None, replicate)
            same = self._plain(arm) if own else arm
            parent = parents[replicate - 1] if arm.after else None
            found.append(Run(setting, same, mode, arm.scaled(rates), "test", replicate, parent))
        return found

    def _plain(self, arm: Arm) -> Arm:
        """The arm that it shares its rates with, where they differ by donor and draw alone; else itself."""
        if not arm.tuned_as:
            return arm
        plain = self.arm(arm.tuned_as)
        kept = {key: getattr(arm, key) for key in ("name", "donor", "draw", "tuned_as", "replicates", "setting")}
        return plain if replace(plain, **kept) == arm else arm

    def tuning_run(self, mode: Embeddings, arm: Arm, rates: Rates) -> Run:
        """One point of the arm's rate search: replicate 0, scored on the tune split."""
        return Run(self.setting_of(arm).tuning, arm, mode, rates, "tune", 0)


def setting_from_json(value: Mapping[str, Any]) -> Setting:
    """The setting of a stored declaration."""
    lists = {key: tuple(entry) for key, entry in value.items() if isinstance(entry, list)}
    vision = {"vision": Vision(**value["vision"])} if value.get("vision") else {}
    return Setting(**dict(value) | lists | vision)


def from_json(value: Mapping[str, Any]) -> Experiment:
    """The experiment of a stored declaration."""
    arms = tuple(Arm(**a | {"controls": tuple(a["controls"])}) for a in value["arms"])
    rates = value["rates"] and {
        mode: {name: Rates(**pair) for name, pair in cells.items()} for mode, cells in value["rates"].items()
    }
    changed = {
        "setting": setting_from_json(value["setting"]),
        "settings": {name: setting_from_json(setting) for name, setting in value.get("settings", {}).items()},
        "arms": arms,
        "embeddings": {mode: tuple(names) for mode, names in value["embeddings"].items()},
        "contrasts": tuple(Contrast(**contrast) for contrast in value["contrasts"]),
        "donor_records": tuple(value["donor_records"]),
        "rates": rates,
        "alignments": tuple(value["alignments"]) if value.get("alignments") is not None else None,
        "twins": tuple(map(tuple, value.get("twins", ()))),
    }
    return Experiment(**dict(value) | changed)
