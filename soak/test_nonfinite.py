"""What is no number in a donor is named before any work, wherever it stands."""

from pathlib import Path

import tiny
from conftest import Figure
from poisoned import BAD, check_every_entry


def test_non_finite_donors(tmp_path: Path, figure: Figure) -> None:
    found = [check_every_entry(tiny.tiny_checkpoint(name, tmp_path / name), len(BAD)) for name in tiny.TINY]
    tensors, cases, seconds = zip(*found, strict=True)
    figure(
        "non-finite: a donor",
        f"{sum(cases):,} of {sum(cases):,} NaN and ±inf at the first, middle and last entry of {sum(tensors)} "
        f"tensors of {len(found)} architectures named within {max(seconds):.2f} s of opening the file",
    )
