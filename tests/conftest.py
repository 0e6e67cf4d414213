"""Shape annotations are checked while tests run; property tests are deterministic."""

from pathlib import Path

import pytest
import scipy.linalg  # noqa: F401  (its BLAS must be there to be limited)
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from threadpoolctl import threadpool_limits

hook = install_import_hook("ontogeny", "beartype.beartype")
settings.register_profile("ontogeny", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ontogeny")
torch.set_num_threads(1)
threadpool_limits(1)  # two BLAS threads on a busy core cost twenty times what one does

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; tests that need it skip where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not found: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with a tokenizer."""
    import smoke
    import tiny

    directory = tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("checkpoints") / "llama")
    smoke.write_tokenizer(directory, tiny.VOCABULARY)
    return directory


@pytest.fixture(scope="session")
def genome_file(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint's genome at rank 25 %."""
    from ontogeny import Recipe, extract, open_checkpoint, save

    path = tmp_path_factory.mktemp("genomes") / "g.safetensors"
    save(extract(open_checkpoint(llama), Recipe("25%")), path)
    return path
