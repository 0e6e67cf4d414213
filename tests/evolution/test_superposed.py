"""Texts, directions and their z, against texts and features whose answers are known."""

import numpy as np
import pytest

from ontogeny.evolution.superposed import ALPHABET, CONTEXT, _tokens, _worlds, prose, read, superposition, z


def test_contexts_come_before_what_is_said() -> None:
    ids = np.array([ALPHABET.index(c) for c in "the cat"])
    inputs, following, last = read(ids)
    assert "".join(ALPHABET[i] for i in following) == " cat"
    assert "".join(ALPHABET[i] for i in last) == "e ca"
    assert inputs.shape == (4, CONTEXT * len(ALPHABET))
    assert [ALPHABET[i] for i in inputs[1].reshape(CONTEXT, -1).argmax(1)] == ["h", "e", " "]
    text = prose()
    assert len(text) > 200_000
    assert not ((text[1:] == 26) & (text[:-1] == 26)).any()  # one space at a time


def rows(seed: int, places: list[int]) -> np.ndarray:
    """Features that vary along these places much more than elsewhere."""
    scale = np.full(10, 0.1)
    scale[places] = [3.0, 2.0]
    return np.asarray(np.random.default_rng(seed).normal(size=(400, 10)) * scale)


def test_worlds_apart_and_worlds_together() -> None:
    dealt = [rows(seed, [seed % 10, (seed + 1) % 10]) for seed in range(10, 16)]
    fresh = [rows(1, [0, 1]), rows(2, [0, 1])]
    together = _worlds([rows(3, [0, 1]), rows(4, [0, 1]), rows(5, [0, 1]), *dealt], fresh, 3, 2, 0)
    assert together["worlds overlap"] > 0.9
    assert together["worlds z matched"] > 0
    assert together["worlds variant"] == pytest.approx(0, abs=0.05)
    apart = _worlds([rows(3, [0, 1]), rows(4, [0, 1]), rows(5, [2, 3]), *dealt], fresh, 3, 2, 0)
    assert apart["worlds overlap"] < 0.1
    assert apart["worlds z matched"] < 0
    assert apart["worlds variant"] > 0.8


def test_tokens_apart_and_tokens_together() -> None:
    last = np.arange(1600) // 400
    apart = np.vstack([rows(seed, [2 * seed, 2 * seed + 1]) for seed in range(4)])
    together = np.vstack([rows(seed, [0, 1]) for seed in range(4)])
    nothing = [np.random.default_rng(seed).normal(size=(1600, 10)) for seed in range(3)]
    found = _tokens([apart, *nothing], together, last, 2, 0)
    assert found["tokens z matched"] < 0 < found["tokens variant"]
    assert found["tokens untrained"] > 0.9
    assert _tokens([together, *nothing], apart, last, 2, 0)["tokens z dealt"] > 2


def test_z_counts_standard_deviations() -> None:
    assert z(5.0, [1.0, 2.0, 3.0]) == pytest.approx(3.0)


def test_networks_are_raised_and_measured() -> None:
    found = superposition(characters=1500, held=4000, steps=40, directions=2, dealt=2, seed=0)
    assert np.isfinite(list(found.values())).all()
    assert 0 < found["worlds overlap"] <= 1
    assert found["gain"] > -1
