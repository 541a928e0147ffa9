# make test: set up, then lint, types, layers and tests.   make demo: set up, then train, evaluate and solve.
# make sanitize: tests of the compiled core with the sanitizers of gcc.
PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: setup test sanitize demo bench format

setup: $(READY)

$(READY): pyproject.toml constraints.txt $(wildcard metaot/core/src/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet -c constraints.txt --editable ".[plot,export,parity,serve]" --group dev
	touch $@

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n $(WORKERS) -m "not slow"

sanitize: setup
	sh tests/core/sanitize.sh $(BIN)/python

demo: setup
	$(BIN)/python examples/demo.py

bench: setup
	$(BIN)/pip install --quiet -c constraints.txt --editable ".[plot,peers]"
	$(BIN)/python -m benchmarks.mnist
	$(BIN)/python -m benchmarks.discrete
	$(BIN)/python -m benchmarks.palette
	$(BIN)/python -m benchmarks.planted
	$(BIN)/python -m benchmarks.sphere
	$(BIN)/python -m benchmarks.universal

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
