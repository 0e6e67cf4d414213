"""One module a claim family, its rules in it: ``TITLE``, ``FLAW``, ``RULES``, ``declare`` and ``findings``.

Studies (``lab/study.py``) have ``conditions``, ``compute`` and ``ANSWERS`` in place of ``declare`` and ``findings``. To
add one, see docs/how-to-add-an-experiment.md.
"""

from types import ModuleType

from ontogeny.lab.experiments import (
    context,
    convergence,
    corpora,
    critical,
    crossmodal,
    data,
    development,
    economy,
    extraction,
    formation,
    learning,
    mutation,
    newborn,
    outerloop,
    phases,
    profile,
    rank,
    reachability,
    rule,
    selection,
    sparsity,
    stage2,
    symmetry,
    timescales,
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
THEORY = (selection, mutation, outerloop, critical, timescales, rule, symmetry, formation, learning, context)
STUDIES: dict[str, ModuleType] = {module.NAME: module for module in THEORY}
GROUPS = {"theory": tuple(STUDIES)}
