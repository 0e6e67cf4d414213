"""Presets hang together, and every setting is checked before anything runs."""

from dataclasses import fields

import pytest

from ontogeny.errors import InputError
from ontogeny.lab.experiment import Rates
from ontogeny.lab.experiments import EXPERIMENTS
from ontogeny.lab.prepare import find_scale
from ontogeny.lab.scales import BESIDE, FIXED, SCALES, STATED, Scale, apply_settings, scale


@pytest.mark.parametrize("name", list(SCALES))
def test_presets_hang_together(name: str) -> None:
    preset = SCALES[name]
    assert preset.name == name
    assert scale(name) == preset, "its last evaluation is its last step"
    assert sorted(preset.evaluate_at) == list(preset.evaluate_at)
    assert preset.decisive == (name not in ("smoke", "demo"))
    assert not preset.decisive or min(preset.replicates, preset.donors) >= 5 or name == "paper"


@pytest.mark.parametrize("name", list(SCALES))
def test_the_models_of_presets_exist(name: str) -> None:
    from transformers import AutoConfig

    model = SCALES[name].model(512)
    config = AutoConfig.for_model(model.pop("model_type"), **model)
    assert config.vocab_size == 512
    assert config.hidden_size == SCALES[name].width
    assert config.max_position_embeddings >= SCALES[name].length


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("width=64", "width", 64),
        ("rank=10%", "rank", "10%"),
        ("rank=7", "rank", "7"),
        ("donor_rates=1e-3,0.1", "donor_rates", Rates(1e-3, 0.1)),
        ("precision=bf16", "precision", "bf16"),
        ("audit=off", "audit", False),
        ("audit=ON", "audit", True),
        ("text=stdlib:prose", "text", "stdlib:prose"),
        ("text=a=b.txt", "text", "a=b.txt"),
    ],
)
def test_settings(setting: str, field: str, value: object) -> None:
    assert getattr(scale("smoke", [setting]), field) == value


def test_every_value_can_be_set() -> None:
    given = {"text": "x", "precision": "bf16", "rank": "5", "audit": "off", "donor_rates": "1,1", "evaluate_at": "1"}
    given |= {"heads": "4", "attention": "bidirectional", "optimizer": "muon"}
    for one in fields(Scale):
        if one.name not in FIXED:
            changed = apply_settings(SCALES["smoke"], [f"{one.name}={given.get(one.name, 96)}"])
            assert getattr(changed, one.name) != getattr(SCALES["smoke"], one.name), one.name


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["evaluate_at=40,2,9", "steps=9"], (2, 9)),
        (["steps=3"], (2, 3)),
        (["steps=1"], (1,)),
        (["steps=100"], (2, 5, 100)),
    ],
)
def test_the_last_step_is_always_evaluated(settings: list[str], expected: tuple[int, ...]) -> None:
    assert scale("smoke", settings).evaluate_at == expected


def test_a_later_setting_wins() -> None:
    assert scale("smoke", ["steps=7", "steps=9"]).steps == 9


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("steps", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("nonsense=3", "one of width, layers"),
        ("name=laptop", "expected KEY=VALUE"),
        ("decisive=on", "expected KEY=VALUE"),
        ("steps=", "a positive whole number"),
        ("steps=0", "a positive whole number"),
        ("steps=-3", "a positive whole number"),
        ("steps=1.5", "a positive whole number"),
        ("audit=maybe", "on or off"),
        ("precision=fp64", "fp32 or bf16"),
        ("donor_rates=1", "two positive numbers"),
        ("donor_rates=1,2,3", "two positive numbers"),
        ("donor_rates=0,1", "two positive numbers"),
        ("donor_rates=1,-1", "two positive numbers"),
        ("donor_rates=nan,1", "two positive numbers"),
        ("donor_rates=inf,1", "two positive numbers"),
        ("evaluate_at=a", "steps, e.g."),
        ("evaluate_at=0,2", "steps, e.g."),
        ("heads=3", "a multiple of twice the 3 heads"),
        ("heads=32", "a multiple of twice the 32 heads"),
    ],
)
def test_bad_settings(setting: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        scale("smoke", [setting])


def test_unknown_scale() -> None:
    with pytest.raises(InputError, match="no scale 'huge': known are smoke, demo"):
        scale("huge")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_not_stated_of_a_paper_scale_is_a_setting(name: str) -> None:
    preset = find_scale(name, "paper")
    assert set(preset.not_stated) <= {one.name for one in fields(Scale)}
    assert {"length", "batch", "replicates"} <= set(preset.not_stated)
    assert set(STATED.get(name, {})) <= set(BESIDE)
    unpublished = ("profile", "rank", "data", "corpora", "newborn", "phases", "stage2", "economy")
    assert ({"rank", "steps"} <= set(preset.not_stated)) == (name in unpublished)
