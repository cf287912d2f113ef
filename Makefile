# The one definition of demo, setup, test, check and bench; CI and README call it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv || echo .uv/bin/uv)
DEMO ?= demo
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)
# Most tests wait for processes that they start, so even a machine with one core gains from a second one.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
# This profile compiles the crates of others only once for the build, clippy and the tests; see Cargo.toml.
CARGO_TEST := cargo test --workspace --profile bench --quiet
# Hosts that write no bytecode compile each module at each start, and tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=
# Test processes share the cores with each other: more threads each only get in the way.
test test-all: export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo pictures test test-all check format mutants bench tmux clean

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.built  ## Make .venv with everything in it and build the Rust core

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv

$(BIN)/python: | $(filter .uv/%,$(UV))
	@test -x $@ || $(UV) venv --quiet --python $(PYTHON) $(VENV)

# uv links packages from its cache: the 5 GB of a torch environment take seconds the second time.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(UV) pip install --quiet --python $(BIN)/python --requirement pyproject.toml --extra dev --constraint constraints.txt
	@touch $@

# uv leaves compiling to the first import, which hosts that write no bytecode then do at each start: 6 s of torch. Here it
# is written, but only of what patchcore imports: all packages would take a minute.
$(VENV)/.built: $(VENV)/.installed $(RUST)
	PATH="$(abspath $(BIN)):$$PATH" $(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c "import importlib, pkgutil, patchcore; [importlib.import_module(one.name) for one in \
	  pkgutil.walk_packages(patchcore.__path__, 'patchcore.') if not one.name.endswith('__main__')]"
	@touch $@

demo: setup  ## Phantom CTs in; patch size, a trained UNETR of that size and its DSC out
	$(BIN)/python examples/demo.py $(DEMO)

pictures: demo  ## The pictures of the README, from the demo's run
	$(BIN)/python docs/pictures.py $(DEMO)/study

test: setup tmux  ## cargo tests and pytest
	$(CARGO_TEST)
	$(PYTEST)

test-all: setup tmux  ## And what is slow: over-fitting, kill loops, long fuzzing
	$(CARGO_TEST)
	$(PYTEST) -m 'slow or not slow'

check: setup  ## Format, lint, types, stubs, import direction
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --profile bench --quiet -- --deny warnings
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy & types=$$!; MYPYPATH=python $(BIN)/python -m mypy.stubtest patchcore._core --concise; wait $$types
	$(BIN)/lint-imports

format:  ## Format everything
	cargo fmt --all
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

mutants: setup  ## Change the code that decides numbers in hundreds of ways: which changes does no test notice?
	$(UV) pip install --quiet --python $(BIN)/python coverage
	command -v cargo-mutants > /dev/null || cargo install --locked --quiet cargo-mutants
	PYTHONPATH=tests $(BIN)/python -m mutants

bench: setup  ## Peers side by side: answers compared, ratios printed
	$(BIN)/python -m benchmarks

# The dashboard is tested in a real terminal.
tmux:
	@command -v tmux > /dev/null || { \
	  echo "tmux is missing: installing it (dashboard tests run in a real terminal)"; \
	  if command -v apt-get > /dev/null && test "$$(id -u)" = 0; then \
	    apt-get update --quiet=2 && apt-get install --quiet=2 --yes tmux > /dev/null; \
	  elif command -v sudo > /dev/null && sudo -n true 2> /dev/null; then \
	    sudo apt-get update --quiet=2 && sudo apt-get install --quiet=2 --yes tmux > /dev/null; \
	  else echo "install tmux with your package manager and run this again" >&2; exit 2; fi; }

clean:  ## Remove what was built, not the download caches
	rm -rf $(VENV) .uv target demo .mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis
