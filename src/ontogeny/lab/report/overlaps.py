"""How far donors' subspaces agree, as a heat map and as tables; for the experiments that compare donors."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ontogeny.lab.experiment import Experiment
from ontogeny.lab.report.figures import Drawing, Figure, canvas, setting_line, signed, styled
from ontogeny.lab.report.tables import Table

PART = "Overlaps of the donors' subspaces"
ROLES = ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.gate", "mlp.up", "mlp.down")
ALIGNMENTS = {"none": "raw", "permute": "aligned by permutation", "orthogonal": "aligned orthogonally"}
Overlaps = Mapping[str, Sequence[Mapping[str, Any]]]  # alignment -> the result of every pair of donors


def overlap_drawings(name: str, found: Overlaps, experiment: Experiment) -> list[Drawing]:
    """A heat map for every alignment that has rows."""
    return [_drawing(name, pairs, experiment) for pairs in found.values() if any(pair["rows"] for pair in pairs)]


def overlap_tables(found: Overlaps) -> list[Table]:
    """The summary, and every site for the CSV; none without rows."""
    return [table for table in (summary(found), _sites(found)) if table.rows]


def _drawing(name: str, pairs: Sequence[Mapping[str, Any]], experiment: Experiment) -> Drawing:
    align = pairs[0]["align"]
    told = "; ".join(
        f"{row[1]} {row[2]} {row[4]:.3f} against {row[5]:.3f}, z {row[7]:+.1f}" for row in summary({align: pairs}).rows
    )
    alt = f"Heat map of donors' subspace overlap, {ALIGNMENTS[align]}; overlap against chance: {told}."
    caption = f"How far donors' subspaces agree, {ALIGNMENTS[align]}: standard deviations above chance."
    return Drawing(
        partial(overlap_map, pairs, experiment), f"{name}-overlap-{align}", alt, caption, PART, "overlap-sites"
    )


@styled
def overlap_map(pairs: Sequence[Mapping[str, Any]], experiment: Experiment) -> Figure:
    """Mean z of the overlap of two donors' subspaces over pairs, by role and side (rows) and layer (columns).

    z is against Haar-random subspaces, after an alignment against layer-permuted refits; 0 is what chance gives.
    """
    cells: dict[tuple[str, str, int], list[float]] = {}
    for row in (row for pair in pairs for row in pair["rows"]):
        role, layer = site_role(row["site"])
        cells.setdefault((role, row["side"], layer), []).append(row["z"])
    labels = sorted({key[:2] for key in cells}, key=lambda key: (_role_order(key[0]), key))
    layers = sorted({key[2] for key in cells})
    z = np.array([[np.mean(cells.get((*label, layer), [math.nan])) for layer in layers] for label in labels])
    title = f"Donors' overlap, {ALIGNMENTS[pairs[0]['align']]}: mean z (pairs: {len(pairs)})"
    figure, grid = canvas(title, setting_line(experiment), 1.3 + 0.26 * len(labels))
    axes = grid[0, 0]
    bound = max(3.0, float(np.nanmax(np.abs(z))))
    places = range(len(layers)), range(len(labels))
    image = axes.pcolormesh(*places, z, cmap="PuOr", vmin=-bound, vmax=bound, shading="nearest", edgecolor="face")
    axes.invert_yaxis()
    if len(layers) <= 12:
        for (i, j), value in np.ndenumerate(z):
            shade = "white" if abs(value) > 0.55 * bound else "black"
            axes.annotate(signed(value, 1), (j, i), ha="center", va="center", color=shade, fontsize=8.5)
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_yticks(
        range(len(labels)), [f"{role} · {'U (out)' if side == 'out' else 'V (in)'}" for role, side in labels]
    )
    axes.set(xlabel="layer")
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, label="z (standard deviations above chance)", pad=0.02)
    bar.solids.set(rasterized=False, edgecolor="face")  # no image inside the SVG, and no hairlines
    return figure


def site_role(site: str) -> tuple[str, int]:
    """``layers.3.mlp.up`` -> (``mlp.up``, 3); a site of no layer has layer 0."""
    found = re.fullmatch(r"layers\.(\d+)\.(.+)", site)
    return (found[2], int(found[1])) if found else (site, 0)


def summary(found: Overlaps) -> Table:
    """Overlap of donors by alignment, role and side, averaged over pairs and layers, beside its null."""
    columns = {
        "alignment": "", "role": "", "side": "", "pairs × layers": "d", "overlap": ".3f", "chance": ".3f",
        "other layers": ".3f", "mean z": "+.1f", "smallest angle, degrees": ".1f",
    }  # fmt: skip
    rows = []
    for align, results in found.items():
        cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in (row for pair in results for row in pair["rows"]):
            cells.setdefault((site_role(row["site"])[0], row["side"]), []).append(row)
        for (role, side), group in sorted(cells.items(), key=lambda item: (_role_order(item[0][0]), item[0])):
            means = [_mean(group, key) for key in ("overlap", "chance", "other_layers", "z")]
            angle = _mean(group, "smallest_angle")
            rows.append((ALIGNMENTS[align], role, side, len(group), *means, angle and math.degrees(angle)))
    caption = "Overlap ‖U₁ᵀU₂‖²/k is 1 if equal; null: Haar-random subspaces, after alignment layer-permuted refits"
    note = (
        "An overlap no larger than that with other layers of the same role is not specific to the layer. Alignments "
        "are fitted on odd layers and scored on even ones, on residual-stream sides."
    )
    return Table("overlaps", caption, columns, tuple(rows), grouped=True, part=PART, note=note)


def _role_order(role: str) -> int:
    return ROLES.index(role) if role in ROLES else len(ROLES)


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return float(np.mean(values)) if values else None


def _sites(found: Overlaps) -> Table:
    """Every pair, site and side, as stored."""
    results = [(align, pair, row) for align, stored in found.items() for pair in stored for row in pair["rows"]]
    keys = [key for key in (results[0][2] if results else {}) if key not in ("first", "second")]
    rows = tuple((align, pair["first"], pair["second"], *(row[k] for k in keys)) for align, pair, row in results)
    return Table("overlap-sites", "", dict.fromkeys(("align", "first", "second", *keys), ""), rows, listed=False)
