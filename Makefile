# `make simulation` and `make test` set up everything they need in .venv/ of this folder.
PYTHON ?= python3
ARGS ?=
PY = .venv/bin/python
PIP = $(PY) -m pip --disable-pip-version-check install --quiet

.PHONY: setup simulation test test-slow check lint format bench clean

simulation: setup
	$(PY) -m simulation $(ARGS)

test: setup
	$(PY) -m pytest -m "not slow" $(ARGS)

test-slow: setup
	$(PY) -m pytest -m slow $(ARGS)

check: lint test

lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: setup
	for script in bench/*.py; do $(PY) $$script || exit 1; done

setup: .venv/.ready

# torch first and alone: a dependency must never get to choose its build
.venv/.ready: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("fedmets needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "installing into .venv (about two minutes the first time)"
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt -e ".[dev,ray]"
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
