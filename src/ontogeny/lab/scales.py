"""The presets: one shape of every experiment for each scale. Every value can be ``--set``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_type_hints

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

    def model(self, vocabulary: int) -> dict[str, Any]:
        """The donors' and arms' configuration for a vocabulary."""
        return {
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": self.length,
            "tie_word_embeddings": False,
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


def scale(name: str, settings: Sequence[str] = ()) -> Scale:
    """A preset with ``KEY=VALUE`` settings applied. InputError for an unknown scale, key or value."""
    if name not in SCALES:
        raise InputError(f"no scale {name!r}: known are {', '.join(SCALES)}")
    return apply_settings(SCALES[name], settings)


def apply_settings(preset: Scale, settings: Sequence[str]) -> Scale:
    """``KEY=VALUE`` over a preset, each checked against the field's type."""
    hints = get_type_hints(Scale)
    known = [f.name for f in fields(Scale) if f.name not in ("name", "decisive", "hub_donors", "not_stated")]
    for entry in settings:
        key, sign, text = entry.partition("=")
        if not sign or key not in known:
            raise InputError(f"--set {entry!r}: expected KEY=VALUE with one of {', '.join(known)}")
        preset = replace(preset, **{key: _parse(key, text, hints[key])})
    if preset.width % (2 * preset.heads):
        raise InputError(f"width {preset.width}: expected a multiple of twice the {preset.heads} heads; --set either")
    last = tuple(step for step in preset.evaluate_at if step < preset.steps)
    return replace(preset, evaluate_at=(*last, preset.steps))


EXPECTED: dict[Any, str] = {
    bool: "on or off",
    int: "a positive whole number",
    tuple[int, ...]: "steps, e.g. 25,50,100",
    Rates: "two positive numbers, BODY,REST",
}


def _parse(key: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"on": True, "true": True, "off": False, "false": False}[text.lower()]
        if kind is int:
            return _positive(int(text))
        if kind == tuple[int, ...]:
            return tuple(sorted(_positive(int(part)) for part in text.split(",")))
        if kind is Rates:
            body, rest = (_positive(float(part)) for part in text.split(","))
            return Rates(body, rest)
        if key == "precision" and text not in ("fp32", "bf16"):
            raise ValueError(text)
        return text
    except (ValueError, KeyError):
        raise InputError(f"--set {key}={text}: expected {EXPECTED.get(kind, 'fp32 or bf16')}") from None


Number = TypeVar("Number", int, float)


def _positive(number: Number) -> Number:
    if not 0 < number < math.inf:
        raise ValueError(number)
    return number
