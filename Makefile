# `make help` lists the targets. Each one creates .venv if needed.
PYTHON ?= python3
VENV := .venv
# TensorFlow for CPU or, with GPU=1, for NVIDIA GPUs; an environment for GPUs is kept until GPU=0.
GPU ?= $(if $(wildcard $(VENV)/gpu-installed),1,0)
SET := $(if $(filter 1,$(GPU)),gpu,runtime)
RUNTIME := $(VENV)/$(SET)-installed
DEVELOPMENT := $(VENV)/$(SET)-development-installed
UV := $(shell sed -n 's/^uv==\([0-9]*\.[0-9]*\)\..*/\1/p' requirements/uv.lock)
INSTALL := uv pip install --quiet --python $(VENV)/bin/python
AUDITED := runtime gpu development
RESOLVE := uv pip compile --universal --python-version 3.11 --upgrade \
	--generate-hashes --no-header --no-annotate --quiet
# Stages are started as `python -m stages.<name>`: this puts the environment's Python first.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# The number of workers and the order of the modules are in tests/conftest.py.
PYTEST := python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile \
	--no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo demo-shortcut test test-all bench reliability repro summary record readme \
	pr-report check results audit format lock

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# From an empty folder: `tensorflow` and `tensorflow-cpu` write the same files.
$(RUNTIME): requirements/$(SET).lock requirements/uv.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	"Python %d.%d found, 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..." % v[:2])'
	@echo "Installing requirements/$(SET).lock into $(VENV) ($(if $(filter gpu,$(SET)),7,2) GB)" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@case "$$(uv --version 2>/dev/null)" in "uv $(UV)."*) ;; *) \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
			--require-hashes --requirement requirements/uv.lock ;; esac
	@$(INSTALL) --require-hashes --requirement requirements/$(SET).lock
	@# The command cxr, which runs what is in src.
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@cp requirements/dvc_site_cache.pth $(VENV)/lib/python3.*/site-packages/
	@touch $@

$(DEVELOPMENT): $(RUNTIME) requirements/development.lock
	@echo "Adding requirements/development.lock, for tests and checks" >&2
	@$(INSTALL) --require-hashes --requirement requirements/development.lock
	@touch $@

demo: $(RUNTIME) ## run the whole pipeline on synthetic radiographs, in demo/
	@PYTHONPATH=src python -m cxr.tools.demo

demo-shortcut: $(RUNTIME) ## the same with a scanner that reveals the label, in demo-shortcut/
	@PYTHONPATH=src python -m cxr.tools.demo --shortcut

test: $(DEVELOPMENT) ## run the fast tests: no DVC, browser, server or long training (3 minutes)
	@$(PYTEST) -m "not slow"

test-all: $(DEVELOPMENT) ## run all tests (13 minutes)
	@$(PYTEST)

bench: $(DEVELOPMENT) ## compare speed and memory with the notebook (almost two hours)
	@python -m benchmarks
	@python -m benchmarks.profiling

reliability: $(DEVELOPMENT) ## kills, full disks, repeats, fuzzing, mutation testing (an hour)
	@python -m reliability

repro: $(RUNTIME) ## run the pipeline on the data that params.yaml names
	@dvc repro

summary: $(RUNTIME) ## mean and standard deviation over seeds of the last commit's experiments
	@PYTHONPATH=src python -m cxr.tools.experiments summary

record: $(RUNTIME) ## add experiments to docs/experiments.csv: make record EXP="name other"
	@set -f; PYTHONPATH=src python -m cxr.tools.experiments record $$EXP

readme: $(RUNTIME) ## write the result tables of README.md, docs/results.md and docs/use.md
	@PYTHONPATH=src python -m cxr.tools.readme

pr-report: $(RUNTIME) ## differences from a base branch, as Markdown: make pr-report BASE=main
	@PYTHONPATH=src python -m cxr.tools.pr_report --base="$${BASE:-main}"

check: $(DEVELOPMENT) ## lint, format, types, layers, workflows, dvc.lock, vulnerabilities
	@ruff check .
	@ruff format --check .
	@mypy
	@PYTHONPATH=src lint-imports --no-cache --no-logo > $(VENV)/layers || { cat $(VENV)/layers; exit 1; }
	@shellcheck .ci/run
	@check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@zizmor --offline --quiet .github/workflows
	@$(MAKE) --no-print-directory results audit

RESULTS := modified: +(metrics|plots|reports)/
results: $(RUNTIME) ## check that the committed results are of the committed code and parameters
	@status=$$(dvc status) && ! echo "$$status" | \
		grep -E '(modified|new|deleted): +(src|stages|docs)/|params.yaml:|changed command|$(RESULTS)' || \
		{ echo "These are not the results of this code: run \`dvc repro\`, commit dvc.lock" >&2; exit 1; }

# Accepted: CVE-2025-69872, of DVC's diskcache, unpickles its own files; they stay in the project.
# A vulnerability service that cannot be reached is reported, but is not a failure.
audit: $(DEVELOPMENT) ## look for known vulnerabilities in the locked dependencies
	@found=$$(pip-audit $(AUDITED:%=--requirement=requirements/%.lock) --require-hashes --disable-pip \
		--ignore-vuln CVE-2025-69872 --progress-spinner off --cache-dir $(VENV)/pip-audit 2>&1); \
	failed=$$?; case "$$found" in \
	*"Found "*" known vulnerabilit"*) echo "$$found" >&2; exit 1 ;; \
	*"not found on PyPI"* | *ConnectionError* | *ProxyError* | *SSLError* | *Timeout* \
		| *"Could not connect"*) echo "audit: skipped, as the package index has no vulnerability" \
		"service for all or some packages, or cannot be reached" >&2 ;; \
	*) [ $$failed = 0 ] || { echo "$$found" >&2; exit 1; } ;; esac

format: $(DEVELOPMENT) ## format the code
	@ruff check --fix-only --quiet .
	@ruff format .

lock: $(DEVELOPMENT) ## resolve pyproject.toml again into requirements/*.lock
	@$(RESOLVE) pyproject.toml --extra train --extra dev --output-file requirements/development.lock \
		--no-emit-package tensorflow --no-emit-package tensorflow-cpu
	@$(RESOLVE) pyproject.toml --extra train --extra serve \
		--constraint requirements/development.lock --output-file requirements/runtime.lock
	@$(RESOLVE) pyproject.toml --extra train-gpu --extra serve \
		--constraint requirements/development.lock --output-file requirements/gpu.lock
	@echo uv | $(RESOLVE) - --constraint requirements/development.lock \
		--output-file requirements/uv.lock
