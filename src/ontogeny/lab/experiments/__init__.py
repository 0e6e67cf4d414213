"""One module a claim family, its rules in it: ``TITLE``, ``FLAW``, ``RULES``, ``declare`` and ``findings``.

Studies (``lab/study.py``) have ``conditions``, ``compute`` and ``ANSWERS`` in place of ``declare`` and ``findings``. To
add one, see docs/how-to-add-an-experiment.md.
"""

from types import ModuleType

from ontogeny.lab.experiments import (
    convergence,
    corpora,
    crossmodal,
    data,
    development,
    economy,
    extraction,
    learning,
    newborn,
    phases,
    profile,
    rank,
    reachability,
    selection,
    sparsity,
    stage2,
)

ALL = (
    convergence,
    sparsity,
    extraction,
    reachability,
    rank,
    crossmodal,
    profile,
    data,
    development,
    corpora,
    newborn,
    phases,
    stage2,
    economy,
)
EXPERIMENTS: dict[str, ModuleType] = {module.NAME: module for module in ALL}
STUDIES: dict[str, ModuleType] = {module.NAME: module for module in (selection, learning)}
GROUPS = {"theory": tuple(STUDIES)}
