"""The tables: each holds its numbers once, shown on the page with few digits and written as CSV with all of them."""

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ontogeny.canonical import digest
from ontogeny.files import read_json
from ontogeny.lab.conduct import evaluated_runs
from ontogeny.lab.donors import learnt_nothing
from ontogeny.lab.experiment import Arm, Experiment, Setting
from ontogeny.lab.judge import AUDIT, ArmSummary, Assessment, ContrastSummary
from ontogeny.lab.rates import START
from ontogeny.lab.report.figures import unit_of
from ontogeny.lab.statistics import Interval, Verdict, student_interval
from ontogeny.lab.store import Store
from ontogeny.lab.study import Measurements

REASONS = {
    "n": "fewer than 5 replicates",
    "donors": "fewer than 5 donors",
    "scale": "this scale decides nothing",
    "gate": "uninformative: an arm is not past its reference (bigram, prior), or a donor not by 0.3 nats",
    "rate unresolved": "a best learning rate lies at the grid's edge",
    "straddles": "the interval holds the smallest difference that counts (0.02 nats, 1 point)",
    "sign at second-best rate": "the sign isn't the same at the second-best rates",
    "span": "the last horizon is too few times the first to tell a floor from a slow fall",
    "misfit": "the fitted curve does not describe the gaps",
    "mixed": "one of the contrasts that it takes doesn't hold",
    "no winner": "no form is ahead of the others",
    "out of sample": "the form that wins misses the gap that was held out",
}
REFERENCES = {
    "uniform": "every token or class as likely as any other",
    "unigram": "tokens by their frequency",
    "bigram": "tokens by their frequency after the one before",
    "prior": "classes by their frequency",
    "linear": "logistic regression on the pixels",
}


@dataclass(frozen=True)
class Table:
    """``columns``: heading -> Python format of its numbers ("" for text, "±" before it for an ``Interval``).

    ``grouped``: the page shows the first column as headings over the rows that share it. ``part``: the heading of the
    page it stands under, "" beside the main figures. ``note``: what to know when reading it. ``listed``: whether it is
    on the page; if not, it is a CSV alone.
    """

    name: str
    caption: str
    columns: Mapping[str, str]
    rows: tuple[tuple[Any, ...], ...]
    grouped: bool = False
    part: str = ""
    note: str = ""
    listed: bool = True

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


def measured_table(found: Measurements) -> Table:
    """Every number that a study measures in every finished condition; lists are in the store alone."""
    rows = []
    for condition, cell in found.found.items():
        if all(one is not None for one in cell):
            scalars = [key for key, value in (cell[0] or {}).items() if isinstance(value, int | float)]
            rows += [(condition, key, student_interval(found.values(condition, key))) for key in scalars]
    columns = {"condition": "", "quantity": "", "mean [95 %]": "±.4g"}
    return Table("measured", "Everything measured, by condition", columns, tuple(rows), grouped=True, part="Measured")


def standard_tables(assessment: Assessment, store: Store) -> tuple[Table, ...]:
    """The tables of every experiment; some may be empty."""
    return (
        contrasts(assessment),
        arms(assessment),
        costs(assessment),
        rates(assessment),
        donors(assessment),
        hosts(assessment.experiment, store),
        curves(assessment),
    )


def ordered_contrasts(assessment: Assessment) -> list[ContrastSummary]:
    """Mode by mode: primary contrasts, then exploratory ones, then checks."""
    modes = list(assessment.experiment.embeddings)
    return sorted(
        assessment.contrasts,
        key=lambda c: (modes.index(c.contrast.embeddings), c.contrast.check, not c.contrast.primary),
    )


def contrasts(assessment: Assessment) -> Table:
    """Every contrast with its interval and verdict, primary ones first."""
    measure = assessment.experiment.setting.measure
    unit = unit_of(measure)
    columns = {
        "embeddings": "", "gap of": "", f"gap, {unit.short} [interval]": f"±{unit.form}", "level": ".1%", "n": "d",
        "kind": "", "verdict": "", "in a word": "", "at second-best rates": unit.form, "at shared rates": unit.form,
        "why": "", "what it asks": "",
    }  # fmt: skip
    rows = tuple(
        (
            c.contrast.embeddings,
            f"{c.contrast.control} − {c.contrast.treatment}",
            unit.of(c.interval) if c.interval else None,
            c.interval.level if c.interval else None,
            c.interval.n if c.interval else None,
            kind(c),
            verdict_text(c, assessment.experiment.scale),
            c.word,
            *(gap if gap is None else unit.factor * gap for gap in (c.second_best_gap, c.shared_gap)),
            reason(c.verdict) if c.contrast.primary else "",
            c.contrast.question,
        )
        for c in ordered_contrasts(assessment)
    )
    note = f"Gap = test {measure.key} of the first − test {measure.key} of the second at the last step, {unit.name}"
    return Table("contrasts", f"{note}; positive favours the second", columns, rows, grouped=True, part="Contrasts")


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
    return in_words("; ".join(part for part in (verdict.code, needed) if part))


def in_words(why: str) -> str:
    """A reason with its codes in words: ``straddles; 27 replicates would decide``, ``gap: gate``."""
    return "; ".join(f"{what}{colon}{REASONS.get(code, code)}" for what, colon, code in map(_code, why.split("; ")))


def _code(part: str) -> tuple[str, str, str]:
    """What a code is of, and the code."""
    what, colon, code = part.rpartition(": ")
    return (what, colon, code) if code in REASONS else ("", "", part)


def true_minus(text: str) -> str:
    """A text with minus signs before its numbers, where it had hyphens."""
    return re.sub(r"(?<=[\s\[])-(?=\d)", "−", text)


def arms(assessment: Assessment) -> Table:
    """Final values beside the references, starts beside those of a network that knows nothing, rates, and flags."""
    experiment = assessment.experiment
    measure = experiment.setting.measure
    columns = {
        "embeddings": "", "arm": "", f"final test {measure.key}, {measure.unit} [95 %]": "±.3f", "runs": "",
        "loss at step 0, nats": ".3f", "body rate": "g", "rest rate": "g", f"past the {measure.gate}": "", "flags": "",
        "what it is": "",
    }  # fmt: skip
    rows = _references(assessment)
    for arm in assessment.arms.values():
        runs = sum(loss is not None for loss in arm.losses)
        rates = (arm.rates.body, arm.rates.rest) if arm.rates else (None, None)
        setting = experiment.setting_of(experiment.arm(arm.arm))
        rows.append(
            (
                arm.embeddings,
                arm.arm,
                arm.interval,
                f"{runs} of {_expected(arm, experiment)}",
                arm.step0,
                *rates,
                arm.passed_gate if arm.interval else None,
                "; ".join(flags(arm, math.log(choices(setting)))),
                describe(experiment.arm(arm.arm)),
            )
        )
    sizes = sorted({choices(setting) for setting in experiment.all_settings().values()})
    starts = " or ".join(f"ln {size:,} = {math.log(size):.3f} nats" for size in sizes)
    return Table(
        "arms", f"An arm that knows nothing starts at {starts}", columns, tuple(rows), grouped=True, part="Arms"
    )


def choices(setting: Setting) -> int:
    """Among how many answers an arm chooses: tokens of the vocabulary, or classes of images."""
    return setting.vision.classes if setting.vision else int(setting.model["vocab_size"])


def _references(assessment: Assessment) -> list[tuple[Any, ...]]:
    """A row a reference; where settings differ in one, a row for each of its values with the first arm of it."""
    values: dict[tuple[str, float], str] = {}
    for arm in assessment.arms.values():
        for name, value in arm.references.items():
            values.setdefault((name, value), arm.arm)
    rows = []
    for (name, value), first in sorted(values.items(), key=lambda item: list(REFERENCES).index(item[0][0])):
        several = sum(other == name for other, _ in values) > 1
        meaning = REFERENCES[name] + (f", for {first} and arms of its setting" if several else "")
        rows.append(("reference", name, value, "", None, None, None, "", "", meaning))
    return rows


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
    return Table("costs", note, columns, rows, grouped=True, part="Arms")


def rates(assessment: Assessment) -> Table:
    """Every rate tried, best first, by arm."""
    measure = assessment.experiment.setting.measure
    columns = {"embeddings": "", "arm": "", "body rate": "g", "rest rate": "g"}
    columns |= {f"tuning {measure.key}, {measure.unit}": ".4f", "": ""}
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
    return Table("rates", f"Best first by arm. {note}", columns, tuple(rows), grouped=True, part="Learning rates")


def donors(assessment: Assessment) -> Table:
    """Every donor with its own loss beside the bigram's, and where it comes from."""
    columns = {
        "donor": "", "id": "", "loss, nats a token": ".3f", "bigram, nats": ".3f", "past the gate (0.3 nats)": "",
        "made from": "",
    }  # fmt: skip
    rows = []
    stored = {donor["id"]: donor for donor in assessment.donors}
    settings = assessment.experiment.all_settings()
    family = {donor: name or "main setting" for name, setting in settings.items() for donor in setting.donors}
    for number, record in enumerate(assessment.experiment.donor_records, start=1):
        identity = record.get("id") or digest(record)[:16]  # of a donor trained on the spot: its recipe's
        found = stored.get(identity, {})
        name = record.get("name", f"donor {record.get('index', number)}")
        if len(settings) > 1:
            name += f", {family.get(identity, 'main setting')}"
        bigram = found.get("references", {}).get("bigram")
        passed = found.get("passed_gate", "missing")
        if found and learnt_nothing(found):
            passed = f"no, nor the unigram's {found['references']['unigram']:.3f}: it has learnt nothing"
        rows.append((name, identity, found.get("loss"), bigram, passed, _origin(record)))
    caption = "A donor passes its gate if it beats the bigram by 0.3 nats"
    return Table("donors", caption, columns, tuple(rows), part="Donors")


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


def curves(assessment: Assessment) -> Table:
    """The loss curves' points; for the CSV."""
    columns = dict.fromkeys(("embeddings", "arm", "step", "mean", "low", "high"), "")
    rows = tuple((*key, *point) for key, arm in assessment.arms.items() for point in arm.curve)
    return Table("curves", "", columns, rows, listed=False)


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
    rows = tuple((*key, n) for key, n in counts.most_common())
    return Table("hosts", "Machines and versions", columns, rows, part="Provenance")
