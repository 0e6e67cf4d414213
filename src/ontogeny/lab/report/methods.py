"""The methods section: what holds for every experiment, and what this one declares."""

from collections.abc import Mapping
from typing import Any

from ontogeny.lab.experiment import Experiment, Setting
from ontogeny.lab.study import Study

REPLICATE = (
    "fixes independent streams of donor, control draw, initialisation and data order; every arm of a replicate shares "
    "all that apply to it. Replicate 0 is for tuning alone."
)
EMBEDDINGS = (
    "fresh: drawn anew; frozen or trainable: those of the replicate's donor, in every arm, random and dense too"
)


def method_rows(experiment: Experiment, flaw: str) -> list[tuple[str, str]]:
    """(term, what it means here), the flaw of the published experiment first."""
    return [
        *([("flaw controlled for", flaw)] if flaw else []),
        *experiment.rules.items(),
        ("replicate", REPLICATE),
        ("embeddings", EMBEDDINGS),
        *_texts(experiment.text),
        *_settings(experiment),
        (
            "step-0 audit",
            "on: arms that start more than 0.2 nats apart are not compared" if experiment.audit else "off",
        ),
        (
            "condition",
            "verdicts are for this checkpoint"
            if experiment.single_checkpoint
            else "verdicts are for donors in general: they need five or more",
        ),
    ]


def study_rows(study: Study, flaw: str) -> list[tuple[str, str]]:
    """The same of a study."""
    return [
        *([("flaw controlled for", flaw)] if flaw else []),
        *study.rules.items(),
        ("replicate", "fixes every random stream; all conditions of a replicate share those that apply to them"),
        ("settings", _pairs(study.settings)),
    ]


def _texts(text: Mapping[str, Any]) -> list[tuple[str, str]]:
    main = {key: value for key, value in text.items() if key != "settings"}
    others = {f"text, {name}": other for name, other in text.get("settings", {}).items() if other != main}
    return [(term, f"{_pairs(each)}. {SPLIT}") for term, each in {"text": main, **others}.items()]


SPLIT = "Split by document into train, tune and test; windows without replacement."


def _pairs(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items())


def _settings(experiment: Experiment) -> list[tuple[str, str]]:
    """The main setting, and of every other one what differs."""
    main = _describe(experiment.setting)
    rows = list(main.items())
    for name, setting in experiment.settings.items():
        rows += [(f"{term}, {name}", text) for term, text in _describe(setting).items() if text != main.get(term)]
    return rows


def _describe(setting: Setting) -> dict[str, str]:
    steps = f"{setting.steps} steps; evaluated at steps {', '.join(map(str, setting.evaluate_at))}; {setting.precision}"
    if setting.horizons:
        steps = (
            f"one run at a constant rate, cooled down to each of {', '.join(map(str, setting.horizons))} steps; rates "
            f"tuned at {setting.tuning_horizon}; {setting.precision}"
        )
    if setting.vision is None:
        learnt = {"tokens": f"{setting.batch} × {setting.length} a step, {steps}; losses on {setting.windows} windows"}
    else:
        vision = setting.vision
        image = f"{vision.size} × {vision.size} × {vision.channels}, {vision.classes} classes"
        patches = f"patches of {vision.patch} × {vision.patch} read in order, attention {vision.attention}"
        learnt = {"images": f"{image}; {patches}; {setting.batch} a step, {steps}; errors on {setting.windows} images"}
    skipped = {"skipped": f"{setting.skip} steps of training text that were read before"} if setting.skip else {}
    muon = {"optimiser": "Muon for full cores, AdamW for everything else"} if setting.optimizer == "muon" else {}
    return learnt | skipped | muon | {"model": _pairs(setting.model)}
