"""From what the user asked for to a plan: an experiment's donor families, made or outlined, and its declaration."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ontogeny.canonical import plain
from ontogeny.errors import InputError
from ontogeny.lab.conduct import Plan
from ontogeny.lab.experiment import Experiment, Rates, Setting
from ontogeny.lab.experiments import EXPERIMENTS
from ontogeny.lab.families import make_family, outline_family, read_given
from ontogeny.lab.networks import Lab
from ontogeny.lab.scales import Scale, Variant, scale
from ontogeny.lab.store import Store
from ontogeny.training import together

AllRates = Mapping[str, Mapping[str, Rates]]  # embeddings -> arm -> rates


def find_experiment(name: str) -> ModuleType:
    """An experiment's module: one of the table, or a Python file of the user's own with ``declare`` in it."""
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        module_name = f"ontogeny_experiment_{path.stem}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever the user's own code raises
            raise InputError(f"{name}: can't be loaded, {type(error).__name__}: {error}") from error
        if not hasattr(module, "declare"):
            raise InputError(f"{name}: no function 'declare' in it; docs/how-to-add-an-experiment.md shows one")
        return module
    raise InputError(
        f"no experiment {name!r}: known are {', '.join(EXPERIMENTS)}, or give a Python file with 'declare'"
    )


def find_scale(name: str, scale_name: str, settings: Sequence[str] = ()) -> Scale:
    """A scale as an experiment has it: the preset, the experiment's changes to it (``SCALES``), the user's settings."""
    return scale(scale_name, settings, getattr(find_experiment(name), "SCALES", {}))


def prepare(
    name: str,
    scale: Scale,
    store: Store,
    *,
    donors: Sequence[str] = (),
    text: Sequence[str] = (),
    table: str = "primary",
    rates: AllRates | None = None,
) -> Plan:
    """Read the texts, tokenise them once, name the donors, and declare the experiment in the store.

    Raises InputError for everything that would go wrong later: an unknown experiment or text, a text too small for
    the steps, a rank that the donor's sites can't have.
    """
    module = find_experiment(name)
    variants = find_variants(name, scale, table, text, given=bool(donors))
    families = {
        key: make_family(variant, read_given(donors or variant.scale.hub_donors), store)
        for key, variant in variants.items()
    }
    main = families[""]
    texts = {key: family.text for key, family in families.items() if key}
    experiment = _declare(
        module,
        scale,
        variants,
        {key: family.setting for key, family in families.items()},
        text=dict(main.text) | ({"settings": texts} if texts else {}),
        donor_records=tuple({repr(r): r for family in families.values() for r in family.records}.values()),
        given=bool(donors or scale.hub_donors),
        table=table,
        rates=rates,
    )
    if together.sharding():
        check_sharded(experiment)
    store.declare(plain(experiment))
    recipes = {recipe.id: recipe for family in families.values() for recipe in family.recipes}
    paths = {donor: path.absolute() for family in families.values() for donor, path in family.paths.items()}
    return Plan(experiment, Lab(store, paths), tuple(recipes.values()))


def check_sharded(experiment: Experiment) -> None:
    """InputError for what reads whole parameters on the way, which networks spread over processes don't have."""
    whole = [f"arm {arm.name} is distilled" for arm in experiment.arms if arm.teacher]
    whole += [f"arm {arm.name} develops" for arm in experiment.arms if arm.develop is not None]
    whole += ["optimizer is muon" for setting in experiment.all_settings().values() if setting.optimizer == "muon"]
    if whole:
        raise InputError(f"accelerate launch --use_fsdp: {whole[0]}, which needs whole networks; run it without")


def outline(
    name: str,
    scale: Scale,
    donors: Sequence[str],
    table: str,
    rates: AllRates | None = None,
    text: Sequence[str] = (),
) -> Experiment:
    """The experiment as ``prepare`` would declare it, without reading a text or writing a store: for its costs."""
    module = find_experiment(name)
    variants = find_variants(name, scale, table, text, given=bool(donors))
    given = read_given(donors)
    settings = {key: outline_family(variant, given) for key, variant in variants.items()}
    options: dict[str, Any] = {"text": {}, "donor_records": (), "given": bool(given), "table": table, "rates": rates}
    return _declare(module, scale, variants, settings, **options)


def find_variants(
    name: str, scale: Scale, table: str, text: Sequence[str] = (), *, given: bool
) -> Mapping[str, Variant]:
    """An experiment's donor families by name, the main one under ""; most have that one alone."""
    module = find_experiment(name)
    if hasattr(module, "variants"):
        found: Mapping[str, Variant] = module.variants(scale, table, tuple(text), given)
        return found
    return {"": Variant(scale, tuple(text))}


def _declare(
    module: ModuleType,
    scale: Scale,
    variants: Mapping[str, Variant],
    settings: Mapping[str, Setting],
    **options: Any,
) -> Experiment:
    """Call the experiment's ``declare``; ``settings`` are handed on only where there are several."""
    linked = {
        key: replace(setting, others=settings[variant.others].donors) if variant.others is not None else setting
        for (key, variant), setting in zip(variants.items(), settings.values(), strict=True)
    }
    further = {key: setting for key, setting in linked.items() if key}
    shared = {name: getattr(scale, name) for name in ("decisive", "replicates", "audit")}
    several = {"settings": further} if further else {}
    experiment: Experiment = module.declare(scale=scale.name, setting=linked[""], **shared, **several, **options)
    return experiment
