"""Axes that settle, variance components of axes, and preferences that are tuned and undone."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ontogeny.evolution import preference as preferred
from ontogeny.evolution.continents import COMPONENTS, continents, variance_shares
from ontogeny.evolution.dialects import corpus, make_dialect, mark, windows
from ontogeny.evolution.language_models import SITES, fresh, make_frame
from ontogeny.evolution.preference import FREE, KEPT, UNDONE, Look, Walk, distance, looks, preference, undone, walk
from ontogeny.evolution.settling import _repeated, settling
from ontogeny.streams import numpy_stream

LABELS = np.repeat(np.arange(3), 6), np.tile(np.repeat(np.arange(3), 2), 3)


def test_variance_shares_are_those_planted() -> None:
    (a, c), planted = LABELS, (0.2, 0.15, 0.1, 0.05)
    same = a[:, None] == a, c[:, None] == c
    agreed = planted[0] + planted[1] * same[0] + planted[2] * same[1] + planted[3] * (same[0] & same[1])
    agreed[np.eye(18, dtype=bool)] = 1
    found = variance_shares(agreed, *LABELS)
    np.testing.assert_allclose([found[name] for name in COMPONENTS], [*planted, 0.5], atol=1e-12)


def test_labels_without_an_effect_have_no_share() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(100):
        points = rng.normal(size=(18, 50)) / 50**0.5
        found = variance_shares(points @ points.T, *LABELS)
        shares.append([found[name] for name in COMPONENTS])
    np.testing.assert_allclose(np.mean(shares, 0), [0, 0, 0, 0, 1], atol=0.02)
    assert np.min(shares) < 0  # unbiased, so some are below


def test_a_share_of_the_text_is_read_again_and_again() -> None:
    rng = np.random.default_rng(0)
    order = _repeated(400, 0.1, rng)
    assert len(order) == 400
    assert np.bincount(order).tolist() == [10] * 40
    assert not torch.equal(order[:40], order[40:80])
    assert sorted(_repeated(400, 1.0, rng).tolist()) == list(range(400))


def test_settling_starts_from_the_start_and_has_learnt() -> None:
    found = settling(30, (0.1, 0.5), 3)
    assert found["loss final"] < found["loss steps 0.5"] < found["loss steps 0.1"] < found["loss start"]
    assert found["start"] > 0.3  # the twin has the same one
    assert abs(found["foreign start"]) < 0.1
    assert found["steps 0.1"] < 1
    assert found["loss shuffled"] > found["loss final"]


def test_continents_have_shares_by_site() -> None:
    found = continents(2, 2, 3)
    for part in ("core", "margins"):
        shares = np.array([found[f"{part} {name}"] for name in COMPONENTS])
        assert shares.shape == (len(COMPONENTS), len(SITES))
        np.testing.assert_allclose(shares.sum(0), 1)
        assert abs(float(np.mean(found[f"untrained {part} seed"])) - 1) < 0.03


def test_looks_are_dense_at_first() -> None:
    assert looks(8) == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    many = looks(256)
    assert (many[0], many[-1]) == (0, 256)
    assert max(b / a for a, b in pairwise(many[8:])) < 1.2


def test_half_of_a_margin_is_found_between_looks() -> None:
    falling = np.array([4.0, 3.0, 1.0, 0.0])
    margins = np.stack([np.stack([falling, np.full(4, 1.0)], 1)] * len(UNDONE), 1)
    found = undone(Walk([0, 1, 2, 4], [], margins))
    assert found["tuned undone kept"] == pytest.approx(1.5)
    assert (found["late undone free"], found["late undone free in time"]) == (4.0, 0.0)


def test_a_preference_is_learnt_and_nothing_else_of_its_text() -> None:
    rng, frame = numpy_stream(0, "test"), make_frame(0)
    text = corpus("prose", 60_000)
    dialect = make_dialect(text, rng)
    read = windows(mark(text, dialect, (0.5, 0.5), rng), rng)
    path = walk(fresh(rng), [read[100:]] * 2, Look(frame, dialect, read[:32]), 0.01, 60, prefers=True)
    gained = path.margins[-1] - path.margins[0]
    assert gained[0, FREE] > 2
    assert gained[0, FREE] > abs(gained[0, KEPT]) + 1
    assert abs(gained[1, FREE]) < 1  # of the other, whose text prefers nothing
    assert distance([part[:1] for part in path.bodies[0]], [part[1:] for part in path.bodies[0]]) == 0


def test_tuning_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preferred, "best_rate", lambda *_: (0.01, True))
    found = preference(10, 6, 0.5, 1)
    moves = {name: found[f"move {name}"] for name in ("tuned", "late", "steps", "distance", "noise")}
    assert all(0 < move < 1 for move in moves.values()), moves
    assert found["ordinary distance"] > 0
    assert {f"{name} undone {rule}" for name in UNDONE for rule in ("kept", "free")} <= set(found)
