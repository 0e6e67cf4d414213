"""What the commands print and write when all is well."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import smoke
import tiny
import torch
from command_line import Answer, command
from reported import sketches
from safetensors.torch import load_file, save_file

import ontogeny
from ontogeny.canonical import canonical_json
from ontogeny.files import write_json
from ontogeny.genome.controls import CONTROLS
from ontogeny.genome.genome import Mask, Subspace, load
from ontogeny.lab.claims import load_sources
from ontogeny.lab.experiment import Run
from ontogeny.lab.findings import findings, read
from ontogeny.lab.rates import START
from ontogeny.lab.store import Store, claim, open_store

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


@pytest.fixture(scope="session")
def sister(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("checkpoints") / "sister", seed=1)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return smoke.smoke_store(tmp_path_factory)


def test_version_help_and_nothing() -> None:
    assert command("--version") == Answer(0, ontogeny.__version__ + "\n", "")
    for words in ((), ("--help",)):
        answer = command(*words)
        assert answer.status == 0
        for name in ("demo", "extract", "inspect", "compare", "control", "run", "status", "report", "claims", "store"):
            assert f" {name} " in answer.out
    assert "--dry-run" in command("run", "--help").out


def test_help_answers_at_once() -> None:
    """Best of three, since the machine may be busy."""
    times = []
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "ontogeny", "--help"], capture_output=True, text=True, check=True)
        times.append(time.monotonic() - started)
        assert "Usage:" in done.stdout
    assert min(times) < 1.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.parametrize("words", [["nonsense"], ["extract"], ["run", "--scale"]], ids=" ".join)
def test_mistake_in_a_process_of_its_own(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "ontogeny", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ontogeny: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--rank", "50%"),
        ("--rank", "7"),
        ("--energy", "0.9"),
        ("--rank", "25%", "--select", "middle"),
        ("--rank", "25%", "--select", "bottom"),
        ("--basis", "singular"),
        ("--fold-norms",),
        ("--pattern", "mlp"),
        ("--dtype", "float64"),
        ("--dtype", "float16"),
        ("--dtype", "bfloat16"),
        ("--device", "cpu"),
        ("--density", "10%"),
    ],
    ids=" ".join,
)
def test_extract(llama: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    out = tmp_path / "g.safetensors"
    answer = command("extract", llama, "--out", out, *options)
    assert (answer.status, answer.error) == (0, "")
    genome = load(out)
    assert f"{len(genome.genes)} sites" in answer.out
    assert len(genome.genes) == (6 if "--pattern" in options else 14)
    gene = next(gene for site, gene in genome.genes.items() if site.name.endswith(("mlp.up", "mlp.up_proj")))
    if "--density" in options:
        assert isinstance(gene, Mask)
        assert "certificates" not in answer.out
    else:
        assert isinstance(gene, Subspace)
        assert f"{len(genome.genes)} certificates passed" in answer.out
    wanted = {"--rank 50%": 16, "--rank 7": 7, "": 3}
    if (named := " ".join(options)) in wanted and isinstance(gene, Subspace):
        assert gene.rank == wanted[named]


def test_extract_says_which_certificates_failed(llama: Path, tmp_path: Path) -> None:
    tied = Path(shutil.copytree(llama, tmp_path / "tied"))
    tensors = load_file(tied / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = torch.eye(*tensors[name].shape)
    save_file(tensors, tied / "model.safetensors", metadata={"format": "pt"})
    answer = command("extract", tied, "--out", tmp_path / "g.safetensors")
    assert answer.status == 0
    assert "13 certificates passed" in answer.out
    assert "layers.1.mlp.up: " in answer.out
    shown = command("inspect", tmp_path / "g.safetensors", "--json")
    assert json.loads(shown.out)["sites"]["layers.1.mlp.up"]["certificate"]["passed"] is False


@pytest.mark.parametrize("name", [name for name, c in CONTROLS.items() if c.kind == "subspace"])
def test_control(genome_file: Path, sister: Path, tmp_path: Path, name: str) -> None:
    other, out = tmp_path / "other.safetensors", tmp_path / "out.safetensors"
    assert command("extract", sister, "--rank", "25%", "--out", other).status == 0
    many = [genome_file, other][: CONTROLS[name].donors]
    answer = command("control", name, *many, "--seed", 3, "--out", out)
    assert (answer.status, answer.error) == (0, "")
    assert f"{name}, seed 3, 14 sites" in answer.out
    assert load(out).provenance["recipe"]["control"] == name
    assert "control" in command("inspect", out).out


def test_control_list() -> None:
    answer = command("control", "--list")
    assert answer.status == 0
    assert all(name in answer.out for name in CONTROLS)


def test_inspect_genome(genome_file: Path) -> None:
    shown = command("inspect", genome_file)
    assert "layers.1.mlp.down" in shown.out
    assert "sha256" in shown.out
    value = json.loads(command("inspect", genome_file, "--json").out)
    assert value["sites"]["layers.0.attention.query"]["rank"] == 8
    assert set(value) == {"sites", "recipe", "source", "versions"}


def test_inspect_genome_under_any_name(genome_file: Path, tmp_path: Path) -> None:
    shutil.copy(genome_file, tmp_path / "genome")
    assert command("inspect", tmp_path / "genome").status == 0


def test_inspect_checkpoint(llama: Path) -> None:
    shown = command("inspect", llama)
    for word in ("effective rank", "stable rank", "spikes", "clustering", "layers.1.mlp.down"):
        assert word in shown.out
    value = json.loads(command("inspect", llama, "--json").out)
    site = value["sites"]["layers.0.attention.query"]
    assert {"shape", "effective_rank", "stable_rank", "energy_top_10_percent", "clustering"} <= set(site)


def test_compare(genome_file: Path, sister: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke.few_refits(monkeypatch)
    other = tmp_path / "other.safetensors"
    assert command("extract", sister, "--rank", "25%", "--out", other).status == 0
    shown = command("compare", genome_file, other, genome_file)
    assert (shown.status, shown.error) == (0, "")
    assert "0–2" in shown.out
    rows = json.loads(command("compare", genome_file, other, genome_file, "--json").out)
    same = [row["overlap"] for row in rows if (row["first"], row["second"]) == (0, 2)]
    assert same == pytest.approx([1.0] * len(same), abs=1e-4)
    assert all(row["overlap"] < 0.8 for row in rows if row["second"] == 1)
    for align, options in {"permute": ("--json",), "orthogonal": ()}.items():
        answer = command("compare", genome_file, other, "--align", align, *options)
        assert (answer.status, answer.error) == (0, "")
        assert ("aligned (orthogonal) on odd layers" in answer.out) == (align == "orthogonal")
        assert align == "orthogonal" or {row["first"] for row in json.loads(answer.out)} == {0}


def test_compare_checkpoints_and_masks(llama: Path, sister: Path, tmp_path: Path) -> None:
    assert command("compare", llama, sister).status == 0
    masks = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for checkpoint, mask in zip((llama, sister), masks, strict=True):
        assert command("extract", checkpoint, "--density", "10%", "--out", mask).status == 0
    shown = command("compare", *masks)
    assert "degree-matched" in shown.out
    assert {row["site"] for row in json.loads(command("compare", *masks, "--json").out)} >= {"layers.0.mlp.up"}


def test_run_tells_before_it_runs(tmp_path: Path) -> None:
    answer = command("run", "convergence", "--scale", "smoke", "--dry-run", "--workers", 2, "--store", tmp_path / "s")
    assert answer.status == 0
    assert "on 2 workers" in answer.out
    for word in ("donor", "fresh random", "frozen dense, tuning", "genome files", "2 of the largest", "total", "MB"):
        assert word in answer.out
    assert not (tmp_path / "s").exists()
    shown = command("run", "convergence", "--scale", "smoke", "--describe", "--set", "steps=7", "--replicates", 3)
    assert "steps" in shown.out
    assert "7" in shown.out
    assert "convergence" in command("run", "--list").out


NOT_EXACT = "Not an exact reproduction: what is not stated is our choice."


@pytest.mark.parametrize(
    ("name", "donors"),
    [
        ("extraction", ("SmolLM2-135M", "Qwen2.5-0.5B", "Qwen2.5-1.5B", "SmolLM2-1.7B")),
        ("convergence", ("seed1", "seed4")),
    ],
)
def test_paper_scale_says_what_is_not_stated(name: str, donors: tuple[str, ...]) -> None:
    told = command("run", name, "--scale", "paper", "--describe").out
    assert NOT_EXACT in told
    for donor in donors:
        assert f"{donor}, revision main" in told, "of every family"
    for row in ("batch", "length", "optimiser", "mask scope", "embeddings", "seeds"):
        assert re.search(rf"│ {row} .*not stated: our choice", told)
    assert re.search(r"│ steps .*│ +│", told), "stated"
    assert NOT_EXACT not in command("run", name, "--scale", "laptop", "--describe").out


def test_paper_scale_says_what_is_stated() -> None:
    told = command("run", "crossmodal", "--scale", "paper", "--describe").out
    assert "E3: 42, 123, 7 (three)" in told
    assert "Qwen/Qwen2.5-1.5B" in told
    for row in ("rank", "steps"):
        assert re.search(rf"│ {row} .*not stated", command("run", "profile", "--scale", "paper", "--describe").out)


def test_dry_run_at_paper_scale() -> None:
    answer = command("run", "reachability", "--scale", "paper", "--dry-run")
    assert answer.status == 0
    assert NOT_EXACT in answer.out
    assert "EleutherAI/pythia-14m, revision step143000" in answer.out
    assert "downloaded donors" in answer.out


def test_dry_run_of_the_full_table(llama: Path) -> None:
    answer = command("run", "convergence", "--scale", "smoke", "--dry-run", "--table", "full", "--donor", llama)
    assert answer.status == 0
    assert "values-permuted" in answer.out
    assert "chimera" not in answer.out, "it needs several donors"


def test_demo_dry_run_tunes_nothing() -> None:
    answer = command("run", "convergence", "--scale", "demo", "--dry-run")
    assert answer.status == 0
    assert "tuning" not in answer.out, "its rates are the committed sweep's"


def test_status(store: Store) -> None:
    answer = command("status", "--store", store.root)
    assert answer.status == 0
    line = next(line for line in answer.out.splitlines() if "convergence" in line and "smoke" in line)
    cells = [cell.strip() for cell in line.strip("│ ").split("│")]
    assert cells[3:] == ["2/2", cells[4], "22", "0", "0", "0", "0"]
    assert int(cells[4]) >= 40
    assert command("status", "--store", store.root, "--watch").out.count("smoke") == answer.out.count("smoke")


def test_status_of_an_unfinished_store(store: Store, tmp_path: Path) -> None:
    (path, declaration), *_ = store.experiments()
    unfinished = open_store(tmp_path / "s")
    unfinished.declare(declaration)
    assert states(unfinished) == ["0", "0", "0"]
    donor, run = unfinished.root / "donors" / smoke.declared(store).setting.donors[0], tuning_run(store)
    for begun in (donor, unfinished.run_directory(run.id, 0)):
        write_json(begun / "run.json", {})
    assert states(unfinished) == ["0", "2", "0"]
    with claim(donor):
        assert states(unfinished) == ["1", "1", "0"]
    assert "0/2" in command("status", "--store", unfinished.root).out
    assert path.name


def states(store: Store) -> list[str]:
    """How many runs are running, interrupted and failed, as ``status`` says."""
    line = next(line for line in command("status", "--store", store.root).out.splitlines() if "smoke" in line)
    return [cell.strip() for cell in line.strip("│ ").split("│")][6:9]


def tuning_run(store: Store) -> Run:
    """The first point of a search."""
    experiment = smoke.declared(store)
    return experiment.tuning_run("fresh", experiment.arm("dense"), START)


def test_claims(store: Store) -> None:
    plain = json.loads(command("claims", "--json").out)
    assert [row["id"] for row in plain][:3] == ["E1", "E2", "E3"]
    assert len(plain) == 24 + 42 + 20
    assert {row["verdict"] for row in plain} == {"not run", "narrative"}
    found = {row["id"]: row for row in json.loads(command("claims", "--json", "--store", store.root).out)}
    assert found["E8"]["verdict"] == "undecided (smoke)"
    assert found["E8"]["scale"] == "smoke"
    ordered = [row["id"] for row in json.loads(command("claims", "--json", "--by", "source").out)]
    assert sorted(ordered) == sorted(found)
    assert ordered != list(found)
    assert "E24" in command("claims", "--store", store.root).out
    documents = command("claims", "--by", "source", "--store", store.root).out
    assert all(title in documents for title in load_sources().values())


def test_export_import_round_trip(store: Store, tmp_path: Path) -> None:
    first, second, again = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "again"
    assert command("store", "export", "--store", store.root, "--out", first).status == 0
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"declaration", "donor", "arm", "overlap"}
    assert all(canonical_json(value) == line for value, line in zip(lines, first.read_text().splitlines(), strict=True))
    assert command("store", "import", first, "--store", again).status == 0
    assert command("store", "export", "--store", again, "--out", second).status == 0
    assert second.read_text() == first.read_text()
    assert command("claims", "--json", "--store", again).out == command("claims", "--json", "--store", store.root).out
    assert command("store", "import", first, "--store", again).status == 0, "what is there stays"


def test_report_from_an_import_is_the_report(store: Store, tmp_path: Path) -> None:
    exported, again = tmp_path / "a.jsonl", tmp_path / "again"
    command("store", "export", "--store", store.root, "--out", exported)
    command("store", "import", exported, "--store", again)
    pages = []
    for root, name in ((store.root, "one"), (again, "two")):
        (tmp_path / name).mkdir()
        with sketches():
            answer = command("report", "--store", root, "--out", tmp_path / name / "report.html")
        assert (answer.status, answer.error) == (0, "")
        assert "report.html" in answer.out
        pages.append((tmp_path / name / "report.html").read_text())
    assert pages[0] == pages[1]


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_published_results_are_still_what_their_declarations_ask_for(file: Path, tmp_path: Path) -> None:
    """A changed id would orphan them: ``ontogeny store import`` must give back a store with nothing missing."""
    assert command("store", "import", file, "--store", tmp_path).status == 0
    store = open_store(tmp_path)
    for _, declaration in store.experiments():
        assessment = read(declaration, store)
        assert assessment.complete
        assert findings(assessment, store)
