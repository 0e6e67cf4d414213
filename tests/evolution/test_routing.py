"""Twins raised apart, and directions chosen by a context: what their designs fix."""

import numpy as np
import pytest
import torch

from ontogeny.evolution import raised_apart as apart
from ontogeny.evolution import routing as route
from ontogeny.evolution.networks import outputs


def test_parts_of_the_digits_have_no_image_twice() -> None:
    split = apart.parts(1, {"a": 1000, "b": 797})
    images = np.concatenate([images for images, _ in split.values()])
    assert len(np.unique(images, axis=0)) == len(np.unique(apart.digits()[0], axis=0))
    assert not np.array_equal(split["a"][1], apart.parts(2, {"a": 1000})["a"][1])


@pytest.mark.parametrize("donors", [True, False])
def test_genes_are_orthonormal_directions(donors: bool) -> None:
    for layer in apart._genes(1, donors, 2):
        for side in layer:
            k = apart.DIRECTIONS
            np.testing.assert_allclose(side.swapaxes(1, 2) @ side, np.eye(k)[None].repeat(apart.GENOMES, 0), atol=1e-5)


def test_environments_favour_classes_of_their_own_and_share_them_over_seeds() -> None:
    labels = apart.parts(1, apart.PARTS)["twins"][1]
    cells = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
    rows = apart._rows(1, cells, labels, 9.0, 200).numpy()
    seen = [np.bincount(labels[rows[:, cell].ravel()], minlength=10) / rows[:, cell].size for cell in range(4)]
    np.testing.assert_array_equal(rows[:, 0], rows[:, 1])  # whatever the genome
    assert not np.array_equal(rows[:, 0], rows[:, 2])
    np.testing.assert_allclose(seen[0], seen[2], atol=0.02)
    assert np.sort(seen[0])[-5:].sum() == pytest.approx(0.9, abs=0.03)
    assert np.abs(seen[0] - seen[3]).max() > 0.1
    even = apart._rows(1, cells[:1], labels, 1.0, 200).numpy()
    assert np.bincount(labels[even.ravel()], minlength=10).min() > 0.07 * even.size


def test_twins_start_alike_in_their_genomes_subspaces() -> None:
    genes = apart._genes(1, False, 0)
    cells = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0]])
    layers = apart._raised(1, genes, cells, 1.0, torch.zeros(3), 1)
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))[:1].expand(3, -1, -1)
    said = outputs(layers, x)
    torch.testing.assert_close(said[0], said[1])
    assert not torch.allclose(said[0], said[2])
    V, U = genes[0]
    inside = V[0] @ V[0].T @ layers[0][0][0].double().numpy() @ U[0] @ U[0].T
    np.testing.assert_allclose(inside, layers[0][0][0], atol=1e-5)


def test_twins_shares_add_up_and_alike_environments_do_nothing_of_their_own() -> None:
    found = apart.raised_apart(donors=False, skew=1.0, steps=5, seed=1)
    effects = [name for name in found if any(factor in name for factor in apart.FACTORS)]
    assert sum(found[name] for name in effects) == pytest.approx(1)
    assert len(effects) == 7
    assert found["environment"] < found["seed"]


def test_equal_active_parameters() -> None:
    router = (route.REGIMES + 1) * route.DIRECTIONS
    for inputs in (20, 68):
        spare = (route.active(inputs) - route.ACTIVE) * (inputs + route.HIDDEN)
        assert router <= spare < router + inputs + route.HIDDEN


def test_gates_are_few_add_up_and_follow_the_context_alone() -> None:
    rows = route.worlds("planted", 1)["test"]
    parts = route._fresh("gated", rows, range(2), 1)
    chosen = route.gates(parts, rows.inputs[:, -route.REGIMES :].expand(2, -1, -1))
    assert int((chosen > 0).sum(-1).max()) == int((chosen > 0).sum(-1).min()) == route.ACTIVE
    torch.testing.assert_close(chosen.sum(-1), torch.full(chosen.shape[:2], float(route.ACTIVE)))
    assert len(torch.unique(chosen[0] > 0, dim=0)) > 1
    assert torch.all(rows.drawn.sum(1) == route.active(rows.inputs.shape[1]))


@pytest.mark.parametrize("arm", route.ARMS)
def test_rows_use_the_directions_of_their_arm(arm: route.Arm) -> None:
    rows = route.worlds("planted", 1)["test"]
    parts = route._fresh(arm, rows, range(1), 1)
    x = rows.inputs[None]
    said = route._said(arm, parts, x, rows.drawn, None)
    used = {"gated": route.gates(parts, x[..., -4:])[0], "random": rows.drawn}.get(arm)
    unused = parts[0].shape[2] - 1 if used is None else int(used[0].argmin())
    parts[1][:, unused] += 1.0
    changed = route._said(arm, parts, x, rows.drawn, None)
    assert torch.equal(said[0, 0], changed[0, 0]) is (arm in ("gated", "random"))
    assert parts[0].shape[2] == (5 if arm == "fixed" else route.DIRECTIONS)


def test_worlds_of_digits_turn_images_or_change_names() -> None:
    turned, asked, plain = (route.worlds(world, 1)["tune"] for world in ("turned", "asked", "plain"))
    labels = apart.parts(1, route.PARTS)["tune"][1]
    size = len(labels)
    torch.testing.assert_close(
        turned.inputs[size : 2 * size, :64].reshape(-1, 8, 8).rot90(-1, (1, 2)),
        turned.inputs[:size, :64].reshape(-1, 8, 8),
    )
    assert torch.equal(asked.inputs[:size, :64], asked.inputs[-size:, :64])
    assert not torch.equal(asked.wanted[:size], asked.wanted[-size:])
    assert torch.equal(plain.wanted[:size], plain.wanted[-size:])
    assert np.array_equal(plain.wanted[:size].numpy(), labels)
    cues = {name: rows.inputs[:, -4:].reshape(4, size, 4).mean(1) for name, rows in (("t", turned), ("p", plain))}
    torch.testing.assert_close(cues["t"], torch.eye(4), atol=0.1, rtol=0)
    torch.testing.assert_close(cues["p"], torch.eye(4)[:1].expand(4, 4), atol=0.1, rtol=0)


def test_a_routing_condition_has_its_numbers() -> None:
    found = route.routing(world="planted", steps=3, seed=1)
    assert set(found) == {*route.ARMS, "dealt", "resolved"}
    assert all(np.isfinite(value) for value in found.values())
    assert found == route.routing(world="planted", steps=3, seed=1)
