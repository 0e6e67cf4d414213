"""The tables: each holds its numbers once, shown on the page with few digits and written as CSV with all of them."""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np

from ontogeny.lab.conduct import evaluated_runs
from ontogeny.lab.experiment import Arm, Experiment
from ontogeny.lab.judge import AUDIT, ArmSummary, Assessment, ContrastSummary, donor_record
from ontogeny.lab.rates import START
from ontogeny.lab.report.figures import ALIGNMENTS, FACTORS, ROLES, factor_names, ordered_contrasts, site_role
from ontogeny.lab.statistics import Attribution, Equivalence, Interval, VarianceComponents, Verdict
from ontogeny.lab.store import Store, read_json

REASONS = {
    "n": "fewer than 5 replicates",
    "donors": "fewer than 5 donors",
    "scale": "this scale decides nothing",
    "gate": "uninformative: an arm is not past its bigram, or a donor not by 0.3 nats",
    "rate unresolved": "a best learning rate lies at the grid's edge",
    "straddles": "the interval holds 0.02 nats",
    "sign at second-best rate": "the sign isn't the same at the second-best rates",
}
REFERENCES = {
    "uniform": "every token as likely as any other",
    "unigram": "tokens by their frequency",
    "bigram": "tokens by their frequency after the one before",
}


@dataclass(frozen=True)
class Table:
    """``columns``: heading -> Python format of its numbers ("" for text, "±" before it for an ``Interval``).

    ``grouped``: the page shows the first column as headings over the rows that share it.
    """

    name: str
    caption: str
    columns: Mapping[str, str]
    rows: tuple[tuple[Any, ...], ...]
    grouped: bool = False

    @property
    def shown(self) -> list[list[str]]:
        """The cells as the page shows them."""
        return [[show(cell, spec) for cell, spec in zip(row, self.columns.values(), strict=True)] for row in self.rows]

    @property
    def csv(self) -> str:
        """All digits; an interval becomes mean, low, high, level and n."""
        file = StringIO()
        writer = csv.writer(file, lineterminator="\n")
        wide = [spec.startswith("±") for spec in self.columns.values()]
        parts = ("", ": low", ": high", ": level", ": n")
        heads = zip(self.columns, wide, strict=True)
        writer.writerow([head + part for head, w in heads for part in (parts if w else ("",))])
        for row in self.rows:
            writer.writerow([value for cell, w in zip(row, wide, strict=True) for value in _values(cell, w)])
        return file.getvalue()


def _values(cell: Any, wide: bool) -> list[Any]:
    if not wide:
        return ["" if cell is None else cell]
    if isinstance(cell, Interval):
        return [cell.mean, cell.low, cell.high, cell.level, cell.n]
    return ["" if cell is None else cell, *[""] * 4]


def show(cell: Any, spec: str) -> str:
    """One cell as text: true minus signs, exponents without padding, *missing* where an interval is."""
    if cell is None:
        return "missing" if spec.startswith("±") else "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, Interval):
        form = spec[1:]
        if not math.isfinite(cell.low):
            return f"{show(cell.mean, form)} (n {cell.n})"
        return f"{show(cell.mean, form)} [{show(cell.low, form)}, {show(cell.high, form)}]"
    text = format(cell, spec.lstrip("±")) if not isinstance(cell, str) else cell
    return (
        text
        if isinstance(cell, str)
        else text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("-", "−")
    )


def contrasts(assessment: Assessment) -> Table:
    """Every contrast with its interval and verdict, primary ones first."""
    columns = {
        "embeddings": "", "gap of": "", "gap, nats [interval]": "±+.3f", "level": ".1%", "n": "d", "kind": "",
        "verdict": "", "in a word": "", "at second-best rates": "+.3f", "at shared rates": "+.3f", "why": "",
        "what it asks": "",
    }  # fmt: skip
    rows = tuple(
        (
            c.contrast.embeddings,
            f"{c.contrast.control} − {c.contrast.treatment}",
            c.interval,
            c.interval.level if c.interval else None,
            c.interval.n if c.interval else None,
            kind(c),
            verdict_text(c, assessment.experiment.scale),
            c.word,
            c.second_best_gap,
            c.shared_gap,
            reason(c.verdict) if c.contrast.primary else "",
            c.contrast.question,
        )
        for c in ordered_contrasts(assessment)
    )
    note = "Gap = test loss of the first − test loss of the second at the last step, nats a token"
    return Table("contrasts", f"{note}; positive favours the second", columns, rows, grouped=True)


def kind(contrast: ContrastSummary) -> str:
    """Primary, exploratory, or null by symmetry: a check of the harness."""
    if contrast.contrast.check:
        return "null by symmetry"
    return "primary" if contrast.contrast.primary else "exploratory"


def verdict_text(contrast: ContrastSummary, scale: str) -> str:
    """The verdict with its scale; none for exploratory contrasts and checks."""
    if contrast.verdict.word == "not run":
        return "not run"
    return f"{contrast.verdict.word} ({scale})" if contrast.contrast.primary else "none"


def reason(verdict: Verdict) -> str:
    """Why a verdict is undecided, and how many replicates would decide."""
    needed = f"{verdict.needed} replicates would decide" if verdict.needed else ""
    return "; ".join(part for part in (REASONS.get(verdict.code, verdict.code), needed) if part)


def arms(assessment: Assessment) -> Table:
    """Final losses beside the references, starts beside ln V, rates, and what is wrong with an arm."""
    uniform = math.log(assessment.experiment.setting.model["vocab_size"])
    columns = {
        "embeddings": "", "arm": "", "final test loss, nats a token [95 %]": "±.3f", "runs": "",
        "loss at step 0, nats": ".3f", "body rate": "g", "rest rate": "g", "past the bigram": "", "flags": "",
        "what it is": "",
    }  # fmt: skip
    rows: list[tuple[Any, ...]] = [
        ("reference", name, assessment.references[name], "", None, None, None, "", "", meaning)
        for name, meaning in REFERENCES.items()
        if name in assessment.references
    ]
    for arm in assessment.arms.values():
        runs = sum(loss is not None for loss in arm.losses)
        rates = (arm.rates.body, arm.rates.rest) if arm.rates else (None, None)
        rows.append(
            (
                arm.embeddings,
                arm.arm,
                arm.interval,
                f"{runs} of {_expected(arm, assessment.experiment)}",
                arm.step0,
                *rates,
                arm.passed_bigram if arm.interval else None,
                "; ".join(flags(arm, uniform)),
                describe(assessment.experiment.arm(arm.arm)),
            )
        )
    note = f"An arm that knows nothing starts at ln V = {uniform:.3f} nats"
    return Table("arms", note, columns, tuple(rows), grouped=True)


def describe(arm: Arm) -> str:
    """What an arm is, in the declaration's words or from its recipe."""
    if arm.description:
        return arm.description
    if arm.donor is not None:
        return f"donor {arm.donor + 1} on the streams that all donors share"
    if arm.draw is not None:
        return f"random, draw {arm.draw}, on the streams of replicate 1"
    return "the donor's, " + " and ".join(arm.controls) if arm.controls else ""


def _expected(arm: ArmSummary, experiment: Experiment) -> int:
    return len(arm.losses) or experiment.arm(arm.arm).replicates or experiment.replicates


def flags(arm: ArmSummary, uniform: float) -> list[str]:
    """What a reader must know of an arm before using its number."""
    found = {
        "rates not tuned yet": arm.rates is None,
        f"{arm.diverged} diverged or missing": arm.diverged > 0,
        "best rate at the grid's edge": arm.at_edge,
        "rates given, not tuned": not arm.tuned,
    }
    if arm.step0 is not None:
        found[f"starts {arm.step0 - uniform:+.2f} nats from ln V"] = abs(arm.step0 - uniform) > AUDIT
    return [text for text, holds in found.items() if holds]


def costs(assessment: Assessment) -> Table:
    """What every arm cost, and how its layers agree in the residual stream."""
    frames = list(dict.fromkeys(key for arm in assessment.arms.values() for key in arm.frames))
    columns = {"embeddings": "", "arm": "", "trained parameters": ",d", "parameters": ",d", "training FLOPs": ".3g"}
    columns |= {"seconds a run": ".1f"} | {key.replace("_", " "): ".2f" for key in frames}
    rows = tuple(
        (
            *(arm.embeddings, arm.arm, arm.trainable_parameters, arm.parameters),
            *(arm.flops and float(arm.flops), arm.seconds),
            *(arm.frames.get(key) for key in frames),
        )
        for arm in assessment.arms.values()
    )
    note = "Readers and writers: effective rank of their stacked projectors; overlap with the embedding beside chance"
    return Table("costs", note, columns, rows, grouped=True)


def rates(assessment: Assessment) -> Table:
    """Every rate tried, best first, by arm."""
    columns = {
        "embeddings": "",
        "arm": "",
        "body rate": "g",
        "rest rate": "g",
        "tuning loss, nats a token": ".4f",
        "": "",
    }
    rows = []
    for arm in assessment.arms.values():
        if assessment.experiment.arm(arm.arm).tuned_as:
            continue
        chosen = {arm.second: "second best", arm.rates: "chosen" + (", at the edge" if arm.at_edge else "")}
        for body, rest, loss in arm.tried:
            marks = [mark for rate, mark in chosen.items() if rate and (rate.body, rate.rest) == (body, rest)]
            marks += ["shared start"] if (body, rest) == (START.body, START.rest) else []
            rows.append((arm.embeddings, arm.arm, body, rest, loss, ", ".join(marks)))
    note = "one replicate that is never evaluated, scored on the tune split; inf: diverged"
    return Table("rates", f"Best first by arm. {note}", columns, tuple(rows), grouped=True)


def donors(experiment: Experiment, store: Store) -> Table:
    """Every donor with its own loss beside the bigram's, and where it comes from."""
    columns = {
        "donor": "", "id": "", "loss, nats a token": ".3f", "bigram, nats": ".3f", "past the gate (0.3 nats)": "",
        "made from": "",
    }  # fmt: skip
    rows = []
    for number, (identity, record) in enumerate(
        zip(experiment.setting.donors, experiment.donor_records, strict=False), start=1
    ):
        found = donor_record(store, experiment, identity) or {}
        name = record.get("name", f"donor {record.get('index', number)}")
        bigram = found.get("references", {}).get("bigram")
        rows.append((name, identity, found.get("loss"), bigram, found.get("passed_gate", "missing"), _origin(record)))
    return Table("donors", "A donor passes its gate if it beats the bigram by 0.3 nats", columns, tuple(rows))


def _origin(record: Mapping[str, Any]) -> str:
    if "sha256" in record:
        files = record["sha256"].items() if isinstance(record["sha256"], Mapping) else [("weights", record["sha256"])]
        revision = f"revision {record['revision']}; " if record.get("revision") else ""
        return revision + "; ".join(f"{file} sha256 {sha}" for file, sha in files)
    if "rates" not in record:
        return "not recorded"
    rates = record["rates"]
    return (
        f"trained on the spot: {record['steps']} steps of {record['batch']} × {record['length']} tokens, rates "
        f"{rates['body']:g} (body), {rates['rest']:g} (rest), {record['precision']}, streams of donor {record['index']}"
    )


def variances(found: VarianceComponents) -> Table:
    """E6: the variance between donors beside that between random draws."""
    columns = {
        "between": "",
        "units": "d",
        "streams": "d",
        "variance, nats²": ".2e",
        "low (95 %)": ".2e",
        "high (95 %)": ".2e",
    }
    rows = tuple(
        (name, c.units, c.streams, c.variance, c.low, c.high)
        for name, c in (("donors", found.donors), ("random draws", found.draws))
    )
    return Table(
        "variances",
        f"Variance components. Donors closer to each other than draws are: p = {found.p_closer:.3f}",
        columns,
        rows,
    )


def pairs(found: Equivalence) -> Table:
    """E6: the two one-sided tests of every pair of donors."""
    columns = {
        "donors": "",
        "¼ gap + difference, nats [90 %]": "±+.3f",
        "¼ gap − difference, nats [90 %]": "±+.3f",
        "equivalent": "",
    }
    rows = tuple((f"{p.donors[0] + 1} and {p.donors[1] + 1}", *p.contrasts, p.equivalent) for p in found.pairs)
    ratio = f"std/gap = {found.std:.3f}/{found.gap:.3f} = {found.std_over_gap:.3f}"
    note = f"Pairs of donors are equivalent where both intervals lie above 0; {ratio}"
    return Table("pairs", note, columns, rows)


def overlaps(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Overlap of donors by alignment, role and side, averaged over pairs and layers, beside its null."""
    columns = {
        "alignment": "", "role": "", "side": "", "pairs × layers": "d", "overlap": ".3f", "chance": ".3f",
        "other layers": ".3f", "mean z": "+.1f", "smallest angle, degrees": ".1f",
    }  # fmt: skip
    rows = []
    for align, results in found.items():
        cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in (row for pair in results for row in pair["rows"]):
            cells.setdefault((site_role(row["site"])[0], row["side"]), []).append(row)
        for (role, side), group in sorted(cells.items(), key=lambda item: (_role_order(item[0][0]), item[0])):
            means = [_mean(group, key) for key in ("overlap", "chance", "other_layers", "z")]
            angle = _mean(group, "smallest_angle")
            rows.append((ALIGNMENTS[align], role, side, len(group), *means, angle and math.degrees(angle)))
    note = "Overlap ‖U₁ᵀU₂‖²/k is 1 if equal; null: Haar-random subspaces, after alignment layer-permuted refits"
    return Table("overlaps", note, columns, tuple(rows), grouped=True)


def _role_order(role: str) -> int:
    return ROLES.index(role) if role in ROLES else len(ROLES)


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return float(np.mean(values)) if values else None


def overlap_rows(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Every pair, site and side, as stored; for the CSV."""
    results = [(align, pair, row) for align, stored in found.items() for pair in stored for row in pair["rows"]]
    keys = [key for key in (results[0][2] if results else {}) if key not in ("first", "second")]
    rows = tuple((align, pair["first"], pair["second"], *(row[k] for k in keys)) for align, pair, row in results)
    return Table("overlap-sites", "", dict.fromkeys(("align", "first", "second", *keys), ""), rows)


def attribution(found: Attribution) -> Table:
    """Total, coherence, Shapley values and interactions."""
    shares = found.percentages or {}
    rows = [("donor − random", found.total, None), ("coherence", found.coherence, shares.get("coherence"))]
    rows += [(FACTORS.get(f, f) + " (Shapley)", interval, shares.get(f)) for f, interval in found.shapley.items()]
    rows += [
        (("interaction of " if len(s) > 1 else "alone: ") + factor_names(s), interval, None)
        for s, interval in found.interactions.items()
    ]
    note = "Coherence and the Shapley values sum to donor − random; shares only where its lower bound exceeds 0.02 nats"
    return Table(
        "attribution",
        note,
        {"part": "", "worth, nats [95 %]": "±+.3f", "share, %": ".0f"},
        tuple(rows),
    )


def curves(assessment: Assessment) -> Table:
    """The loss curves' points; for the CSV."""
    columns = dict.fromkeys(("embeddings", "arm", "step", "mean", "low", "high"), "")
    rows = tuple((*key, *point) for key, arm in assessment.arms.items() for point in arm.curve)
    return Table("curves", "", columns, rows)


def hosts(experiment: Experiment, store: Store) -> Table:
    """Machines and versions behind the evaluated runs, with how many runs each did."""
    counts: Counter[tuple[str, ...]] = Counter()
    for run in {(r.id, r.replicate): r for runs in evaluated_runs(experiment, store).values() for r in runs}.values():
        path = store.run_directory(run.id, run.replicate) / "run.json"
        host = read_json(path).get("host") if path.exists() else None
        if host:
            machine = ", ".join(str(host[key]) for key in ("machine", "processor", "accelerator") if host.get(key))
            counts[
                machine, ", ".join(f"{k} {v}" for k, v in sorted(host["versions"].items())), str(host["threads"])
            ] += 1
    columns = {"machine": "", "versions": "", "threads": "", "runs": "d"}
    return Table("hosts", "Machines and versions", columns, tuple((*key, n) for key, n in counts.most_common()))
