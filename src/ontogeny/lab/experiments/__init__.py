"""One module a claim family, its rules in it: ``TITLE``, ``declare`` and ``findings``.

To add one, see docs/how-to-add-an-experiment.md.
"""

from types import ModuleType

from ontogeny.lab.experiments import convergence

EXPERIMENTS: dict[str, ModuleType] = {"convergence": convergence}
