"""The rules that keep the code simple, read from the code itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "ontogeny"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = (
    "genome",
    "model",
    "training",
    "evolution",
    "lab",
    "terminal",
)  # a room imports itself and what stands before it
FRONT_DOOR = {"cli", "__main__", "benchmarks"}  # these import any room
BARE = {"__init__", "errors", "canonical", "files", "streams"}  # any room imports these; they import no room
LONGEST_FILE = 400


def room(path: Path) -> str:
    """The first part of a file's module name inside the package."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function, by its full name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def inside(path: Path) -> set[str]:
    """The rooms and bare modules of ours that a file imports."""
    names = {name.removeprefix("ontogeny.").split(".")[0] for name in imported(path) if name.startswith("ontogeny.")}
    return names & {*ROOMS, *FRONT_DOOR, *BARE}


def identify(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_imports_go_one_way(path: Path) -> None:
    if room(path) in ROOMS:
        assert inside(path) <= {*ROOMS[: ROOMS.index(room(path)) + 1], *BARE}
    elif room(path) in BARE - {"__init__"}:
        assert inside(path) <= BARE
    else:
        assert room(path) in FRONT_DOOR | {"__init__"}, f"no room is named {room(path)}: say here what it may import"


def test_the_rule_can_be_broken(tmp_path: Path) -> None:
    file = tmp_path / "sneaky.py"
    file.write_text("def f():\n    from ontogeny.lab import run\n    import ontogeny.training.text\n")
    assert inside(file) == {"lab", "training"}


@pytest.mark.parametrize("name", ["linalg", "topology", "controls"])
def test_pure_parts_of_genome_know_nothing_of_transformers(name: str) -> None:
    found = {module.split(".")[0] for module in imported(SOURCE / "genome" / f"{name}.py")}
    assert not found & {"transformers", "accelerate", "huggingface_hub"}


def test_report_imports_no_training() -> None:
    for path in sorted((SOURCE / "lab" / "report").glob("*.py")):
        assert not [name for name in imported(path) if name.startswith("ontogeny.training")], path.name


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_nothing_is_unpickled_and_no_code_comes_from_data(path: Path) -> None:
    assert imported(path).isdisjoint(("pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "runpy", "code"))
    assert list(unsafe(ast.parse(path.read_text(encoding="utf-8")))) == []


READERS = (
    "torch.load", "pickle.load", "pickle.loads", "np.load", "numpy.load", "pd.read_pickle", "yaml.load", "eval",
    "exec", "compile", "__import__", "os.system", "os.popen",
)  # fmt: skip


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Calls that may run code from what they read: transformers' loaders unless they are told not to."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name, given = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
        trusting = given.get("trust_remote_code", "False") != "False" or given.get("weights_only", "True") != "True"
        loads = name.endswith(".from_pretrained") and not (
            given.get("trust_remote_code") == "False" and given.get("use_safetensors") == "True"
        )
        if name in READERS or trusting or loads:
            yield ast.unparse(call)


def test_unsafe_calls_are_seen() -> None:
    for line in ("torch.load(x)", "M.from_pretrained(x)", "f(trust_remote_code=True)", "f(trust_remote_code=given)"):
        assert list(unsafe(ast.parse(line))) == [line]
    assert not list(unsafe(ast.parse("M.from_pretrained(x, use_safetensors=True, trust_remote_code=False)")))


def test_files_are_short() -> None:
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*FILES, *ROOT.glob("tests/**/*.py"))
    }
    assert {path: length for path, length in lengths.items() if length >= LONGEST_FILE} == {}


def test_no_mention_of_working_documents() -> None:
    folder = "shared" + "/design"  # in two parts, so that this file passes its own test
    written = {".py", ".md", ".toml", ".txt", ".cff", ".json", ".jsonl", ".jinja", ".html", ".css"}
    files = [path for place in ("src", "tests", "docs") for path in (ROOT / place).rglob("*") if path.suffix in written]
    for path in [*files, *ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "Makefile"]:
        assert folder not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("module", ["ontogeny.cli", "ontogeny"])
def test_front_door_is_light(module: str) -> None:
    """What makes ``ontogeny --help`` answer within a second."""
    code = (
        f"import sys, {module}; print(*sorted({{'torch', 'transformers', 'scipy', 'matplotlib'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
