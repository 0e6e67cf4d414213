"""The demo's rates are the ones that the committed laptop sweep chose, not typed in."""

from pathlib import Path

from ontogeny.lab.conduct import searches
from ontogeny.lab.experiment import from_json
from ontogeny.lab.store import open_store
from ontogeny.terminal.lab import fixed_rates
from ontogeny.terminal.store import import_store

RATES = Path(__file__).resolve().parents[2] / "src" / "ontogeny" / "lab" / "laptop_rates.json"
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "convergence-laptop.jsonl"


def test_rates_are_those_of_the_committed_results(tmp_path: Path) -> None:
    import_store(RESULTS, tmp_path)
    store = open_store(tmp_path)
    declaration = next(value for path, value in store.experiments() if path.stem in RATES.read_text())
    found = searches(from_json(declaration), store)
    assert fixed_rates("convergence", "demo") == {
        mode: {arm: state.best for (m, arm), state in found.items() if m == mode} for mode in ("fresh", "frozen")
    }
