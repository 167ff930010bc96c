# Works with Python >= 3.11, git and make; everything else goes into .venv.
# PYTHON=python3.12 chooses another interpreter (remove .venv first).

PYTHON ?= python3
TEST_PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin
SOURCES := hwsearch predictors search_spaces tests benchmarks examples
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help quickstart test lint format types dist docs clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

quickstart: $(VENV)/.installed-run ## install, train, search and export on the digits data
	$(BIN)/hwsearch run configs/quickstart.yaml

test: $(VENV)/.installed-dev ## install, then lint, types and the test suite
	$(MAKE) lint
	$(MAKE) types
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

format: $(VENV)/.installed-dev ## let ruff repair what it can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

types: $(VENV)/.installed-dev ## mypy --strict on the three packages
	$(BIN)/mypy

dist: $(VENV)/.installed-dev ## wheel and source archive in dist/
	rm -rf dist build
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

docs: $(VENV)/.installed-docs ## the documentation in site/
	$(BIN)/mkdocs build --strict

clean: ## remove what builds and caches left; keeps .venv and runs/
	rm -rf build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment: made once, again only when what it is made from changes -----------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "hwsearch needs Python 3.11 or later; name one with PYTHON=..., got: $$($(PYTHON) --version 2>&1)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing hwsearch into $(VENV) (a few minutes the first time) ..."
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing hwsearch and its development tools into $(VENV) (a few minutes the first time) ..."
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed-run

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[docs]'
	@touch $@
