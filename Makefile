# Set-up, the demo and the checks. `make` or `make help` prints the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
WORK ?= work
RECIPE ?= one_gpu
ARGS ?=
UV_VERSION := 0.13.8
BIN := $(VENV)/bin
UV := .uv/bin/uv
SITE ?=
VERBS := ingest pseudolabel cache-teacher pretrain export evidence report compare plan status run
HYPERVISION = $(BIN)/hypervision

# sam2 builds from source: no CUDA extension, and no opt-in statistics from ray.
export SAM2_BUILD_CUDA = 0
export RAY_USAGE_STATS_ENABLED = 0

.DEFAULT_GOAL := help

help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make VERB RECIPE=one_gpu ARGS='workdir=...'   VERB is one of: $(VERBS)"

setup: $(VENV)/.ready ## virtual environment with the locked dependencies (brings its own uv)

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; install Python 3.11 or newer, or name one: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.ready: requirements.lock pyproject.toml | $(UV)
	@test -d $(VENV) || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@$(UV) pip sync --python $(BIN)/python --require-hashes --compile-bytecode --build-constraints requirements.lock requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

lock: $(UV) ## resolve the dependencies anew into requirements.lock
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-emit-index-url --generate-hashes --quiet -o requirements.lock
	$(UV) pip compile pyproject.toml --extra bench --universal --python-version 3.11 --no-emit-index-url --generate-hashes --quiet -o requirements-bench.lock

demo: setup ## a small multi-sensor corpus, all stages, a table and report.png (about 5 minutes)
	@$(HYPERVISION) run demo workdir=$(WORK)/demo $(ARGS)

$(VERBS): setup
	@$(HYPERVISION) $@ $(RECIPE) $(ARGS)

submit: setup ## the stages of a recipe as a chain of Slurm jobs (RECIPE=cluster SITE=site.yaml ARGS='raw=/data ...')
	@$(HYPERVISION) submit $(RECIPE) $(ARGS) $(if $(SITE),--site $(SITE))

reproduce: setup ## from raw data to the comparison: demo, one_gpu here; one_node, cluster by Slurm where there is one
	@if [ -n "$(filter one_node cluster,$(RECIPE))" ] && command -v sbatch > /dev/null; then \
	  $(HYPERVISION) submit $(RECIPE) $(ARGS) $(if $(SITE),--site $(SITE)) --wait; \
	else $(HYPERVISION) run $(RECIPE) $(ARGS); fi

mlflow: setup ## MLflow's pages over the runs of a recipe, on loopback (RECIPE=demo)
	@$(HYPERVISION) mlflow $(RECIPE) $(ARGS)

docs: setup ## write docs/datasets.md anew from the catalog
	@$(HYPERVISION) datasets --markdown > docs/datasets.md

BENCH := .venv-bench
setup-bench: $(BENCH)/.ready ## an environment of its own with the libraries that the loader is compared with

$(BENCH)/.ready: requirements-bench.lock pyproject.toml | $(UV)
	@test -d $(BENCH) || $(UV) venv --quiet --python $(PYTHON) $(BENCH)
	@$(UV) pip sync --python $(BENCH)/bin/python --require-hashes --compile-bytecode --build-constraints requirements-bench.lock requirements-bench.lock
	@$(UV) pip install --quiet --python $(BENCH)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

bench-loader: setup-bench ## samples/s of the loader, its bounds and its peers, on one core (ARGS='--bands 31 --wanted 0')
	@$(BENCH)/bin/hypervision bench loader --folder $(WORK)/bench $(ARGS)

bench-learning: setup ## does pre-training teach something: every term alone and all, on fresh corpora (about an hour; ARGS='--rows contrast-alone --seeds 0')
	@$(HYPERVISION) bench learning --folder $(WORK)/learning $(ARGS)

lint: setup ## style, types, import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy hypervision sharding pseudolabel distill pretrain pipeline
	@$(BIN)/lint-imports

test: setup ## the test suite (CPU, under 15 minutes on 2 cores)
	@$(BIN)/python -m pytest -m "not slow and not gpu and not system" --numprocesses=2 --dist=loadscope tests

test-system: setup ## a real Slurm that starts here, MLflow's pages in a browser (apt-get install slurm-wlm chromium)
	@$(BIN)/python -m pytest -m system $(if $(REQUIRE),--require-programs) tests

test-slow: setup ## the long checks: evidence on fresh corpora, kills at random steps, thirty kills on any number of ranks
	@$(BIN)/python -m pytest -m slow tests

test-gpu: setup ## the checks that need a GPU; they skip with a reason where there is none
	@$(BIN)/python -m pytest -m gpu tests

clean: ## remove the environment and the demo's work folder
	rm -rf $(VENV) $(BENCH) .uv $(WORK)

.PHONY: help setup setup-bench bench-loader bench-learning lock demo submit reproduce mlflow docs $(VERBS) lint test
.PHONY: test-slow test-gpu test-system clean
