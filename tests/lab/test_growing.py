"""grow: a standard model of every language architecture, refusals before training, going on where it was cut off."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import smoke
import torch
from command_line import command, refused
from constrained import assert_round_off
from tiny import TINY, VOCABULARY, tiny_checkpoint
from torch import Tensor

from ontogeny.errors import InputError, Interrupted
from ontogeny.genome.checkpoint import open_checkpoint
from ontogeny.genome.extract import Recipe, extract
from ontogeny.genome.genome import save
from ontogeny.lab import growing
from ontogeny.lab.experiment import Rates
from ontogeny.lab.growing import Growth, grow
from ontogeny.model.grow import grown_model, parameters, subspaces
from ontogeny.model.prune import compact, prunable

LANGUAGE = [name for name in TINY if name != "vit"]
SHORT: dict[str, Any] = {"steps": 12, "length": 16, "batch": 2}
QUICK = ("--steps", 12, "--length", 16, "--batch", 2)
IDS = torch.arange(20)[None] % VOCABULARY


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smoke.write_text(tmp_path_factory.mktemp("text") / "text.jsonl")


def donor(name: str, folder: Path) -> Path:
    directory = tiny_checkpoint(name, folder / name)
    smoke.write_tokenizer(directory, VOCABULARY)
    return directory


@torch.no_grad()
def logits(folder: Path) -> Tensor:
    from transformers import AutoModelForCausalLM

    found: Tensor = AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits
    return found


@pytest.mark.parametrize("name", LANGUAGE)
def test_every_language_architecture(name: str, text: Path, tmp_path: Path) -> None:
    """Within its budget, equal to the constrained model that developed, and able to generate."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kept: dict[str, Any] = {}

    def developed(model: Any) -> Any:
        assert any(layer.dead is not None and layer.dead.any() for layer in prunable(model).values())
        with torch.no_grad():
            kept["logits"] = model.eval()(IDS).logits
        return compact(model)

    directory, out = donor(name, tmp_path), tmp_path / "grown"
    with patch.object(growing, "compact", developed):
        numbers = grow(Growth(str(directory), ("params", 0.6), (str(text),), **SHORT), out)
    assert_round_off(logits(out), kept["logits"])
    model = AutoModelForCausalLM.from_pretrained(out)
    assert sum(p.numel() for p in model.parameters()) == numbers["parameters"]
    assert numbers["parameters"] <= 0.6 * numbers["donor_parameters"]
    assert model.config.model_type == open_checkpoint(directory).config["model_type"]
    tokenizer = AutoTokenizer.from_pretrained(out, use_fast=True) if name == "llama" else None
    prompt = tokenizer("the gene", return_tensors="pt").input_ids if tokenizer else IDS[:, :3]
    assert (
        model.generate(prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0).shape[1]
        == prompt.shape[1] + 4
    )
    assert not (tmp_path / "grown.growing").exists()


def test_in_a_process_without_ontogeny(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    grow(Growth(str(donor("llama", tmp_path)), ("flops", 0.7), (str(text),), **SHORT), out)
    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM as A\n"
        f"model, ids = A.from_pretrained({str(out)!r}).eval(), torch.arange(20)[None] % {VOCABULARY}\n"
        "with torch.no_grad(): y = model(ids).logits\n"
        "assert not any(m.startswith('ontogeny') for m in sys.modules)\n"
        "print(y.double().sum().item())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(told) == pytest.approx(float(logits(out).double().sum()), abs=1e-3)


def test_the_card_is_complete(text: Path, tmp_path: Path) -> None:
    directory, out = donor("llama", tmp_path), tmp_path / "grown"
    answer = command("grow", directory, "--params", "60%", "--text", text, "--out", out, *QUICK)
    assert (answer.status, answer.error) == (0, "")
    card, numbers = (out / "README.md").read_text(), json.loads((out / "growth.json").read_text())
    for needed in (
        *open_checkpoint(directory).source()["files"].values(),
        f"{numbers['parameters']:,}",
        f"{numbers['loss']:.3f}",
        f"{numbers['donor_loss']:.3f}",
        str(text),
        *(f"{loss:.3f}" for loss in numbers["references"].values()),
    ):
        assert needed in card
    assert "test loss" in answer.out
    names = {path.name for path in out.iterdir()}
    assert names >= {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}


def test_from_a_genome_file_and_to_a_larger_size(text: Path, tmp_path: Path) -> None:
    directory, file = donor("llama", tmp_path), tmp_path / "g.safetensors"
    save(extract(open_checkpoint(directory), Recipe(rank="50%", basis="singular")), file)
    config = json.loads((directory / "config.json").read_text())
    larger = config | {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96}
    (tmp_path / "larger.json").write_text(json.dumps(larger))
    numbers = grow(Growth(str(file), tmp_path / "larger.json", (str(text),), **SHORT), tmp_path / "grown")
    assert numbers["parameters"] > parameters(config)
    assert numbers["shape"]["width"] == 64
    assert 0 < numbers["drawn"] < numbers["directions"]
    assert f"{numbers['drawn']:,} are random" in (tmp_path / "grown" / "README.md").read_text()


def test_the_genome_of_a_hub_id_finds_its_tokenizer(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, asked = donor("llama", tmp_path / "0a1b2c"), []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, "tokenizer*.json" in allow_patterns))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    file = tmp_path / "g.safetensors"
    save(extract(open_checkpoint("owner/name", revision="v1"), Recipe(rank="50%", basis="singular")), file)
    numbers = grow(Growth(str(file), ("params", 0.6), (str(text),), **SHORT), tmp_path / "grown")
    assert asked == [("owner/name", "v1", True), ("owner/name", snapshot.name, True)]
    assert (tmp_path / "grown" / "tokenizer.json").read_bytes() == (snapshot / "tokenizer.json").read_bytes()
    assert numbers["donor_loss"] is not None


def test_cut_off_it_goes_on_with_the_same_numbers(text: Path, tmp_path: Path) -> None:
    growth = Growth(str(donor("llama", tmp_path)), ("params", 0.6), (str(text),), **SHORT)
    expected = grow(growth, tmp_path / "whole")

    class CutOffError(Exception):
        pass

    def cut(line: str) -> None:
        if line.startswith("step 6"):
            raise CutOffError

    out = tmp_path / "cut"
    with pytest.raises(CutOffError):
        grow(growth, out, cut)
    assert not out.exists()
    assert grow(growth, out)["curve"] == expected["curve"]
    assert torch.equal(logits(out), logits(tmp_path / "whole"))


def test_overproduction_grows_what_survives(text: Path, tmp_path: Path) -> None:
    directory, out = donor("llama", tmp_path), tmp_path / "grown"
    with patch.object(growing, "grown_model", wraps=grown_model) as grown:
        answer = command(
            "grow", directory, "--params", "60%", "--text", text, "--out", out, *QUICK, "--overproduce", 14
        )
    assert (answer.status, answer.error) == (0, "")
    assert "overproduction, step 14: test loss" in answer.out
    whole = subspaces(extract(open_checkpoint(directory), Recipe(rank="50%", basis="singular")))
    genome = subspaces(grown.call_args.args[0])
    ranks = {name: gene.rank for name, gene in genome.items()}
    for role in {name.split(".", 2)[2] for name in ranks}:
        names = [f"layers.{i}.{role}" for i in (0, 1)]
        assert sum(ranks[name] for name in names) == round(0.5 * sum(whole[name].rank for name in names))
    assert min(ranks.values()) >= 1
    assert len({ranks[f"layers.{i}.{role}"] for i in (0, 1) for role in ("mlp.gate", "mlp.up", "mlp.down")}) > 1
    for name, gene in genome.items():
        same = (gene.U.T @ whole[name].U).abs() > 1 - 1e-5
        assert bool((same == ((gene.V.T @ whole[name].V).abs() > 1 - 1e-5)).all()), "pairs stay together"
        assert same.sum(1).tolist() == [1] * gene.rank
    numbers, card = json.loads((out / "growth.json").read_text()), (out / "README.md").read_text()
    of = {name: gene.rank for name, gene in whole.items()}
    for layer, share in numbers["overproduced"].items():
        here = [name for name in ranks if name.startswith(f"layers.{layer}.")]
        assert share == pytest.approx(sum(ranks[name] for name in here) / sum(of[name] for name in here))
    assert "lived 14 steps on this text" in card
    assert f"layer 1 {numbers['overproduced']['1']:.0%}" in card
    assert logits(out).isfinite().all()


def test_an_overproduction_that_was_cut_off_goes_on(text: Path, tmp_path: Path) -> None:
    growth = Growth(str(donor("llama", tmp_path)), ("params", 0.6), (str(text),), overproduce=12, **SHORT)
    expected = grow(growth, tmp_path / "whole")
    out, lines = tmp_path / "cut", []

    def cut(line: str) -> None:
        lines.append(line.split(":")[0])
        if lines[-1] in ("overproduction, step 6", "step 6"):
            signal.raise_signal(signal.SIGINT)

    for _ in range(2):
        with pytest.raises(Interrupted):
            grow(growth, out, cut)
    assert grow(growth, out, cut)["curve"] == expected["curve"]
    assert torch.equal(logits(out), logits(tmp_path / "whole"))
    steps = [line for line in lines if "→" not in line]
    named = [f"step {step}" for step in (1, 3, 6, 9, 12)]
    assert steps == [f"overproduction, {step}" for step in named] + named


@pytest.mark.parametrize("overproduce", [0, 12])
def test_after_divergence_the_corrected_call_starts_anew(overproduce: int, text: Path, tmp_path: Path) -> None:
    directory, out = donor("llama", tmp_path), tmp_path / "grown"
    options = SHORT | {"overproduce": overproduce}
    with pytest.raises(InputError, match=r"diverged after step \d+: give lower --rates"):
        grow(Growth(str(directory), ("params", 0.6), (str(text),), rates=Rates(1e30, 1e30), **options), out)
    assert not out.with_name("grown.growing").exists()
    grow(Growth(str(directory), ("params", 0.6), (str(text),), **options), out)
    assert (out / "model.safetensors").exists()


def test_another_growth_under_way_is_not_mixed_in(text: Path, tmp_path: Path) -> None:
    directory, out = donor("llama", tmp_path), tmp_path / "grown"
    with patch.object(growing, "_develop", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        grow(Growth(str(directory), ("params", 0.6), (str(text),), **SHORT), out)
    with patch.object(growing, "extract", side_effect=AssertionError):
        told = refused("grow", directory, "--params", "50%", "--text", text, "--out", out, *QUICK)
    assert "another growth is under way" in told


def test_mistakes(text: Path, tmp_path: Path) -> None:
    directory, out = donor("llama", tmp_path), tmp_path / "grown"
    bare = tiny_checkpoint("llama", tmp_path / "bare")
    vit = donor("vit", tmp_path)
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    changes: dict[str, dict[str, Any]] = {
        "other": {"model_type": "gpt2"},
        "odd": {"num_attention_heads": 3},
        "none": {"num_attention_heads": 0, "num_key_value_heads": 0},
        "words": {"vocab_size": 1000},
    }
    singular, canonical = tmp_path / "singular", tmp_path / "canonical"
    save(extract(open_checkpoint(directory), Recipe(rank="50%", basis="singular")), singular)
    save(extract(open_checkpoint(directory), Recipe(rank="50%")), canonical)
    for name, change in changes.items():
        config = json.loads((directory / "config.json").read_text()) | change
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    short = tmp_path / "short.txt"
    short.write_text("the gene of a net\n\n" * 40)
    cases: dict[str, tuple[Any, ...]] = {
        "expected one of --params, --flops and --config": (directory, "--out", out),
        "expected a percentage": (directory, "--out", out, "--params", "much"),
        "for another size give --config": (directory, "--out", out, "--params", "100%"),
        "smallest valid sister": (directory, "--out", out, "--params", "0.1%"),
        "no such file; give a config.json": (directory, "--out", out, "--config", tmp_path / "nowhere.json"),
        "expected a configuration of the donor's architecture": (
            directory,
            "--out",
            out,
            "--config",
            tmp_path / "other.json",
        ),
        "don't divide into 2 groups": (directory, "--out", out, "--config", tmp_path / "odd.json"),
        "the grown model takes the donor's tokenizer": (bare, "--out", out, "--params", "60%"),
        "found a ViT's": (vit, "--out", out, "--params", "60%"),
        "isn't an empty folder": (directory, "--out", full, "--params", "60%"),
        "--rates 1: expected two positive numbers": (directory, "--out", out, "--params", "60%", "--rates", "1"),
        "expected a positive whole number of heads": (
            directory,
            "--out",
            out,
            "--config",
            tmp_path / "none.json",
        ),
        "expected the donor's vocabulary of 64": (directory, "--out", out, "--config", tmp_path / "words.json"),
        "don't fit into 5 steps": (directory, "--out", out, "--params", "60%", "--overproduce", 5),
        "20,000 steps of 2 × 16": (directory, "--out", out, "--params", "60%", "--overproduce", 20000),
        "found keep 1.5": (directory, "--out", out, "--params", "60%", "--keep", "1.5"),
        "a genome file has its ranks": (singular, "--out", out, "--params", "60%", "--rank", "10%"),
        "no direction has a partner": (canonical, "--out", out, "--params", "60%"),
        "reads 64 tokens at most": (directory, "--out", out, "--params", "60%", "--length", 65),
    }
    with patch.object(growing, "extract", side_effect=AssertionError("refused only after minutes of reading")):
        for expected, words in cases.items():
            options = QUICK if "--length" not in words else ()
            assert expected in refused("grow", *words, "--text", text, *options), expected
        told = refused("grow", directory, "--out", out, "--params", "60%", "--text", short, "--length", 16)
        assert "give more text" in told
    assert not out.exists()
    assert not out.with_name("grown.growing").exists(), "a refusal leaves nothing that a corrected call would meet"


def test_what_changed_under_its_name_is_another_growth(text: Path, tmp_path: Path) -> None:
    directory, out, mine = donor("llama", tmp_path), tmp_path / "grown", tmp_path / "mine.jsonl"
    mine.write_bytes(text.read_bytes())
    growth = Growth(str(directory), ("params", 0.6), (str(mine),), **SHORT)
    with patch.object(growing, "_develop", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        grow(growth, out)
    smoke.write_text(mine, seed=1)
    with pytest.raises(InputError, match="another growth is under way"):
        grow(growth, out)


def test_a_folder_of_ones_own_is_not_taken(text: Path, tmp_path: Path) -> None:
    directory, out = donor("llama", tmp_path), tmp_path / "grown"
    mine = tmp_path / "grown.growing"
    mine.mkdir()
    (mine / "notes").touch()
    assert "holds no growth" in refused("grow", directory, "--params", "60%", "--text", text, "--out", out, *QUICK)
    assert (mine / "notes").exists()


def test_a_donor_whose_weights_are_gone_has_no_loss(text: Path, tmp_path: Path) -> None:
    directory, file = donor("llama", tmp_path), tmp_path / "g.safetensors"
    save(extract(open_checkpoint(directory), Recipe(rank="50%", basis="singular")), file)
    (directory / "model.safetensors").unlink()
    numbers = grow(Growth(str(file), ("params", 0.6), (str(text),), **SHORT), tmp_path / "grown")
    assert numbers["donor_loss"] is None
    assert "not measured" in (tmp_path / "grown" / "README.md").read_text()
