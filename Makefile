PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak check format findings clean

.venv/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/core  ## the main job on embedded defaults: donors, genomes, arms, verdicts, report
	$(BIN)/ontogeny demo

test: .venv/dev  ## the test suite
	$(BIN)/pytest

soak: .venv/dev  ## every promise of docs/reliability.md, 20 minutes at most on two cores; writes its figures there
	timeout 1200 $(BIN)/pytest soak --figures docs/reliability.md

check: .venv/dev  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

findings: .venv/core  ## docs/findings.md and README.md again, from docs/results
	rm -rf ontogeny-findings
	for file in docs/results/*.jsonl; do $(BIN)/ontogeny store import $$file --store ontogeny-findings || exit 1; done
	for page in docs/findings.md README.md; do $(BIN)/ontogeny report --store ontogeny-findings --out $$page || exit 1; done

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis ontogeny-demo ontogeny-findings
