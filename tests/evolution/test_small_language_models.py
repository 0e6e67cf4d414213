"""Marked text against its rules, and stacks of small language models against what must hold of them."""

from typing import Any

import numpy as np
import pytest
import torch

from ontogeny.evolution.continents import ARCHITECTURES
from ontogeny.evolution.dialects import (
    LENGTH,
    MARKS,
    SYMBOLS,
    TABLE,
    Dialect,
    Text,
    bigram_loss,
    corpus,
    encode,
    make_dialect,
    mark,
    slots,
    windows,
)
from ontogeny.evolution.language_models import (
    BATCH,
    SITES,
    WIDTH,
    Shape,
    agreement,
    axes,
    best_rate,
    fresh,
    logits,
    make_frame,
    next_symbol_losses,
    one_of,
    together,
)
from ontogeny.genome.compare import overlap_null
from ontogeny.streams import numpy_stream


@pytest.fixture(scope="module")
def text() -> Text:
    return corpus("prose", 20_000)


@pytest.fixture(scope="module")
def dialect(text: Text) -> Dialect:
    return make_dialect(text, numpy_stream(0, "dialect"))


def test_text_is_written_in_few_symbols() -> None:
    assert "".join(TABLE[i] for i in encode("Ab 3%\né")) == "ab 0·\n·"
    assert corpus("code", 500).max() < len(TABLE) == SYMBOLS - 2
    np.testing.assert_array_equal(corpus("backwards", 500), corpus("prose", 500)[::-1])


def test_windows_are_all_of_a_text(text: Text) -> None:
    found = windows(text[: 10 * LENGTH + 5], np.random.default_rng(0))
    assert found.shape == (10, LENGTH + 1)
    whole = {tuple(text[i * LENGTH : (i + 1) * LENGTH + 1].tolist()) for i in range(10)}
    assert {tuple(row.tolist()) for row in found} == whole


def test_bigram_losses_have_closed_forms() -> None:
    assert bigram_loss(np.arange(1000) % 7) == pytest.approx(0)
    coins = np.random.default_rng(0).integers(2, size=100_000)
    assert bigram_loss(coins) == pytest.approx(np.log(2), abs=1e-3)


def test_marks_follow_their_rules(text: Text, dialect: Dialect) -> None:
    marked = mark(text, dialect, (1.0, 0.0), np.random.default_rng(0))
    np.testing.assert_array_equal(marked[marked < MARKS[0]], text)
    every = torch.from_numpy(marked)[None]
    due = [slots(every, dialect, rule) for rule in (0, 1)]
    for (places, classes), agrees in zip(due, (True, False), strict=True):
        said = every[:, 1:][places] - MARKS[0]
        assert ((said == classes[places]) == agrees).all()
        assert len(said) > len(text) / 30
    assert sum(int(places.sum()) for places, _ in due) == (marked >= MARKS[0]).sum()
    half = mark(text, dialect, (0.5, 0.5), np.random.default_rng(0))
    places, classes = slots(torch.from_numpy(half)[None], dialect, 0)
    said = torch.from_numpy(half)[None][:, 1:][places] - MARKS[0]
    assert float((said == classes[places]).double().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("shape", ARCHITECTURES.values(), ids=list(ARCHITECTURES))
def test_a_stack_is_its_networks_and_looks_not_ahead(shape: Shape) -> None:
    rng, frame = np.random.default_rng(0), make_frame(0)
    body = together([fresh(rng) for _ in range(3)])
    symbols = torch.from_numpy(rng.integers(SYMBOLS, size=(3, 2, 9)))
    found = logits(body, symbols, frame, shape)
    single = logits(one_of(body, [1]), symbols[1:2], frame, shape)
    torch.testing.assert_close(found[1:2], single, atol=1e-4, rtol=1e-4)
    changed = symbols.clone()
    changed[..., -1] = (changed[..., -1] + 1) % SYMBOLS
    other = logits(body, changed, frame, shape)
    torch.testing.assert_close(found[:, :, :-1], other[:, :, :-1], atol=1e-5, rtol=1e-5)
    assert float((found - other)[:, :, -1].abs().max().detach()) > 0.1


def test_order_matters_to_it_and_losses_are_cross_entropies() -> None:
    rng, frame = np.random.default_rng(0), make_frame(0)
    body, symbols = fresh(rng), torch.from_numpy(rng.integers(SYMBOLS, size=(1, 2, 9)))
    found = logits(body, symbols[..., :-1], frame, Shape())
    probabilities = found.softmax(-1).gather(-1, symbols[..., 1:, None])
    loss = next_symbol_losses(body, symbols, frame, Shape())
    torch.testing.assert_close(loss, -probabilities.log().mean()[None])
    swapped = symbols[..., [1, 0, *range(2, 9)]]
    assert (
        float((logits(body, swapped, frame, Shape()) - logits(body, symbols, frame, Shape()))[:, :, 5].abs().max())
        > 1e-3
    )


def test_axes_are_of_the_sides_to_the_residual_stream() -> None:
    body = fresh(np.random.default_rng(0))
    planted = torch.linalg.qr(torch.randn(WIDTH, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    for place, (_, role) in enumerate(SITES):
        W = body[place]
        W += (
            100 * (planted @ torch.ones(3, W.shape[2], dtype=torch.float64).cumsum(0)).float()[None]
            if role == "up"
            else 0
        )
        if role == "down":
            W += 100 * torch.outer(torch.ones(W.shape[1]), planted[:, 0].float())[None]
    found = axes(body, 0, 1)
    for place, (_, role) in enumerate(SITES):
        if role in ("up", "down"):
            shown = float((planted.T @ found[place, 0]).square().sum())
            assert shown == pytest.approx(1, abs=0.02)


def test_untrained_networks_agree_as_random_subspaces() -> None:
    rng, rank = np.random.default_rng(0), 6
    found = axes(together([fresh(rng) for _ in range(12)]), 0, rank)
    agreed = agreement(found, found)
    np.testing.assert_allclose(np.einsum("snn->sn", agreed), 1, atol=1e-9)
    null = overlap_null(WIDTH, rank, rank)
    others = agreed[:, ~np.eye(12, dtype=bool)]
    assert abs(others.mean()) < 0.01
    assert others.std() == pytest.approx(null.sd / (1 - null.mean), rel=0.15)
    margins = axes(together([fresh(rng)]), 6, 12)
    assert margins.shape == (len(SITES), 1, WIDTH, 6)


def test_rates_are_tuned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    from ontogeny.evolution import language_models

    monkeypatch.setattr(language_models, "fit", lambda *given, **_: calls.append(given))
    best_rate.cache_clear()
    assert best_rate(Shape(), 2, "prose") == best_rate(Shape(), 2, "prose")
    assert len(calls) == 1
    assert calls[0][0][0].shape[0] == len(language_models.RATES)
    assert BATCH == 8
    best_rate.cache_clear()
