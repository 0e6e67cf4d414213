"""Donor families of growing width, which several experiments compare."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ontogeny.lab.experiment import Setting
from ontogeny.lab.scales import Scale, Variant, published

FFN = 16  # its width is a multiple of this, near 8/3 of the model's


def width_variants(
    scale: Scale,
    widths: Mapping[str, tuple[int, ...]],
    text: tuple[str, ...],
    given: bool,
    donors: tuple[str, ...] = (),
    **changes: Any,
) -> dict[str, Variant]:
    """One donor family a width of the scale's list, the narrowest the main one; one that isn't listed has its own.

    A user's own donors (``given``) are one family, of their shape. ``donors``: at paper scale, the published ones.
    """
    found = widths.get(scale.name, (scale.width,))
    if scale.name == "paper" and donors and not given:
        checkpoints = [replace(scale, **published(donor, **changes)) for donor in donors]
        return {f"d{s.width}" if i else "": Variant(s, text) for i, s in enumerate(checkpoints)}
    if given or len(found) == 1:
        return {"": Variant(replace(scale, **changes), text)}
    shapes = {w: replace(scale, width=w, ffn=FFN * round(8 * w / (3 * FFN)), **changes) for w in found}
    return {"" if width == found[0] else f"d{width}": Variant(shape, text) for width, shape in shapes.items()}


def declared_widths(main: Setting, settings: Mapping[str, Setting] | None) -> dict[str, int]:
    """Setting name -> the width of its models, narrowest first."""
    every = {"": main} | dict(settings or {})
    return {name: width_of(setting) for name, setting in sorted(every.items(), key=lambda item: width_of(item[1]))}


def width_of(setting: Setting) -> int:
    """The width of a setting's models."""
    return int(setting.model.get("hidden_size") or setting.model["n_embd"])
