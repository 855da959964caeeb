# `make help` lists what there is. Each target makes .venv by itself.
PYTHON ?= python3
VENV := .venv
# Stages are started as `python -m stages.<name>`: this puts the environment's Python first.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo demo-shortcut test bench reliability repro summary record readme pr-report check format lock

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	"Python %d.%d found, 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..." % v[:2])'
	@echo "Installing the locked dependencies into $(VENV) (about 2 GB; some minutes)" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement requirements.lock
	@# The command cxr, which runs what stands in src.
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --editable .
	@# Beside the project, DVC would keep pickles in a folder that every user may write to.
	@$(VENV)/bin/dvc config --local core.site_cache_dir "$(CURDIR)/.dvc/tmp/site-cache"
	@touch $@

demo: $(VENV)/installed ## run the whole pipeline on generated radiographs, in demo/
	@PYTHONPATH=src python -m cxr.demo

demo-shortcut: $(VENV)/installed ## the same where a scanner gives the label away, in demo-shortcut/
	@PYTHONPATH=src python -m cxr.demo --shortcut

test: $(VENV)/installed ## run the tests
	@python -m pytest

bench: $(VENV)/installed ## measure speed and memory beside the notebook's way (almost two hours)
	@python -m benchmarks
	@python -m benchmarks.profiling

reliability: $(VENV)/installed ## kill, starve, repeat, fuzz and mutate: docs/reliability.md (an hour)
	@python -m reliability

repro: $(VENV)/installed ## run the pipeline on the data that params.yaml names
	@dvc repro

summary: $(VENV)/installed ## mean and spread over seeds of the experiments since the last commit
	@PYTHONPATH=src python -m cxr.experiments summary

record: $(VENV)/installed ## add experiments to docs/experiments.csv: make record EXP="name other"
	@set -f; PYTHONPATH=src python -m cxr.experiments record $$EXP

readme: $(VENV)/installed ## write the results into the tables of README.md
	@PYTHONPATH=src python -m cxr.readme

pr-report: $(VENV)/installed ## what this branch changes, as Markdown: make pr-report BASE=main
	@PYTHONPATH=src python -m cxr.pr_report --base="$${BASE:-main}"

check: $(VENV)/installed ## lint, format and types; workflows; vulnerabilities of dependencies
	@ruff check .
	@ruff format --check .
	@mypy
	@shellcheck .ci/run .github/*.sh
	@check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@zizmor --offline --quiet .github/workflows
	@python .ci/audit.py

format: $(VENV)/installed ## format the code
	@ruff check --fix-only --quiet .
	@ruff format .

lock: $(VENV)/installed ## resolve pyproject.toml anew into requirements.lock
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --upgrade --quiet --output-file requirements.lock
