# Needs Python 3.11 or newer and make. Everything is installed into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Processes that run the tests side by side; each needs about 3 GB.
WORKERS ?= 2

.PHONY: help demo test test-slow check format bench docs clean

help:
	@echo "make demo       install, then detect digits in images the shipped model has never seen"
	@echo "make test       install, then all checks and tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make check      format, lint, types and import rules only"
	@echo "make format     bring the code into the project's form"
	@echo "make bench      time this package beside its peer"
	@echo "make docs       build the documentation into site, without the network"
	@echo "make clean      remove .venv and everything made"

demo: .venv/installed
	$(BIN)/dabdetr demo

test: check
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: .venv/installed-dev
	$(BIN)/pytest -m slow

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/typos

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed-bench
	$(BIN)/python -m benchmarks

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv build dist site runs .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is older than pyproject.toml when something has to be installed again.

.venv/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: Python 3.11 or newer is needed; say which: make PYTHON=/path/to/python3'; exit 3; }
	"$(PYTHON)" -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --disable-pip-version-check -e '.[train,video]'
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --disable-pip-version-check -e '.[dev]'
	@touch .venv/installed $@

.venv/installed-bench: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --disable-pip-version-check -e '.[bench]'
	@touch .venv/installed $@

.venv/installed-docs: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --disable-pip-version-check -e '.[docs]'
	@touch .venv/installed $@
