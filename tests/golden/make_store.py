"""Make the store that ``tests/lab/test_verify.py`` opens: ``PYTHONPATH=src:tests python tests/golden/make_store.py``.

Made anew only for a new schema, under its own name: the stores of older ones stay as they are.
"""

import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import smoke

from ontogeny.canonical import plain
from ontogeny.lab.conduct import conduct
from ontogeny.lab.engines import local
from ontogeny.lab.prepare import find_scale, prepare
from ontogeny.lab.store import SCHEMA, open_store
from ontogeny.lab.study import conduct_study, declare_study
from ontogeny.terminal.lab import fixed_rates
from ontogeny.terminal.studies import find_studies

SETTINGS = (
    "width=8", "layers=2", "heads=1", "ffn=8", "vocabulary=272", "length=8", "batch=2", "steps=2", "donor_steps=2",
    "windows=2", "replicates=1", "evaluate_at=1,2", "donors=2",
)  # fmt: skip


def make(root: Path) -> None:
    """One experiment on networks and one study, as small as they get; without locks and the text itself."""
    text = smoke.write_text(root.with_suffix(".jsonl"), documents=300, words=10)
    store, rates = open_store(root), fixed_rates("convergence", "demo")
    plan = prepare("convergence", find_scale("convergence", "smoke", SETTINGS), store, text=[str(text)], rates=rates)
    (module,) = find_studies("symmetry")
    study = declare_study(module, "smoke", ["replicates=1"])
    store.declare(plain(study))
    with local(1) as mapper:
        conduct(plan, mapper)
        conduct_study(study, module.compute, store, mapper, lambda *_: None)
    text.unlink()
    for lock in [*root.rglob("lock"), *root.rglob(".*")]:
        lock.unlink()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        make(Path(folder) / "store")
        with tarfile.open(Path(__file__).parent / f"store-{SCHEMA}.tar.gz", "w:gz") as archive:
            archive.add(Path(folder) / "store", "store")
