"""The report says what the assessment says, is safe to open and to send, and stands unfinished experiments."""

import csv
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ontogeny.errors import InputError
from ontogeny.lab.conduct import evaluated_runs, overlap_tasks, searches
from ontogeny.lab.experiment import Experiment, Run, Setting
from ontogeny.lab.experiments import convergence
from ontogeny.lab.findings import store_findings
from ontogeny.lab.judge import assess, headlines
from ontogeny.lab.report import write_report
from ontogeny.lab.report.figures import published_gaps
from ontogeny.lab.report.tables import show
from ontogeny.lab.statistics import Interval
from ontogeny.lab.store import Store, open_store, write_json
from ontogeny.streams import numpy_stream

VOCABULARY, STEPS = 1024, (25, 50, 100, 200, 300, 400)
REFERENCES = {"uniform": math.log(VOCABULARY), "unigram": 5.85, "bigram": 4.62}
# Planted worth in nats: of an arm over random, and of its learning rates' optimum (body, rest).
WORTH = {"donor": 0.11, "rotated": 0.10, "coherent": 0.05, "dense": 0.145, "chimera": 0.1, "residual-only": 0.07}
NAME = 'donor <script>alert("1")</script> & $x$'


def declared(scale: str = "laptop", table: str = "primary", donors: int = 5, **changes: Any) -> Experiment:
    """A convergence experiment over donors that exist in name alone."""
    setting = Setting(
        model={"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 96, "num_hidden_layers": 3},
        tokens="f" * 64,
        donors=tuple(f"{i:016x}" for i in range(1, donors + 1)),
        rank="25%",
        length=64,
        batch=32,
        steps=400,
        evaluate_at=STEPS,
        windows=256,
    )
    rates = {"body": 3e-3, "rest": 3e-2}
    recipe = {"steps": 1000, "batch": 32, "length": 64, "rates": rates, "precision": "fp32"}
    records = tuple({"index": i, **recipe} for i in range(1, donors + 1))
    records = ({"id": setting.donors[0], "name": NAME, "revision": "", "sha256": {"a": "0" * 64}}, *records[1:])
    choices: dict[str, Any] = {
        "scale": scale,
        "decisive": scale == "laptop",
        "setting": setting,
        "replicates": 5,
        "text": {"source": "<script>text</script>", "sha256": "e" * 64, "characters": 10**6, "train_tokens": 3 * 10**6},
        "donor_records": records,
        "given": False,
        "table": table,
        "audit": True,
    }
    return convergence.declare(**(choices | changes))


def result(run: Run, noise: float = 0.004) -> dict[str, Any]:
    """A run's made-up result: worth of the arm, cost of a wrong rate, noise of the replicate and of the run."""
    arm = (
        run.arm.name
        if run.arm.name in WORTH
        else {"donor ": "donor", "draw 1": "random"}.get(run.arm.name[:6], "random")
    )
    shared = 0.02 * float(numpy_stream(run.replicate, "shared").normal())
    own = noise * float(numpy_stream(run.replicate, run.arm.name, str(run.arm.draw), run.embeddings).normal())
    wrong = sum(0.12 * math.log10(rate / best) ** 2 for rate, best in ((run.rates.body, 1e-2), (run.rates.rest, 1e-2)))
    final = 4.5 + (run.embeddings == "fresh") * 0.05 - WORTH.get(arm, 0.0) + shared + own + wrong
    losses = [[0, REFERENCES["uniform"] + 0.01], *([s, final + 1.3 * (1 - math.log(s) / math.log(400))] for s in STEPS)]
    frames = {f"{kind}_{key}": 0.4 for kind in ("readers", "writers") for key in ("effective_rank", "chance")}
    counts = {"trainable_parameters": 123_456, "parameters": 234_567, "flops": 1_234_567_890_123, "seconds": 12.5}
    identity = {"kind": "arm", "id": run.id, "replicate": run.replicate, "arm": run.arm.name, "references": REFERENCES}
    outcome = {"losses": losses, "step0_loss": losses[0][1], "final": final, "best": final}
    return identity | outcome | counts | {"frames": {} if arm == "dense" else frames}


def conduct(experiment: Experiment, store: Store, keep: Callable[[Run], bool] = lambda run: True) -> None:
    """Declare it and store a made-up result for every donor, overlap and run that ``keep`` lets through."""
    store.declare(asdict(experiment))
    for index, donor in enumerate(experiment.setting.donors):
        record = {"kind": "donor", "id": donor, "index": index + 1, "loss": 3.6 + 0.01 * index, "passed_gate": True}
        write_json(store.root / "donors" / donor / "result.json", record | {"references": REFERENCES})
    for task in overlap_tasks(experiment):
        value = asdict(task) | {"kind": "overlap", "rows": overlap_rows(task.align, task.first + task.second)}
        write_json(store.run_directory(task.id, 0) / "result.json", value)
    while tuning := [
        run
        for (mode, name), state in searches(experiment, store).items()
        for rates in state.needed
        if keep(run := experiment.tuning_run(mode, experiment.arm(name), rates))
    ]:
        save(tuning, store)
    save([run for runs in evaluated_runs(experiment, store).values() for run in runs if keep(run)], store)


def save(runs: list[Run], store: Store) -> None:
    host = {
        "machine": "x86_64",
        "processor": "AVX2",
        "accelerator": None,
        "threads": 1,
        "versions": {"torch": "2.13.0"},
    }
    for run in runs:
        write_json(store.run_directory(run.id, run.replicate) / "run.json", {"host": host})
        write_json(store.run_directory(run.id, run.replicate) / "result.json", result(run))


def answers(store: Store) -> dict[str, dict[str, str]]:
    """The claims answered by training runs; E7 rests on the donors alone."""
    return {claim: finding for claim, finding in store_findings(store).items() if claim != "E7"}


def overlap_rows(align: str, pair: str) -> list[dict[str, Any]]:
    rows = []
    rng = numpy_stream(0, align, pair)
    for layer in (0, 2) if align != "none" else (0, 1, 2):
        for role in ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.gate", "mlp.down"):
            for side in ("out", "in"):
                z = float(rng.normal()) + (6 if align == "orthogonal" else 1.5 * (side == "in"))
                angles = {"smallest_angle": 0.4, "largest_angle": 1.5, "other_layers": 0.26}
                null = {"chance": 0.25, "sd": 0.02, "z": z, "p": 0.01, "overlap": 0.25 + 0.02 * z}
                rows.append({"first": 0, "second": 1, "site": f"layers.{layer}.{role}", "side": side} | null | angles)
    return rows


class Page(HTMLParser):
    """Tags with their attributes, in order, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> "Full":
    """A finished full table at the decisive laptop scale, and its report."""
    store = open_store(tmp_path_factory.mktemp("full") / "store")
    experiment = declared(table="full")
    conduct(experiment, store)
    out = store.root.parent / "report.html"
    return store, experiment, out, write_report(store, out)


Full = tuple[Store, Experiment, Path, list[Path]]


def table_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def csv_of(paths: list[Path], ending: str) -> list[dict[str, str]]:
    return table_rows(next(path for path in paths if path.name.endswith(ending)))


def test_headlines_and_verdicts_are_those_of_the_assessment(full: Full) -> None:
    store, experiment, out, _ = full
    assessment = assess(experiment, store)
    text = " ".join(Page(out.read_text()).text.split())
    lines = headlines(assessment)
    assert any("donor is better than random" in line and "supported" in line for line in lines)
    assert any("donor is worse than dense" in line and "refuted" in line for line in lines)
    findings = convergence.findings(assessment, store)
    assert findings["E6"]["verdict"] == "supported (laptop)"
    assert findings["E8"]["verdict"] == "refuted (laptop)"
    for line in [*lines, *(value for finding in findings.values() for value in finding.values())]:
        assert " ".join(line.replace(" -", " −").replace("[-", "[−").split()) in text


def test_contrasts_csv_holds_every_digit_of_the_assessment(full: Full) -> None:
    store, experiment, out, paths = full
    found = {(row["embeddings"], row["gap of"]): row for row in csv_of(paths, "-contrasts.csv")}
    assessment = assess(experiment, store)
    assert len(found) == len(assessment.contrasts)
    for c in assessment.contrasts:
        row = found[c.contrast.embeddings, f"{c.contrast.control} − {c.contrast.treatment}"]
        assert c.interval is not None
        gap = "gap, nats [interval]"
        bounds = [float(row[key]) for key in (gap, f"{gap}: low", f"{gap}: high", f"{gap}: level")]
        assert bounds == [c.interval.mean, c.interval.low, c.interval.high, c.interval.level]
        assert show(c.interval, "±+.3f") in out.read_text()
        assert row["verdict"] == (f"{c.verdict.word} (laptop)" if c.contrast.primary else "none")
        assert (row["kind"] == "null by symmetry", row["kind"] == "primary") == (c.contrast.check, c.contrast.primary)


def test_arms_csv_holds_losses_rates_and_references(full: Full) -> None:
    store, experiment, _, paths = full
    rows = csv_of(paths, "-arms.csv")
    loss = "final test loss, nats a token [95 %]"
    assert {row["arm"]: float(row[loss]) for row in rows[:3]} == REFERENCES
    arms = assess(experiment, store).arms
    assert len(rows) == 3 + len(arms)
    for row in rows[3:]:
        arm = arms[row["embeddings"], row["arm"]]
        assert arm.interval is not None
        assert arm.rates is not None
        assert float(row[loss]) == arm.interval.mean
        assert (float(row["body rate"]), float(row["rest rate"])) == (arm.rates.body, arm.rates.rest)
        assert row["past the bigram"] == str(arm.passed_bigram)


def test_attribution_adds_up_in_the_csv(full: Full) -> None:
    rows = csv_of(full[3], "-attribution.csv")
    worth = {row["part"]: float(row["worth, nats [95 %]"]) for row in rows}
    parts = sum(value for part, value in worth.items() if part == "coherence" or part.endswith("(Shapley)"))
    assert parts == pytest.approx(worth["donor − random"], abs=1e-12)


def test_every_csv_and_figure_parses(full: Full) -> None:
    paths = full[3]
    assert paths[0] == full[2]
    assert all(path.exists() for path in paths)
    for path in paths:
        if path.suffix == ".csv":
            assert table_rows(path), path.name
        if path.suffix == ".svg":
            assert ET.fromstring(path.read_text()).find("{http://www.w3.org/2000/svg}title") is not None
            assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    stems = {path.stem.split("-", 3)[3] for path in paths if path.suffix == ".svg"}
    modes = ("fresh", "frozen", "trainable")
    expected = {f"{figure}-{mode}" for figure in ("curves", "gaps", "rates") for mode in modes}
    assert stems == expected | {
        "overlap-none",
        "overlap-permute",
        "overlap-orthogonal",
        "attribution",
        "donors-and-draws",
    }


def test_the_page_stands_alone_and_is_accessible(full: Full) -> None:
    html = full[2].read_text()
    page = Page(html)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "object"} & set(names)
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            target = attributes.get(key) or "#"
            assert target.startswith(("#", "report-files/")), target
    assert not re.search(r"url\((?!#)|@import", html)
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) == sum(path.suffix == ".svg" for path in full[3])
    assert all(a.get("role") == "img" and len(a.get("aria-label") or "") > 40 for a in drawings)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for link in (a["href"] for tag, a in page.tags if tag == "a"):
        assert link is not None
        assert link[1:] in ids if link.startswith("#") else (full[2].parent / link).exists()


def test_names_and_texts_are_escaped(full: Full) -> None:
    html = full[2].read_text()
    assert "<script" not in html
    assert "&lt;script&gt;text&lt;/script&gt;" in html
    assert NAME in Page(html).text


def test_a_report_is_the_same_twice(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    conduct(declared("demo"), store, lambda run: run.split == "tune")
    first, second = (write_report(store, tmp_path / folder / "r.html") for folder in ("a", "b"))
    assert {".html", ".svg", ".png", ".csv"} == {path.suffix for path in first}
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_scale_rank_and_steps_are_in_every_figure(full: Full) -> None:
    for path in full[3]:
        if path.suffix == ".svg":
            assert "convergence, laptop · rank 25% · 400 steps" in path.read_text(), path.name  # matplotlib's comments


@pytest.mark.parametrize(
    "keep",
    [
        lambda run: run.arm.name not in ("random", "dense"),
        lambda run: run.embeddings == "frozen" and run.replicate < 2,
    ],
    ids=["two arms missing", "one mode, one replicate"],
)
def test_an_unfinished_experiment_says_what_is_missing(keep: Callable[[Run], bool], tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    conduct(declared(), store, keep)
    write_report(store, tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    assert "Unfinished: " in html
    assert "missing" in Page(html).text
    assert "nan" not in [cell for row in re.findall(r"<td[^>]*>([^<]*)", html) for cell in row.split()]
    assert not any(finding["verdict"].startswith(("supported", "refuted")) for finding in answers(store).values())


def test_several_declarations_are_told_apart(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    for experiment in (declared("demo"), declared("demo", donors=4), declared("smoke")):
        store.declare(asdict(experiment))
    write_report(store, tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    assert "3 declared experiments" in text
    assert text.count("missing: no evaluated run is stored yet") == 3
    assert text.count("2 different declarations of convergence at scale demo") == 2
    assert text.count("this is the newest") == 1


def test_the_ledger_takes_the_most_decisive_scale(full: Full, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    conduct(declared(), store)
    conduct(declared("demo"), store)  # newer, and decides nothing
    assert store_findings(store)["E8"]["verdict"] == "refuted (laptop)"
    rows = csv_of(full[3], "ledger.csv")
    assert len(rows) == 86
    assert {row["id"]: row["verdict"] for row in rows}["E6"] == "supported (laptop)"


def test_an_experiment_of_the_users_own_needs_no_claims(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    value = asdict(declared(donors=2)) | {"name": "mine", "title": "My own"}
    store.declare(value)
    write_report(store, tmp_path / "r.html")
    assert "My own" in (tmp_path / "r.html").read_text()


def test_an_empty_store_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a store with a declared experiment, found none"):
        write_report(open_store(tmp_path / "store"), tmp_path / "r.html")


def test_an_output_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.declare(asdict(declared("demo")))
    with pytest.raises(InputError, match="can't be written"):
        write_report(store, tmp_path)


def test_published_gaps_are_the_published_losses_differences() -> None:
    assert published_gaps()["random"] == pytest.approx([0.315, 0.331, 0.331, 0.394])
    assert published_gaps()["dense"] == pytest.approx([0.193, 0.209, 0.209, 0.272])


def test_cells_are_shown_with_few_digits() -> None:
    assert show(Interval(-0.01234, 0.1, -0.2, 0.1, 0.95, 5), "±+.3f") == "−0.012 [−0.200, +0.100]"
    assert show(Interval(4.5, math.nan, -math.inf, math.inf, 0.95, 1), "±.3f") == "4.500 (n 1)"
    assert show(None, "±.3f") == "missing"
    assert show(1.25e12, ".3g") == "1.25e12"
    assert show(True, "") == "yes"
