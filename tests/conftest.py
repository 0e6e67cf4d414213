"""Shape annotations are checked in tests of the parts that have them; property tests are deterministic."""

import os
import sys
from pathlib import Path

import jaxtyping
import pytest
import shapes  # noqa: F401  (says what is checked there)
from hypothesis import settings

CHECKED = ("genome", "model", "training")  # elsewhere checks would take as long as what they check
hook = jaxtyping.install_import_hook([f"ontogeny.{room}" for room in CHECKED], "shapes.beartype")
settings.register_profile("ontogeny", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ontogeny")
os.fsync = lambda fd: None  # no test outlives a loss of power
os.sync = lambda: None
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the many processes that tests start would compile everything anew
sys.dont_write_bytecode = False

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """One thread, in a process that runs tests: two BLAS threads on a busy core cost twenty times what one does."""
    if config.getoption("numprocesses") and not hasattr(config, "workerinput"):
        return  # it only hands tests out
    import scipy.linalg  # noqa: F401  (its BLAS must be there to be limited)
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: whether shapes are checked."""
    jaxtyping.config.update("jaxtyping_disable", item.path.parent.name not in CHECKED)


@pytest.fixture
def unchecked() -> None:
    """For arguments of a wrong type: the checker would refuse them before the function does."""
    jaxtyping.config.update("jaxtyping_disable", True)


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
