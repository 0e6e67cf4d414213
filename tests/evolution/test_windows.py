"""Worlds of digits and text, axes, and lives with something withheld."""

import numpy as np
import pytest
import torch

from ontogeny.evolution import skills, windows
from ontogeny.evolution.axes import cores, leading_axes, random_axes, shared, unfolded
from ontogeny.evolution.networks import fit, tensor
from ontogeny.evolution.senses import NOISE, PIXELS, SHIFTS, TESTED, UNMOVED, digits
from ontogeny.evolution.windows import Life, dominance, grow_up, lives, scored, two_eyes, two_skills

RNG = np.random.default_rng(0)


def test_images_are_divided_moved_and_centred() -> None:
    learnt, held = digits(0)
    assert len(learnt.labels) + len(held.labels) == 1797
    assert len(held.labels) == TESTED
    np.testing.assert_allclose(learnt.still.mean(0), 0, atol=1e-5)
    assert learnt.still.var(0).mean() == pytest.approx(1, abs=1e-4)
    down = learnt.moved[SHIFTS.index((1, 0))].reshape(-1, 8, 8)
    pixels = learnt.still.reshape(-1, 8, 8)
    np.testing.assert_allclose(np.diff(down[:, 1:], axis=0), np.diff(pixels[:, :-1], axis=0), atol=1e-4)
    assert (digits(1)[1].labels != held.labels).any()  # another division
    assert UNMOVED == 4


def test_a_closed_eye_sees_noise_of_the_open_eyes_variance() -> None:
    images = digits(0)[0]
    rows = RNG.integers(len(images.labels), size=20_000)
    seen, closed = images.seen(rows, RNG), images.closed(20_000, RNG)
    np.testing.assert_allclose(seen.std(0), closed.std(0), rtol=0.05, atol=0.02)
    assert seen.var() > NOISE**2
    apart = np.corrcoef(closed.T)[np.triu_indices(PIXELS, 1)]
    assert abs(apart).max() < 0.04  # pixels that tell nothing of each other


def test_text_is_in_the_alphabet_and_foretold_from_four_characters() -> None:
    text = np.arange(10) % len(skills.ALPHABET)
    inputs, targets = skills.passages(text, np.array([0, 3]))
    np.testing.assert_array_equal(targets, [4, 7])
    np.testing.assert_array_equal(inputs.reshape(2, 4, 32).argmax(-1), [[0, 1, 2, 3], [3, 4, 5, 6]])
    one, other = (skills.characters(kind) for kind in (skills.SKILL, skills.REST))
    for learnt, held in (one, other):
        assert (len(learnt), len(held)) == (skills.LEARNT, skills.TESTED)
        assert 2.3 < skills.unigram_loss(learnt, held) < np.log(32)
    assert skills.unigram_loss(other[0], one[1]) > skills.unigram_loss(one[0], one[1])  # two kinds indeed


def test_cores_of_full_rank_are_the_weights_themselves() -> None:
    weights = [RNG.normal(size=(6, 4)), RNG.normal(size=(4, 3))]
    axes = [leading_axes(tensor(weights[0]), 4), None]
    layers = unfolded(cores(weights, axes, 2), axes)
    np.testing.assert_allclose(layers[0][0][1], (6 * 4) ** 0.5 / 4 * weights[0], atol=1e-4)
    np.testing.assert_allclose(layers[1][0][0], weights[1], atol=1e-6)


def test_constrained_weights_stay_within_their_axes_and_keep_their_norm() -> None:
    weights = RNG.normal(size=(64, 48))
    axes = [random_axes(64, 48, 12, RNG)]
    layers = cores([weights], axes, 1)
    full = unfolded(layers, axes)[0][0][0]
    assert torch.linalg.matrix_rank(full) == 12
    assert float(full.norm()) == pytest.approx(np.linalg.norm(weights), rel=0.25)
    np.testing.assert_allclose(axes[0][0] @ (axes[0][0].T @ full), full, atol=1e-4)


def test_shared_axes_by_chance_are_rank_over_dimension() -> None:
    found = [shared(random_axes(64, 4, 4, RNG)[0], random_axes(64, 4, 4, RNG)[0]) for _ in range(200)]
    assert np.mean(found) == pytest.approx(4 / 64, rel=0.1)
    axes = random_axes(64, 4, 4, RNG)[0]
    assert shared(axes, axes) == pytest.approx(1, abs=1e-5)


def test_a_network_stops_at_its_own_end() -> None:
    for decaying in (False, True):
        part = torch.zeros(3, 1, 1)
        ends = torch.tensor([2.0, 4.0, 6.0])
        rates = torch.full((3,), 0.1)
        trail: list[torch.Tensor] = []

        def losses(step: int, part: torch.Tensor = part, trail: list[torch.Tensor] = trail) -> torch.Tensor:
            trail.append(part.detach().flatten().clone())
            return part.sum((1, 2))

        fit([part], losses, rates, 6, ends=ends, decaying=decaying)
        np.testing.assert_allclose(trail[2][0], trail[5][0])
        assert trail[4][2] < trail[3][2]
        if not decaying:  # Adam on a constant gradient takes its rate at every step
            np.testing.assert_allclose(part.flatten(), [-0.2, -0.4, -0.6], atol=1e-5)


def test_lives_have_a_twin_that_is_never_deprived() -> None:
    lived = lives((0, 5), (3,), 7)
    assert lived == [Life(0, 0, 7), Life(0, 3, 7), Life(5, 0, 7), Life(5, 3, 7)]
    assert [life.end for life in lived] == [7, 10, 12, 15]


@pytest.mark.parametrize("make", [two_eyes, two_skills])
def test_only_what_is_withheld_differs(make: type) -> None:
    world = make(0)
    (inputs, targets), (poorer, other) = world.batch("life", 3)
    if make is two_eyes:
        assert torch.equal(inputs[:, :PIXELS], poorer[:, :PIXELS])
        assert not torch.equal(inputs[:, PIXELS:], poorer[:, PIXELS:])
        assert torch.equal(targets, other)
    else:
        half = len(targets) // 2
        assert torch.equal(inputs[:half], poorer[:half])
        assert not torch.equal(inputs[half:], poorer[half:])
    assert torch.equal(world.batch("life", 3)[0][0], inputs)
    assert not torch.equal(world.batch("donor's life", 3)[0][0], inputs)


def test_lives_differ_only_while_something_is_withheld() -> None:
    world = two_eyes(0)
    nothing: list[None] = [None] * 3
    layers = cores(windows._start(world, 0, "own"), nothing, 3)
    lived = [Life(0, 0, 4), Life(4, 0, 0), Life(2, 2, 0)]
    grown = grow_up(world, layers, nothing, lived, torch.full((3,), 0.01), "life")
    np.testing.assert_allclose(grown[0][0][0], grown[0][0][1])
    assert not torch.allclose(grown[0][0][0], grown[0][0][2])
    loss, right = scored(grown, world.all)
    assert loss.shape == right.shape == (3,)
    assert loss[0] == loss[1]


def test_dominance_is_signed_and_bounded() -> None:
    images = digits(0)[1]
    weights = tensor(RNG.normal(size=(3, 2 * PIXELS, 5)))
    weights[0, :PIXELS] = 0  # the left eye says nothing
    weights[1, PIXELS:] = 0
    weights[2, PIXELS:] = 3 * weights[2, :PIXELS]
    found = dominance([(weights, torch.zeros(3, 1, 5))], images)
    np.testing.assert_allclose(found, [1, -1, 0.5], atol=1e-5)


def test_deprivation_is_measured_by_onset_and_length() -> None:
    for kind, arm in (("eye", "genome"), ("skill", "random")):
        found = windows.deprivation(kind, arm, (0, 4), (3,), 5, False, 7)
        assert np.shape(found["alone"]) == np.shape(found["all"]) == (2, 2)
        assert ("dominance" in found) == (kind == "eye")
        (never, once), _ = found["dominance" if kind == "eye" else "alone"]
        assert never != once
    world = two_eyes(7)
    dense = windows.axes_for("dense", world, 0.01, 3, 7)
    assert dense == [None] * 3
    genome = windows.axes_for("genome", world, 0.01, 3, 7)
    assert genome[0] is not None
    assert genome[0][0].shape == (2 * PIXELS, windows.RANK)
