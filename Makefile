# make test: set up, then lint, types, layers and tests.   make demo: set up, then train, evaluate, export and solve.
# make wheel: build the distributions, and test them as users install them.
# make docs: set up, then the site in build/docs; warnings are errors, no network.
# make shapes: all tests, with every annotated shape checked at every call; `make test` checks those of one test.
# make sanitize: tests of the compiled core with the sanitizers of gcc.
# PYTHON names another Python for .venv than the first of these that is new enough:
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3)
NEW_ENOUGH := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
FOUND = $(firstword $(foreach name,$(PYTHONS),$(shell $(name) -c "$(NEW_ENOUGH)" >/dev/null 2>&1 && echo $(name))))
NONE = $(error metaot needs Python 3.11 or newer with its module venv, and found none as $(PYTHONS): install one \
  (Debian has python3 and python3-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3)
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
WORKERS ?= 2
# A worker takes tests of files that it began, and at the end those of others.
TESTS := $(BIN)/pytest -q -n $(WORKERS) --dist worksteal -m "not slow"

.PHONY: setup test shapes wheel sanitize demo bench docs format

setup: $(READY)

$(READY): pyproject.toml setup.py constraints.txt $(wildcard metaot/core/src/*)
	$(or $(FOUND),$(NONE)) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet -c constraints.txt --editable ".[plot,export,parity,roads,serve]" --group dev
	touch $@

# Compiled tests and modules are kept for the next time and the other processes, whatever was set.
test shapes: export PYTHONDONTWRITEBYTECODE =

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(TESTS)

shapes: setup
	$(TESTS) --jaxtyping-packages=metaot,beartype.beartype

wheel: setup
	$(BIN)/python tests/packaging/check.py --torch

sanitize: setup
	sh tests/core/sanitize.sh $(BIN)/python

# Tensors are small: a second thread gains little, and loses much on a busy machine.
demo: export OMP_NUM_THREADS = 1
demo: setup
	rm -rf runs/demo
	$(BIN)/python train.py shapes --out runs/demo --set steps=1000
	$(BIN)/metaot evaluate runs/demo --instances 40 --seconds 3
	$(BIN)/python export.py runs/demo --out runs/demo/model.onnx
	$(BIN)/python examples/demo/own_problems.py runs/demo
	@echo "pictures: runs/demo/evaluation; curves: $(BIN)/tensorboard --logdir runs/demo"

bench: setup
	$(BIN)/pip install --quiet -c constraints.txt --editable ".[plot,peers]"
	$(BIN)/python -m benchmarks.mnist
	$(BIN)/python -m benchmarks.discrete
	$(BIN)/python -m benchmarks.palette
	$(BIN)/python -m benchmarks.planted
	$(BIN)/python -m benchmarks.sphere
	$(BIN)/python -m benchmarks.universal

docs: setup
	$(BIN)/pip install --quiet -c constraints.txt --group docs
	$(BIN)/sphinx-build -W --keep-going -n docs build/docs

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
