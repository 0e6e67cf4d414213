"""A donor that the user gives is read whole before any work: what is no number is named."""

from pathlib import Path

import pytest
import tiny
import torch
from poisoned import check_every_entry
from safetensors.torch import load_file, save_file

from ontogeny.errors import CheckpointError
from ontogeny.lab.donors import given_donor
from ontogeny.lab.families import read_given


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "vit"])
def test_what_is_no_number_is_named_wherever_it_stands(name: str, tmp_path: Path) -> None:
    """Embeddings, attention, feed-forward, norms, biases, heads; every architecture and value in the soak."""
    named, cases, _ = check_every_entry(tiny.tiny_checkpoint(name, tmp_path / name), values=1)
    assert cases == 3 * named >= 30


def test_a_scalar_buffer_may_be_infinite(tmp_path: Path) -> None:
    """Pythia's checkpoints have them: minus a billion in half precision."""
    directory = tiny.tiny_checkpoint("gpt_neox", tmp_path / "neox")
    state = load_file(directory / "model.safetensors")
    state["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9).half()
    state["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    save_file(state, directory / "model.safetensors")
    given_donor(str(directory))


def test_a_damaged_norm_is_named_before_any_work(tmp_path: Path) -> None:
    directory = tiny.tiny_checkpoint("llama", tmp_path / "damaged")
    state = load_file(directory / "model.safetensors")
    state["model.norm.weight"][-1] = float("nan")
    save_file(state, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor model\.norm\.weight has NaN or infinite entries"):
        read_given([str(directory)])
