"""The presets: one shape of every experiment for each scale. Every value can be ``--set``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ontogeny.errors import InputError
from ontogeny.lab.experiment import Rates

DONOR_RATES = Rates(body=3e-3, rest=3e-2)  # the best dense rates of our first looks


@dataclass(frozen=True)
class Scale:
    """A Llama shape for donors and arms, and how long, on how much, how often. Tokens a step: batch × length.

    ``donor_rates`` train the donors made on the spot. ``windows``: evaluation windows of ``length`` tokens.
    ``decisive``: whether verdicts other than undecided may come from it. ``audit``: refuse to compare arms whose
    step-0 losses differ by more than 0.2 nats. ``hub_donors``: published checkpoints instead of donors made on the
    spot; their shape is then the arms'. ``not_stated``: settings that no source states and that are our choice.
    ``horizons``: cool-downs branched from one trunk at a constant rate, in place of ``steps`` and ``evaluate_at``;
    rates are then tuned at ``tuning_horizon`` (0: the last). ``images``: what arms learn where an experiment goes
    from language to vision, ``image_batch`` a step, in patches of ``patch`` × ``patch`` pixels (0: an eighth of
    the image) read with ``attention``. ``optimizer``: of the arms' cores, "muon" orthogonalises their steps; donors,
    and all that is no core, keep AdamW.
    """

    name: str
    width: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int
    length: int
    batch: int
    donors: int
    donor_steps: int
    steps: int
    rank: str
    replicates: int
    windows: int
    evaluate_at: tuple[int, ...]
    decisive: bool
    text: str = "stdlib:code"
    donor_rates: Rates = DONOR_RATES
    precision: Literal["fp32", "bf16"] = "fp32"
    audit: bool = True
    hub_donors: tuple[str, ...] = ()
    not_stated: tuple[str, ...] = ()
    architecture: Literal["llama", "qwen2", "gpt_neox"] = "llama"
    kv_heads: int = 0  # 0: as many as heads
    tied: bool = False
    horizons: tuple[int, ...] = ()
    tuning_horizon: int = 0
    images: str = ""
    image_batch: int = 128
    test_images: int = 2000
    patch: int = 0
    attention: Literal["causal", "bidirectional"] = "causal"
    optimizer: Literal["adamw", "muon"] = "adamw"

    def model(self, vocabulary: int) -> dict[str, Any]:
        """The donors' and arms' configuration for a vocabulary."""
        return {
            "model_type": self.architecture,
            "vocab_size": vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads or self.heads,
            "max_position_embeddings": self.length,
            "tie_word_embeddings": self.tied,
            "initializer_range": 0.02,
        }


SCALES = {
    "smoke": Scale(
        "smoke", width=32, layers=2, heads=2, ffn=64, vocabulary=320, length=32, batch=8, donors=2, donor_steps=20,
        steps=5, rank="25%", replicates=2, windows=8, evaluate_at=(2, 5), decisive=False,
    ),
    "demo": Scale(
        "demo", width=64, layers=3, heads=4, ffn=176, vocabulary=1024, length=64, batch=32, donors=4, donor_steps=350,
        steps=200, rank="25%", replicates=3, windows=128, evaluate_at=(25, 50, 100, 150, 200), decisive=False,
    ),
    "laptop": Scale(
        "laptop", width=96, layers=3, heads=4, ffn=256, vocabulary=1024, length=64, batch=16, donors=5,
        donor_steps=1000, steps=400, rank="25%", replicates=5, windows=256,
        evaluate_at=(25, 50, 100, 150, 200, 300, 400), decisive=True,
    ),
    "workstation": Scale(
        "workstation", width=512, layers=8, heads=8, ffn=1408, vocabulary=8192, length=128, batch=256, donors=5,
        donor_steps=3000, steps=2000, rank="10%", replicates=5, windows=512,
        evaluate_at=(100, 200, 500, 1000, 1500, 2000), decisive=True, precision="bf16",
    ),
    "paper": Scale(
        "paper", width=768, layers=12, heads=12, ffn=3072, vocabulary=50304, length=512, batch=32, donors=4,
        donor_steps=143_000, steps=200, rank="10%", replicates=5, windows=256, evaluate_at=(25, 50, 100, 150, 200),
        decisive=True, precision="bf16", text="HuggingFaceFW/fineweb-edu",
        hub_donors=tuple(f"EleutherAI/pythia-160m-seed{seed}" for seed in (1, 2, 3, 4)),
        not_stated=("hub_donors", "length", "batch", "donor_rates", "precision", "replicates", "windows"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One donor family of an experiment: a scale, and its sources of text in place of the scale's.

    ``tokenizer_text``: what a tokenizer is trained on, where several families share one. ``others``: the variant whose
    donors are this one's donors of another corpus. ``skip``: steps of training text that its arms have read before;
    ``ahead``: steps of it that another family reads after them.
    ``budget``: the share of the donors' parameters that the arms' model has, where it is smaller (``model/grow.py``);
    ``units``: the share of feed-forward units that it has, where it is smaller in those alone;
    ``repeats``: how often arms read their text.
    ``learnt``: what arms learn where it isn't the donors' text, which ``earlier`` then measures them on too;
    ``shuffled``: with the words of every document in random order. ``kept``, ``probed``,
    ``activity`` are the setting's.
    ``first_donor``: the number of the family's first donor, which fixes its streams of initialisation and data.
    """

    scale: Scale
    text: tuple[str, ...] = ()
    tokenizer_text: tuple[str, ...] = ()
    others: str | None = None
    skip: int = 0
    first_donor: int = 1
    ahead: int = 0
    budget: float = 0.0
    repeats: int = 1
    learnt: tuple[str, ...] = ()
    shuffled: bool = False
    earlier: bool = False
    kept: bool = False
    probed: bool = False
    activity: bool = False
    units: float = 0.0


def _shape(
    architecture: str, layers: int, width: int, heads: tuple[int, int], ffn: int, vocabulary: int, *, tied: bool
) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "layers": layers,
        "width": width,
        "heads": heads[0],
        "kv_heads": heads[1],
        "ffn": ffn,
        "vocabulary": vocabulary,
        "tied": tied,
    }


# Shapes of published checkpoints, so that a plan can be costed without the network.
SHAPES = {
    "HuggingFaceTB/SmolLM2-135M": _shape("llama", 30, 576, (9, 3), 1536, 49152, tied=True),
    "HuggingFaceTB/SmolLM2-360M": _shape("llama", 32, 960, (15, 5), 2560, 49152, tied=True),
    "HuggingFaceTB/SmolLM2-1.7B": _shape("llama", 24, 2048, (32, 32), 8192, 49152, tied=True),
    "Qwen/Qwen2.5-0.5B": _shape("qwen2", 24, 896, (14, 2), 4864, 151936, tied=True),
    "Qwen/Qwen2.5-1.5B": _shape("qwen2", 28, 1536, (12, 2), 8960, 151936, tied=True),
    "EleutherAI/pythia-14m": _shape("gpt_neox", 6, 128, (4, 4), 512, 50304, tied=False),
}
OUR_CHOICE = ("length", "batch", "donor_rates", "precision", "replicates", "windows", "image_batch", "patch")
BESIDE = {  # what no field of a scale holds, and no publication states but where STATED has it
    "optimiser": "AdamW (of full cores Muon, where optimizer says so), betas 0.9 and 0.95, gradient norm at most 1, "
    "10 % of the steps warm-up, then a cosine to zero (with horizons: cool-downs); rates tuned arm by arm",
    "mask scope": "the layers' matrices, one by one or all together, by arm; never embeddings, head and norms",
    "embeddings": "fresh, or the donor's, frozen or trainable: in every arm of a mode",
    "consolidation": "where directions are pruned: the steps after the last round, a third of all",
    "seeds": "one for each replicate, hashed from its number",
}
STATED: Mapping[str, Mapping[str, str]] = {  # by experiment
    "crossmodal": {"seeds": "E3: 42, 123, 7 (three)"},
    "development": {"seeds": "E12: 42, 123, 7, 999 (four)", "embeddings": "E12: the donor's, frozen, the head too"},
}


def published(donor: str, **changes: Any) -> dict[str, Any]:
    """An experiment's changes to the paper scale: one published donor with its shape, and what is stated of it.

    ``donor``: a hub id, ``@revision`` after it where it has to be given. ``not_stated`` adds to ``OUR_CHOICE``.
    """
    ours = dict.fromkeys((*changes.pop("not_stated", ()), *OUR_CHOICE))
    stated = {"hub_donors": (donor,), "donors": 1, "not_stated": tuple(ours)}
    return SHAPES[donor.partition("@")[0]] | stated | changes


def scale(name: str, settings: Sequence[str] = (), changes: Mapping[str, Mapping[str, Any]] | None = None) -> Scale:
    """A preset, with an experiment's ``changes`` by scale, with ``KEY=VALUE`` settings applied.

    InputError for an unknown scale, key or value.
    """
    if name not in SCALES:
        raise InputError(f"no scale {name!r}: known are {', '.join(SCALES)}")
    return apply_settings(replace(SCALES[name], **(changes or {}).get(name, {})), settings)


FIXED = ("name", "decisive", "hub_donors", "not_stated", "architecture", "kv_heads", "tied")  # no user's choice


def apply_settings(preset: Scale, settings: Sequence[str]) -> Scale:
    """``KEY=VALUE`` over a scale, which must hold together."""
    preset = parse_settings(preset, settings, FIXED)
    if preset.width % (2 * preset.heads):
        raise InputError(f"width {preset.width}: expected a multiple of twice the {preset.heads} heads; --set either")
    if preset.horizons:
        return _with_horizons(preset)
    last = tuple(step for step in preset.evaluate_at if step < preset.steps)
    return replace(preset, evaluate_at=(*last, preset.steps))


Preset = TypeVar("Preset")


def parse_settings(preset: Preset, settings: Sequence[str], fixed: Sequence[str] = ()) -> Preset:
    """``KEY=VALUE`` over a frozen dataclass, each checked against the field's type; ``fixed`` fields can't be set."""
    hints = get_type_hints(type(preset))
    known = [key for key in hints if key not in fixed]
    for entry in settings:
        key, sign, text = entry.partition("=")
        if not sign or key not in known:
            raise InputError(f"--set {entry!r}: expected KEY=VALUE with one of {', '.join(known)}")
        preset = replace(preset, **{key: _parse(key, text, hints[key])})  # type: ignore[type-var]
    return preset


def _with_horizons(preset: Scale) -> Scale:
    horizons, tuning = preset.horizons, preset.tuning_horizon or preset.horizons[-1]
    if tuning not in horizons:
        raise InputError(f"tuning_horizon {tuning}: expected one of the horizons; --set either")
    return replace(preset, steps=horizons[-1], evaluate_at=horizons, tuning_horizon=tuning)


EXPECTED: dict[Any, str] = {
    bool: "on or off",
    int: "a positive whole number",
    float: "a positive number",
    tuple[float, ...]: "positive numbers, e.g. 0.1,1,10",
    tuple[int, ...]: "steps, e.g. 25,50,100",
    Rates: "two positive numbers, BODY,REST",
}


def _parse(key: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"on": True, "true": True, "off": False, "false": False}[text.lower()]
        if kind is int:
            return _positive(int(text))
        if kind is float:
            return _positive(float(text))
        if kind == tuple[float, ...]:
            return tuple(sorted(_positive(float(part)) for part in text.split(",")))
        if kind == tuple[int, ...]:
            return tuple(sorted(_positive(int(part)) for part in text.split(",")))
        if kind is Rates:
            body, rest = (_positive(float(part)) for part in text.split(","))
            return Rates(body, rest)
        if get_origin(kind) is Literal and text not in get_args(kind):
            raise ValueError(text)
        return text
    except (ValueError, KeyError):
        raise InputError(f"--set {key}={text}: expected {EXPECTED.get(kind) or ' or '.join(get_args(kind))}") from None


Number = TypeVar("Number", int, float)


def _positive(number: Number) -> Number:
    if not 0 < number < math.inf:
        raise ValueError(number)
    return number
