"""The stores that earlier versions wrote, one for each schema, as ``tests/golden/make_store.py`` made them."""

import tarfile
from pathlib import Path

from ontogeny.lab.store import Store, open_store

GOLDEN = sorted((Path(__file__).parent / "golden").glob("store-*.tar.gz"))


def golden_store(folder: Path, archive: Path = GOLDEN[-1]) -> Store:
    """One of them, the newest unless another is named, in a folder of the test's own."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return open_store(folder / "store")
