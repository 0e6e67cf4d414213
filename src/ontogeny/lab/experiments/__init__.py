"""One module a claim family, its rules in it: ``TITLE``, ``FLAW``, ``RULES``, ``declare`` and ``findings``.

To add one, see docs/how-to-add-an-experiment.md.
"""

from types import ModuleType

from ontogeny.lab.experiments import (
    convergence,
    crossmodal,
    data,
    development,
    extraction,
    profile,
    rank,
    reachability,
    sparsity,
    stage2,
)

EXPERIMENTS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (
        convergence, sparsity, extraction, reachability, rank, crossmodal, profile, data, development, stage2,
    )
}  # fmt: skip
