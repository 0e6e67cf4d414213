"""What ``selection`` concludes from its measurements, claim by claim; the rules stand in ``selection.py``."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from ontogeny.evolution.questions import PER_STEP, QUESTIONS
from ontogeny.lab.answers import Answer
from ontogeny.lab.statistics import Interval, Verdict
from ontogeny.lab.study import (
    Measurements,
    PerReplicate,
    all_hold,
    judge_measured,
    listed,
    rates_resolved,
    reason,
    shown,
    simultaneous,
)

LANDSCAPES = ("quadratic", "network")
SELECTIONS = ("proportional", "standardised", "truncation")
CELLS = [(variation, selection) for variation in (True, False) for selection in (True, False)]


def aligned(landscape: str, rule: str, size: int, offspring: int, sigma: float) -> str:
    """The name of a condition of alignment."""
    return f"alignment {landscape} {rule} {size} {offspring} {sigma:g}"


def crossed(doses: tuple[float, ...]) -> list[tuple[str, str, str, float]]:
    """Every cell of the crossed design; where nothing drifts and nothing is raw, a dose is nothing."""
    cells = [(s, t, d) for s in ("gradient", "evolution") for t in ("fixed", "drifting") for d in ("written", "raw")]
    return [(*cell, dose) for dose in doses for cell in cells if dose == doses[0] or cell[1:] != ("fixed", "written")]


def crossed_name(searcher: str, target: str, data: str, dose: float) -> str:
    """The name of a cell of the crossed design."""
    at = "" if (target, data) == ("fixed", "written") else f" {dose:.2g}"
    return f"crossed {searcher} {target} {data}{at}"


def cell_name(variation: bool, selection: bool) -> str:
    """The name of one of the four cells."""
    return f"variation {'on' if variation else 'off'}, selection {'on' if selection else 'off'}"


def close_to(found: Measurements, landscape: str) -> str:
    """The condition that is looked at closely."""
    settings = found.experiment.settings
    sizes = settings["dimensions" if landscape == "quadratic" else "widths"]
    return aligned(landscape, "proportional", sizes[len(sizes) // 2], settings["offspring"][-1], settings["sigma"])


def _follows_gradient(found: Measurements) -> Answer:
    cosines = {name: simultaneous(found.values(close_to(found, name), "expected"), 4) for name in LANDSCAPES}
    steps = {name: simultaneous(found.values(f"steps {name} proportional", "monotone"), 4) for name in LANDSCAPES}
    told = f"expected cosine {listed(cosines)}; step's size with the gradient's {listed(steps)}"
    one = {name: found.values(close_to(found, name), "cosine").mean() for name in LANDSCAPES}
    told += "; of one generation " + ", ".join(f"{name} {cosine:.2f}" for name, cosine in one.items())
    for rule in SELECTIONS[1:]:
        powers = [found.values(f"steps {name} {rule}", "exponent").mean() for name in LANDSCAPES]
        told += f"; {rule} steps grow as the gradient's power " + ", ".join(f"{power:+.2f}" for power in powers)
    dealt, chance = (
        np.array([found.values(close_to(found, name), what).mean() for name in LANDSCAPES])
        for what in ("dealt", "chance")
    )
    fair = bool((dealt < 2 * chance).all())
    every = [*cosines.values(), *steps.values()]
    verdict = judge_measured(every, delta=0.9, decisive_scale=found.experiment.decisive, gates_passed=fair)
    return Answer(told, verdict, reason(verdict, "under proportional selection direction and size are the gradient's"))


def _preconditioned(found: Measurements) -> Answer:
    cells = {name: f"anisotropic {name} proportional" for name in LANDSCAPES}
    full = {name: found.values(cell, "preconditioned") for name, cell in cells.items()}
    cosines = {name: simultaneous(values, 6) for name, values in full.items()}
    gains = {
        f"beyond {what}, {name}": simultaneous(full[name] - found.values(cell, key), 6)
        for what, key in (("−∇L", "expected"), ("−Σ′∇L", "foreign"))
        for name, cell in cells.items()
    }
    mixed = [
        found.values(f"anisotropic recombined {name} proportional", "preconditioned").mean() for name in LANDSCAPES
    ]
    told = f"cosine with −Σ∇L {listed(cosines)}; {listed(gains)}; recombined, with −(Σ + diag Σ)/2·∇L " + ", ".join(
        f"{cosine:.3f}" for cosine in mixed
    )
    words = [
        judge_measured(part.values(), delta=delta, decisive_scale=found.experiment.decisive)
        for part, delta in ((cosines, 0.9), (gains, 0.05))
    ]
    return Answer(told, all_hold(words), reason(all_hold(words), "the covariance of mutations turns the step"))


def races(found: Measurements, landscape: str) -> list[str]:
    """The races of a landscape, from the smallest."""
    return sorted(found.named(f"race {landscape} "), key=lambda cell: int(cell.rsplit(" ", 1)[1]))


def _finished(found: Measurements, searchers: tuple[str, ...]) -> float:
    """The share of replicates that finish the race that fewest do."""
    cells = [cell for landscape in LANDSCAPES for cell in races(found, landscape)]
    return min(float(found.values(cell, f"{name} reached").mean()) for cell in cells for name in searchers)


def _credit(found: Measurements) -> Answer:
    cells = [cell for landscape in LANDSCAPES for cell in races(found, landscape)]
    dealt = [simultaneous(found.values(cell, "dealt"), len(cells)) for cell in cells]
    least = {name: _finished(found, (name,)) for name in ("gradient", "evolution")}
    told = "at the goal in at least " + ", ".join(f"{share:.0%} ({name})" for name, share in least.items())
    told += " of a race's replicates; with losses dealt out the loss ends at " + ", ".join(shown(i, 1) for i in dealt)
    if not found.experiment.decisive:
        return Answer(told, Verdict("undecided", "scale"), "scale")
    if min(least.values()) >= 0.95 and min(i.low for i in dealt) > 0.1:
        return Answer(told, Verdict("supported"), "both assign credit, and without it there is no progress")
    if least["evolution"] < 0.5:
        return Answer(told, Verdict("refuted"), "evolution doesn't get there")
    return Answer(told, Verdict("undecided", "mixed"), "mixed")


def exponents(found: Measurements, landscape: str, searcher: str = "pair") -> PerReplicate:
    """Every replicate's slope of log evaluations(searcher) ÷ evaluations(gradient) on log effective dimension."""
    cells = races(found, landscape)
    ratio = [found.values(c, f"{searcher} evaluations") / found.values(c, "gradient evaluations") for c in cells]
    return _slopes(np.array([found.values(cell, "effective") for cell in cells]), np.array(ratio))


def doses(found: Measurements, landscape: str) -> PerReplicate:
    """Every replicate's slope of log 1/steps on log known directions, in the largest race."""
    largest = races(found, landscape)[-1]
    dimension = found.values(largest, "dimension")
    known = np.array([np.ones_like(dimension), np.maximum(1, np.sqrt(dimension).round()), dimension])
    steps = np.array([found.values(largest, f"{name} steps") for name in ("one", "root", "all")])
    return _slopes(known, 1 / steps)


def _slopes(x: Float[np.ndarray, "points replicates"], y: Float[np.ndarray, "points replicates"]) -> PerReplicate:
    """Least squares on logarithms, replicate by replicate."""
    slopes = [np.polyfit(np.log(a), np.log(b), 1)[0] for a, b in zip(x.T, y.T, strict=True)]
    return np.array(slopes)


def _richer_signal(found: Measurements) -> Answer:
    slopes = {"by effective dimension, quadratic": simultaneous(exponents(found, "quadratic"), 3)}
    slopes |= {f"by known directions, {name}": simultaneous(doses(found, name), 3) for name in LANDSCAPES}
    beside = exponents(found, "quadratic", "evolution").mean()
    grown = [found.values(cell, "effective").mean() for cell in races(found, "network")]
    told = f"exponents {listed(slopes)}; with 16 offspring by effective dimension {beside:+.2f}; networks' effective "
    told += "dimension by width " + ", ".join(f"{dimension:.1f}" for dimension in grown)
    done = _finished(found, ("gradient", "pair")) >= 0.95
    verdict = judge_measured(slopes.values(), delta=0.5, decisive_scale=found.experiment.decisive, gates_passed=done)
    return Answer(told, verdict, reason(verdict, "what a gradient says more, evolution has to try out"))


def _target_and_data(found: Measurements) -> Answer:
    words, told = [], []
    for dose in found.experiment.settings["doses"]:
        effects = _effects(found, dose)
        told.append(f"dose {dose:.2g}: {listed(effects)}")
        words.append(_dose_word(effects))
    if not found.experiment.decisive:
        verdict = Verdict("undecided", "scale")
    elif not rates_resolved(found, found.named("crossed ")):
        verdict = Verdict("undecided", "rate unresolved")
    elif len(set(words)) > 1:
        verdict = Verdict("undecided", "dose")
    else:
        verdict = Verdict(words[0], "straddles" if words[0] == "undecided" else "")
    return Answer(f"log₁₀ loss, {'; '.join(told)}", verdict, verdict.code or "at every dose of drift and noise")


def _effects(found: Measurements, dose: float) -> dict[str, Interval]:
    losses = {cell: found.values(crossed_name(*cell, dose), "loss") for cell in CROSSED}

    def effect(place: int, high: str) -> PerReplicate:
        signed = [loss if cell[place] == high else -loss for cell, loss in losses.items()]
        return np.asarray(2 * np.mean(signed, axis=0))

    parts = {"target": effect(1, "drifting"), "data": effect(2, "raw"), "searcher": effect(0, "evolution")}
    parts["target and data − searcher"] = parts["target"] + parts["data"] - parts["searcher"]
    return {name: simultaneous(values, 4) for name, values in parts.items()}


CROSSED = [(searcher, target, data) for searcher, target, data, _ in crossed((1.0,))]


def _dose_word(effects: Mapping[str, Interval]) -> str:
    first, rest = (effects["target"], effects["data"]), effects["target and data − searcher"]
    if min(i.high for i in first) < 0.1 or rest.high < 0:
        return "refuted"
    return "supported" if min(i.low for i in first) > 0.1 and rest.low > 0 else "undecided"


def apart(found: Measurements, question: str) -> PerReplicate:
    """How much farther the searchers are from each other than half its rate takes either, in every replicate."""

    def margin(quantity: str) -> PerReplicate:
        own, half = (
            {name: found.values(f"questions {name}", start + quantity) for name in ("evolution", "gradient")}
            for start in ("", "half ")
        )
        within = np.maximum(*(np.abs(own[name] - half[name]) for name in own))
        return np.asarray(np.abs(own["evolution"] - own["gradient"]) - within)

    kinds = (question, f"{question} an evaluation") if question in PER_STEP else (question,)
    return np.asarray(np.min([margin(kind) for kind in kinds], axis=0))


def _six_questions(found: Measurements) -> Answer:
    margins = {name: simultaneous(apart(found, name), len(QUESTIONS)) for name in QUESTIONS}
    telling = sum(margin.low > 0 for margin in margins.values())
    means = [
        f"{name} {found.values('questions evolution', name).mean():.3g} and "
        f"{found.values('questions gradient', name).mean():.3g} (margin {shown(margins[name])})"
        for name in QUESTIONS
    ]
    told = f"{telling} of six tell them apart; evolution and gradient: " + ", ".join(means)
    if not found.experiment.decisive:
        return Answer(told, Verdict("undecided", "scale"), "scale")
    if telling == len(margins):
        return Answer(told, Verdict("supported"), "every question tells them apart")
    if telling <= 2:
        return Answer(told, Verdict("refuted"), "at most two do")
    return Answer(told, Verdict("undecided", "mixed"), "mixed")


def _both_needed(found: Measurements) -> Answer:
    both, *others = (found.values(cell_name(*cell), "loss") for cell in CELLS)
    gaps = {cell_name(*cell): simultaneous(loss - both, 4) for cell, loss in zip(CELLS[1:], others, strict=True)}
    gaps["interaction"] = simultaneous(others[0] + others[1] - both - others[2], 4)
    verdict = judge_measured(gaps.values(), delta=0.1, decisive_scale=found.experiment.decisive)
    told = "log₁₀ loss beyond that with both: " + "; ".join(f"{name} {shown(i)}" for name, i in gaps.items())
    return Answer(told, verdict, verdict.code or "against each of the other three cells, and by their interaction")


def _coevolution(found: Measurements) -> Answer:
    def gap(where: str, kind: str) -> Interval:
        losses = [found.values("coevolution", f"{where} {name}") for name in (kind, "co-evolving")]
        return simultaneous(losses[0] - losses[1], 4)

    archive, random = ({kind: gap(where, kind) for kind in ("random", "shuffled")} for where in ("archive", "random"))
    told = (
        f"log₁₀ error beyond co-evolving ones', archive: {listed(archive)}, frozen {shown(gap('archive', 'frozen'))}; "
    )
    told += f"random inputs: {listed(random)}"
    verdict = judge_measured(archive.values(), delta=0.05, decisive_scale=found.experiment.decisive)
    if verdict.word == "supported" and min(i.mean for i in random.values()) <= 0:
        verdict = Verdict("undecided", "mixed")
    return Answer(told, verdict, verdict.code or "against an archive that none has met")


ANSWERS = {
    "S1": _follows_gradient,
    "S2": _preconditioned,
    "S11": _richer_signal,
    "S12": _target_and_data,
    "G4": _credit,
    "G12": _six_questions,
    "G25": _both_needed,
    "G38": _coevolution,
}
