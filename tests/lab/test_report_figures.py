"""What stands on a figure: its title, an arm's marks, which arms share an axes, units."""

from dataclasses import replace
from pathlib import Path

import pytest

from ontogeny.benchmarks.made_up import conduct, declared, outlined
from ontogeny.lab.experiment import ERROR, LOSS, Arm, Contrast
from ontogeny.lab.experiments import EXPERIMENTS
from ontogeny.lab.judge import assess
from ontogeny.lab.report.figures import (
    ARMS,
    LINE,
    arm_style,
    contrast_label,
    legend_columns,
    line_styles,
    setting_line,
    sizes,
    unit_of,
    wrapped,
)
from ontogeny.lab.report.standard import MOST_LINES, panels, primary_arms, standard_drawings
from ontogeny.lab.report.tables import arms, contrasts, in_words
from ontogeny.lab.statistics import Interval
from ontogeny.lab.store import open_store


def test_a_title_says_what_the_arms_on_it_keep() -> None:
    assert (
        setting_line(declared(), "embeddings fresh") == "convergence, laptop · rank 25% · 400 steps · embeddings fresh"
    )
    rank = outlined("rank")
    assert setting_line(rank) == "rank, laptop · width 64, 96, 128 · rank 10%, 30% and 8 · 300 steps"
    assert setting_line(rank, arms=["donor d96 k8"]) == "rank, laptop · width 96 · rank 8 · 300 steps"
    assert setting_line(outlined("sparsity")) == "sparsity, laptop · sparsity 50%, 75%, 90%, 95% · 400 steps"


def test_sizes_are_in_order_and_short() -> None:
    full = outlined("rank", table="full")
    assert sizes(full, full.arms) == ["rank 2% … 50% and 8, 16"]
    assert sizes(full, [Arm("dense", constraint="dense")]) == []
    assert sizes(full, [Arm("e", recipe={"energy": 0.9})]) == ["energy 90%"]


def test_a_title_fits_the_figure() -> None:
    lines = wrapped(setting_line(outlined("rank", table="full"), "embeddings fresh"))
    assert all(len(line) <= LINE for line in lines)
    assert " · ".join(lines) == setting_line(outlined("rank", table="full"), "embeddings fresh")
    assert wrapped("no parts here") == ["no parts here"]


def test_arms_that_mean_the_same_look_the_same() -> None:
    sparse, extraction, rank = outlined("sparsity"), outlined("extraction"), outlined("rank")
    assert arm_style("magnitude 75%", sparse) == arm_style("svd d64", extraction) == ARMS["donor"]
    assert arm_style("uniform 50%", sparse) == arm_style("random d64", extraction) == ARMS["random"]
    assert arm_style("donor d128 k8", rank) == ARMS["donor"]
    others = {arm_style(name, sparse) for name in ("layer-density 90%", "degree 90%")}
    assert len(others - set(ARMS.values())) == 2
    crossmodal = outlined("crossmodal")
    primary = {name for c in crossmodal.contrasts if c.primary for name in (c.control, c.treatment)}
    assert len({arm_style(name, crossmodal) for name in primary}) == len(primary) - 1  # both are the donor's own


def test_a_second_arm_of_a_colour_is_dashed_and_open() -> None:
    first, second = line_styles(["donor d64 10%", "donor d64 50%"], outlined("rank"))
    assert first["color"] == second["color"] == first["markerfacecolor"]
    assert (first["linestyle"], second["linestyle"], second["markerfacecolor"]) == ("-", "--", "white")


@pytest.mark.parametrize(
    ("control", "treatment", "label"),
    [
        ("random", "donor", "random − donor"),
        ("uniform 90%", "magnitude 90%", "uniform − magnitude, 90%"),
        ("random d64 10%", "donor d64 10%", "random − donor, d64 10%"),
        ("random d64 10%", "donor d96 10%", "random d64 − donor d96, 10%"),
        ("dense", "magnitude 90%", "dense − magnitude 90%"),
    ],
)
def test_a_contrasts_label_says_what_is_shared_once(control: str, treatment: str, label: str) -> None:
    assert contrast_label(Contrast("fresh", control, treatment, "")) == label


def test_a_legend_keeps_to_the_width() -> None:
    assert legend_columns(["donor", "random"]) == 4
    assert legend_columns(["primary, simultaneous interval"], most=2) == 2
    assert legend_columns(["x" * 100]) == 1


@pytest.mark.parametrize("table", ["primary", "full"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_axes_holds_more_than_eight_arms(name: str, table: str, tmp_path: Path) -> None:
    experiment = declared(table=table) if name == "convergence" else outlined(name, table=table)
    assessment = assess(experiment, open_store(tmp_path))
    for mode in experiment.embeddings:
        shown = panels(assessment, primary_arms(assessment, mode))
        assert all(len(found) <= MOST_LINES for _, found in shown)
        assert sorted(arm.arm for _, found in shown for arm in found) == sorted(
            arm.arm for arm in primary_arms(assessment, mode)
        )


def test_arms_are_grouped_by_setting_or_by_what_is_compared(tmp_path: Path) -> None:
    rank, sparse = (assess(outlined(name), open_store(tmp_path)) for name in ("rank", "sparsity"))
    assert [title for title, _ in panels(rank, primary_arms(rank, "fresh"))] == ["d64", "d96", "d128"]
    found = {title: [arm.arm for arm in arms] for title, arms in panels(sparse, primary_arms(sparse, "fresh"))}
    assert list(found) == ["50%", "75%", "90%", "95%"]
    assert found["90%"] == ["magnitude 90%", "uniform 90%", "layer-density 90%", "degree 90%"]


def test_gaps_of_errors_are_points() -> None:
    interval = Interval(0.025, 0.01, -0.005, 0.055, 0.95, 5)
    assert unit_of(LOSS).of(interval) is interval
    points = unit_of(ERROR).of(interval)
    assert (points.mean, points.low, points.high) == pytest.approx((2.5, -0.5, 5.5))
    assert (points.level, points.n) == (0.95, 5)


def test_an_experiment_on_images_is_shown_in_errors_and_points(tmp_path: Path) -> None:
    store, experiment = open_store(tmp_path / "store"), replace(outlined("crossmodal", "smoke"), rates=None)
    conduct(experiment, store)
    assessment = assess(experiment, store)
    drawn = {drawing.name: drawing for drawing in standard_drawings("x", assessment, {})}
    assert "points of accuracy" in drawn["x-gaps-fresh"].alt
    assert "share of images" in drawn["x-curves-fresh"].alt
    assert "prior 0.900" in drawn["x-curves-fresh"].caption
    gaps = contrasts(assessment)
    means = {row[1]: row[2].mean for row in gaps.rows}
    for c in assessment.contrasts:
        assert c.interval is not None
        assert means[f"{c.contrast.control} − {c.contrast.treatment}"] == 100 * c.interval.mean
    listed = arms(assessment)
    assert listed.caption == "An arm that knows nothing starts at ln 10 = 2.303 nats"
    assert {"final test error, share of images [95 %]", "past the prior"} <= set(listed.columns)


def test_reasons_are_told_in_words() -> None:
    assert in_words("donors; 7 replicates would decide") == "fewer than 5 donors; 7 replicates would decide"
    assert in_words("the mask works") == "the mask works"
